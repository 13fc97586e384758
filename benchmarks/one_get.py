"""
One get
=======

``get`` of a value of 100 bytes, over TCP on the loopback interface, from a real
memcached. Client and server are pinned to one core: which cores they happen to
run on changes the time threefold, and a client by some percent. All clients have this
package's options, but for cachelib's, which has pylibmc's and takes none.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pylibmc
from cachelib import MemcachedCache
from measure import Figures, Track, interleaved, timer

from mcpool_wsgi import Client, ClientPool
from mcpool_wsgi.behaviors import DEFAULT_BEHAVIORS
from mcpool_wsgi.devserver import memcached

PLAIN = "pylibmc.Client"
OURS = "mcpool_wsgi.Client"
KEY, VALUE = "key", b"v" * 100
SLOTS = 12


def run(quick: bool, track: Track) -> Figures:
    """Nanoseconds for one get, by client."""
    with one_core(), memcached(embedded=False) as server:
        plain = pylibmc.Client([server.address], behaviors=dict(DEFAULT_BEHAVIORS))
        ours = Client([server.address])
        cache = MemcachedCache([server.address], pool_size=SLOTS)
        plain.set(KEY, VALUE)
        get = "client.get('key')"
        timers = {
            PLAIN: timer(get, client=plain),
            OURS: timer(get, client=ours),
            f"{OURS} from a ClientPool": timer(
                "with pool.reserve() as mc: mc.get('key')", pool=ClientPool(ours, SLOTS)
            ),
            f"{PLAIN} from a pylibmc.ClientPool": timer(
                "with pool.reserve(block=True) as mc: mc.get('key')",
                pool=pylibmc.ClientPool(plain, SLOTS),
            ),
            "cachelib MemcachedCache": timer(get, client=cache),
        }
        return interleaved(timers, track("get of 100 bytes", 200 if quick else 1000))


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread, and the processes that it starts, on one core, where that can be done."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})  # the first core has most of the interrupts
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
