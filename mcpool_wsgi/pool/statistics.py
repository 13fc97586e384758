"""
Statistics
==========

What ``pool.stats()`` returns, and the counts that it is made from.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

QUIET = 10.0  # seconds without a time-out, after which the next one is a first one again
#: The keys of :attr:`PoolStats.wait_times`, in seconds: those that OpenTelemetry recommends.
WAIT_TIMES: tuple[float, ...] = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, math.inf)


@dataclass(frozen=True)
class PoolStats:
    """A pool at one moment, and what has happened since it was made or the process forked.

    Exact while nobody reserves or releases.
    """

    #: The most clients that there may be at the same time; None where there is no limit.
    slots: int | None
    #: Clients that there are.
    size: int
    #: Clients that nobody has reserved.
    idle: int
    #: Clients that are reserved.
    in_use: int
    #: Threads that wait for a client.
    waiting: int
    #: Reservations that got a client.
    reservations: int
    #: Reservations that had to wait for one, those that timed out included.
    waits: int
    #: Seconds that all of them waited together.
    seconds_waited: float
    #: Seconds that the longest of them waited.
    longest_wait: float
    #: The same, of those that ended in the last minute. It forgets between one and two minutes.
    longest_recent_wait: float
    #: How many of them waited for so many seconds at most, and longer than the number before.
    wait_times: Mapping[float, int]
    #: Reservations that ended in a :exc:`~mcpool_wsgi.PoolTimeout`.
    timeouts: int
    #: Commands that a memcached could not do, with ``fail_soft`` as well. Another server may have
    #: done them then.
    failures: int
    #: Clients that were made, as replacements or as the first of their slot. One that a
    #: reservation got for behaviors of its own is not counted.
    clients_made: int
    #: How many of them replaced another, by reason: ``failure`` of its generation, other
    #: ``servers``, another master from ``fill``, or ``disconnect`` by ``disconnect_all()``.
    clients_renewed: Mapping[str, int]


class RecentMaximum:
    """The largest of the values noted in the last minute or two."""

    WINDOW = 60.0  # seconds

    def __init__(self) -> None:
        self._window = 0
        self._now = self._before = 0.0

    def note(self, value: float) -> None:
        self._move()
        self._now = max(self._now, value)

    def value(self) -> float:
        self._move()
        return max(self._now, self._before)

    def _move(self) -> None:
        window = int(monotonic() / self.WINDOW)
        if window != self._window:
            self._before = self._now if window == self._window + 1 else 0.0
            self._window, self._now = window, 0.0


class Statistics:
    """The counts of one pool."""

    def __init__(self) -> None:
        #: The reservations of slots that are gone. A finaliser may append here at any moment.
        self.ended: deque[float] = deque()
        # Reentrant, for signal handlers that use the pool. Nothing is logged while it is held: a
        # thread that holds a lock of logging's may run a finaliser that wants this one.
        self._lock = threading.RLock()
        self._ended_reservations = 0.0
        self._failures = 0
        self._waits = 0
        self._timeouts = 0
        self._last_timeout = -math.inf
        self._seconds_waited = 0.0
        self._longest_wait = 0.0
        self._recent_waits = RecentMaximum()
        self._wait_times = [0] * len(WAIT_TIMES)
        self._clients_made = 0
        self._clients_renewed: Counter[str] = Counter()

    def note_client(self, replaced_because: str | None) -> None:
        """A client was made, perhaps in the place of another one."""
        with self._lock:
            self._add_up()
            self._clients_made += 1
            if replaced_because is not None:
                self._clients_renewed[replaced_because] += 1

    def note_failure(self) -> None:
        """A command failed."""
        with self._lock:
            self._failures += 1

    def note_wait(self, seconds: float, timed_out: bool) -> bool:
        """Note a wait. Return whether it is the first time-out after a quiet time."""
        with self._lock:
            self._waits += 1
            self._seconds_waited += seconds
            self._longest_wait = max(self._longest_wait, seconds)
            self._recent_waits.note(seconds)
            self._wait_times[bisect_left(WAIT_TIMES, seconds)] += 1
            if not timed_out:
                return False
            self._timeouts += 1
            now = monotonic()
            is_first = now - self._last_timeout >= QUIET
            self._last_timeout = now
            return is_first

    def _add_up(self) -> None:
        while self.ended:
            self._ended_reservations += self.ended.popleft()

    def counts(self, reservations: Iterable[float]) -> dict[str, Any]:
        """The counts in :class:`PoolStats`.

        :param reservations: those of the slots that there are.
        """
        with self._lock:
            self._add_up()
            return {
                "reservations": int(self._ended_reservations + sum(reservations)),
                "waits": self._waits,
                "seconds_waited": self._seconds_waited,
                "longest_wait": self._longest_wait,
                "longest_recent_wait": self._recent_waits.value(),
                "wait_times": dict(zip(WAIT_TIMES, self._wait_times)),
                "timeouts": self._timeouts,
                "failures": self._failures,
                "clients_made": self._clients_made,
                "clients_renewed": dict(self._clients_renewed),
            }
