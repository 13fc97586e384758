"""
Recorder
========

Counts the commands of one pool. It is a listener of the pool, so it must be quick.
"""

from __future__ import annotations

import math
import threading
from _thread import get_ident
from bisect import bisect_left
from operator import add
from types import BuiltinFunctionType
from typing import Callable, NamedTuple

from .. import forks
from ..client import CommandEvent

#: The upper bounds of the buckets of commands, in seconds. OpenTelemetry's begin at a
#: millisecond, which is longer than most commands of memcached.
BOUNDS: tuple[float, ...] = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, math.inf),
)


# Where the sums are in a row. The counts of the buckets come before them.
SECONDS, HITS, MISSES = range(-3, 0)

# With gevent and eventlet, get_ident() is the greenlet's. Each new greenlet would get new rows.
_thread_id: Callable[[], int] = (
    get_ident if isinstance(get_ident, BuiltinFunctionType) else threading.get_native_id
)


class Commands(NamedTuple):
    """The commands of one pool in this process."""

    #: By command and class of the error, or ``""``: how many ended within each of
    #: :data:`BOUNDS`, and not within the one before, and then the three sums.
    rows: dict[tuple[str, str], list[float]]
    #: Whether memcached could do the last one. None if there was none.
    up: bool | None

    @property
    def number(self) -> float:
        return sum(sum(row[:SECONDS]) for row in self.rows.values())


class Recorder:
    """Counts in :meth:`note`, which is the listener.

    :param on_first: called at the first command of each name in each thread, and at errors.
    """

    def __init__(self, on_first: Callable[[], object]) -> None:
        self._on_first = on_first
        self._reset_in_child()
        forks.reset_in_child(self)

    def _reset_in_child(self) -> None:
        # By thread: each adds to rows of its own, so no command waits for a lock. A new thread may
        # have the number of one that has ended, and goes on with its rows.
        self._rows: dict[int, dict[str, list[float]]] = {}
        self._up: bool | None = None
        # Reentrant, for signal handlers that use the pool.
        self._lock = threading.RLock()
        self._highest: dict[str, int] = {}

    def note(self, event: CommandEvent) -> None:
        """A command has ended."""
        command = event.command
        is_error = event.error is not None and event.outcome != "miss"
        if is_error:
            self._on_first()
            command = f"{command} {type(event.error).__name__}"
        try:
            row = self._rows[_thread_id()][command]
        except KeyError:
            row = self._new_row(command)
        seconds = event.seconds
        row[bisect_left(BOUNDS, seconds)] += 1
        row[SECONDS] += seconds
        row[HITS] += event.hits
        row[MISSES] += event.misses
        if not is_error:
            self._up = True
        elif event.outcome == "failure":  # after another error, it may not have been sent
            self._up = False

    def _new_row(self, command: str) -> list[float]:
        self._on_first()
        rows = self._rows.setdefault(_thread_id(), {})
        return rows.setdefault(command, [0.0] * (len(BOUNDS) + 3))

    def commands(self) -> Commands:
        """A copy of what has been counted."""
        sums: dict[tuple[str, str], list[float]] = {}
        for rows in list(self._rows.values()):
            for key, row in list(rows.items()):
                command, _, error = key.partition(" ")
                before = sums.get((command, error), [0.0] * len(row))
                sums[command, error] = list(map(add, before, row.copy()))
        return Commands(sums, self._up)

    def rising(self, name: str, count: int) -> int:
        """The largest *count* so far under this *name*.

        If other threads change the parts of a sum while it is added up, it may be too low for a
        moment. Prometheus takes a lower count for a restart, and counts all of it once more.
        """
        with self._lock:
            self._highest[name] = count = max(count, self._highest.get(name, 0))
        return count
