"""An app that uses the cache before its server forks. The parent continues to use it.

``/-/read`` reads values and counts how many were right. ``/-/parent`` gives the counts of the
process that imported this module.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import struct
import sys
import threading
from collections.abc import Iterable
from typing import Any

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware

KEYS = 200
READS = 50  # per request

pool = ClientPool(Client([os.environ["TEST_MEMCACHED"]]), 4)
counts = struct.Struct("@QQ")
shared = mmap.mmap(-1, mmap.PAGESIZE)  # children see the counts of the parent


def read(mc: Any, times: int) -> tuple[int, int]:
    """The number of right values and the number of wrong ones."""
    right = wrong = 0
    for key in random.choices(range(KEYS), k=times):
        try:
            good = mc.get(f"key{key}") == f"value{key}"
        except Exception as error:
            print(f"process {os.getpid()}: {error!r}", file=sys.stderr)
            good = False
        right, wrong = right + good, wrong + (not good)
    return right, wrong


def read_forever() -> None:
    while True:
        with pool.reserve() as mc:
            right, wrong = counts.unpack_from(shared)
            more_right, more_wrong = read(mc, READS)
            counts.pack_into(shared, 0, right + more_right, wrong + more_wrong)


with pool.reserve() as first, pool.reserve() as second:
    for key in range(KEYS):
        first.set(f"key{key}", f"value{key}")
    read(second, READS)
    counts.pack_into(shared, 0, *read(first, READS))

parent = os.getpid()
if os.environ.get("TEST_PARENT_READS"):
    threading.Thread(target=read_forever, daemon=True).start()


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/-/parent":
        right, wrong = counts.unpack_from(shared)
    else:
        right, wrong = read(environ["mc.client"], READS)
    body = json.dumps({"pid": os.getpid(), "right": right, "wrong": wrong, "parent": parent})
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body.encode()]


application = MemcachedPoolMiddleware(app, pool)
