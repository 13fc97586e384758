"""
Recorder
========

Counts the commands of one pool. It is a listener of the pool, so it must be quick.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
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

    :param on_first: called at the first command of each name in each process, and at errors.
    """

    def __init__(self, on_first: Callable[[], object]) -> None:
        self._on_first = on_first
        self._reset_in_child()
        forks.reset_in_child(self)

    def _reset_in_child(self) -> None:
        # Reentrant, for signal handlers that use the pool.
        self._lock = threading.RLock()
        self._rows: dict[str, list[float]] = {}
        self._error_rows: dict[tuple[str, str], list[float]] = {}
        self._up: bool | None = None
        self._highest: dict[str, int] = {}

    def note(self, event: CommandEvent) -> None:
        """A command has ended."""
        row = self._rows.get(event.command)
        if row is None or event.error is not None:
            self._note_rare(event)
            return
        seconds = event.seconds
        with self._lock:
            row[bisect_left(BOUNDS, seconds)] += 1
            row[SECONDS] += seconds
            row[HITS] += event.hits
            row[MISSES] += event.misses
            self._up = True

    def _note_rare(self, event: CommandEvent) -> None:
        if event.command == "disconnect_all":
            return  # nothing is sent
        self._on_first()  # not while the lock is held: that may want a lock of its own
        with self._lock:
            if event.error is None or event.outcome == "miss":
                row = self._rows.setdefault(event.command, _new_row())
            else:
                key = event.command, type(event.error).__name__
                row = self._error_rows.setdefault(key, _new_row())
            row[bisect_left(BOUNDS, event.seconds)] += 1
            row[SECONDS] += event.seconds
            row[HITS] += event.hits
            row[MISSES] += event.misses
            if event.outcome != "error":  # that one may not have been sent
                self._up = event.outcome != "failure"

    def commands(self) -> Commands:
        """A copy of what has been counted."""
        with self._lock:
            rows = {(command, ""): row.copy() for command, row in self._rows.items()}
            rows.update((key, row.copy()) for key, row in self._error_rows.items())
            return Commands(rows, self._up)

    def rising(self, name: str, count: int) -> int:
        """The largest *count* so far under this *name*.

        If other threads change the parts of a sum while it is added up, it may be too low for a
        moment. Prometheus takes a lower count for a restart, and counts all of it once more.
        """
        with self._lock:
            self._highest[name] = count = max(count, self._highest.get(name, 0))
        return count


def _new_row() -> list[float]:
    return [0.0] * (len(BOUNDS) + 3)
