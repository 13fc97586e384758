"""
Slow holders
============

With ``slow_after=SECONDS`` the middleware logs each client that is held for longer, once, with the
request, and with the place where its thread is at that moment.
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import threading
import weakref
from typing import Any, Callable

from .. import forks, interpreters
from ..client import checked_seconds
from ..pool import Pool

LOOKS = 4  # per slow_after

_of_pools: weakref.WeakKeyDictionary[Pool, dict[float, SlowHolders]] = weakref.WeakKeyDictionary()
logger: logging.Logger = logging.getLogger("mcpool_wsgi.middleware")


def slow_holders(pool: Pool, seconds: float) -> SlowHolders:
    """What logs the clients of *pool*. Middlewares with the same pool share it."""
    by_seconds = _of_pools.setdefault(pool, {})
    return by_seconds.setdefault(seconds, SlowHolders(pool, seconds))


class SlowHolders:
    """Logs the clients of *pool* that are held for longer than *seconds*.

    Each process has a thread for it, which starts with the first request.
    """

    def __init__(self, pool: Pool, seconds: float) -> None:
        self._find_pool = weakref.ref(pool)
        self._seconds = checked_seconds("slow_after", seconds)
        self._process: forks.Process | None = None
        self._stop: threading.Event | None = None  # of the latest thread: the others end
        self._thread: int | None = None  # its ident
        interpreters.at_end(self._end)

    def watching(self, reserve: Callable[[], Any]) -> Callable[[], Any]:
        """A function that reserves as *reserve* does, and is watched."""

        def watched() -> Any:
            self._watch()
            return reserve()

        return watched

    def _watch(self) -> None:
        """Start the thread, if this process has none."""
        forks.check_process()
        if self._process is not forks.current:
            self._stop = stop = threading.Event()
            # Not a threading.Thread: with gevent it is a greenlet, in which a signal handler may
            # run. Its exception must reach the program, and a Thread would end with it.
            with contextlib.suppress(RuntimeError):  # no thread can be started
                _thread.start_new_thread(self._run, (stop,))
            # Last: after an interrupt, the next request starts another thread.
            self._process = forks.current

    def _end(self) -> None:
        """End the thread, and wait for that."""
        stop, self._stop = self._stop, None
        if stop is not None and self._process is forks.current:
            stop.set()
            interpreters.wait_for_thread(self._thread)

    def _run(self, stop: threading.Event) -> None:
        self._thread = threading.get_ident()
        logged: set[float] = set()
        while stop is self._stop:
            if stop.wait(self._seconds / LOOKS):
                return
            pool = self._find_pool()
            if pool is None:
                return
            slow = pool.holders(longer_than=self._seconds)
            logged, before = {holder.reserved_at for holder in slow}, logged
            for holder in slow:
                if holder.reserved_at not in before:
                    with contextlib.suppress(Exception):  # of a log handler: the thread goes on
                        logger.warning("%s: a client is held for %s", pool.name, holder)
            del pool
