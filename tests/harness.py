"""Waiting with a deadline, threads whose errors are not lost, connections counted."""

from __future__ import annotations

import threading
import time
from typing import Callable

from mcpool_wsgi import Client

DEADLINE = 10.0  # seconds after which a test gives up waiting for a condition


def eventually(condition: Callable[[], object], what: str = "") -> None:
    """Wait until *condition* holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what or condition}"
        time.sleep(0.002)


class Connections:
    """Counts the connections that a memcached has besides this one."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.mc = Client([address])
        self._own = 0
        self._own = self.count()

    def count(self) -> int:
        ((_, stats),) = self.mc.get_stats()
        return int(stats["curr_connections"]) - self._own


def in_thread(work: Callable[[], object]) -> None:
    """Do *work* in a thread of its own; what it raises is raised here."""
    in_threads([work])


def in_threads(works: list[Callable[[], object]]) -> None:
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
