"""
Status page: history
====================

What the clients of one pool did in the last five minutes, in steps of five seconds.

The pool tells of each command. Waits come from the statistics of the pool, which are read at the
first command of each step, and whenever somebody looks. Waits since the last reading are spread
evenly over the time since then.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from dataclasses import dataclass, fields
from time import monotonic
from typing import Any

from .. import forks
from ..client import CommandEvent
from ..pool import Pool

STEP = 5.0  # seconds
STEPS = 60
MINUTE = 12  # steps


@dataclass
class Counts:
    """What happened in some time."""

    commands: int = 0
    #: Commands that memcached could not do.
    failures: int = 0
    #: Commands that asked for something wrong.
    errors: int = 0
    #: Keys that reads have found, and not found.
    hits: int = 0
    misses: int = 0
    #: How long all commands took together.
    seconds: float = 0.0
    #: Reservations that waited for a slot.
    waits: int = 0
    #: Those of them that timed out.
    timeouts: int = 0


NAMES = [field.name for field in fields(Counts)]


class History:
    """The last minutes of *pool*, in this process."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        stats = pool.stats()
        self._begin(stats.waits, stats.timeouts)
        forks.reset_in_child(self)
        # The pool does not keep this alive: the page may be a part of a circle with the pool.
        find_self = weakref.ref(self, lambda _: stop())

        def note(event: CommandEvent) -> None:
            history = find_self()
            if history is not None:
                history.note(event)

        stop = pool.observe(note)

    def _begin(self, waits: int, timeouts: int) -> None:
        # Reentrant, for signal handlers that use the pool.
        self._lock = threading.RLock()
        self._began = self._sampled = monotonic()
        self._ends = self._began + STEP  # the running step
        self._steps = deque([Counts()], maxlen=STEPS)
        # At the last sample: the waits that ended with a slot, and the others.
        self._served, self._timeouts = waits - timeouts, timeouts

    def _reset_in_child(self) -> None:
        self._begin(0, 0)  # as the statistics of the pool

    def note(self, event: CommandEvent) -> None:
        """Count a command."""
        with self._lock:
            is_new = monotonic() >= self._ends
            if is_new:
                self._move()
            step = self._steps[-1]
            step.commands += 1
            step.hits += event.hits
            step.misses += event.misses
            step.seconds += event.seconds
            if event.error is not None:
                step.failures += event.outcome == "failure"
                step.errors += event.outcome == "error"
        if is_new:
            self._sample()

    def _move(self) -> None:
        """Begin the steps that have come since."""
        now = monotonic()
        self._ends = max(self._ends, now - STEPS * STEP)
        while self._ends <= now:
            self._ends += STEP
            self._steps.append(Counts())

    def _sample(self) -> None:
        """Read how many reservations have waited."""
        stats = self._pool.stats()  # not while the lock is held: it has a lock of its own
        with self._lock:
            now = monotonic()
            self._move()
            served = stats.waits - stats.timeouts
            self._spread(served - self._served, now, "waits")
            self._spread(stats.timeouts - self._timeouts, now, "waits", "timeouts")
            # Another thread may have read later, and been here first.
            self._served = max(self._served, served)
            self._timeouts = max(self._timeouts, stats.timeouts)
            self._sampled = now

    def _spread(self, number: int, now: float, *names: str) -> None:
        """Add *number* to the steps since the last sample, in proportion to their time.

        :param names: the counts that it is added to.
        """
        if number <= 0:
            return
        length = max(now - self._sampled, 1e-6)
        end = self._ends - STEP * len(self._steps)
        done = max(0, round(number * (end - self._sampled) / length))  # before the oldest step
        for step in self._steps:
            end = min(end + STEP, now)
            due = max(done, round(number * (end - self._sampled) / length))
            for name in names:
                setattr(step, name, getattr(step, name) + due - done)
            done = due

    def look(self) -> dict[str, Any]:
        """The steps, the oldest first, the sums over the last minute and over all steps, and the
        commands per second of the last seconds."""
        self._sample()
        with self._lock:
            steps = [Counts(**vars(step)) for step in self._steps]
            current = STEP - (self._ends - monotonic())
        last = steps[-2:]
        seconds = current + STEP * (len(last) - 1)
        return {
            "step_seconds": STEP,
            "steps": {name: [round(getattr(step, name), 6) for step in steps] for name in NAMES},
            "last_minute": _sums(steps[-MINUTE:]),
            "total": _sums(steps),
            "commands_per_second": sum(step.commands for step in last) / max(seconds, 1.0),
        }


def _sums(steps: list[Counts]) -> dict[str, Any]:
    sums = {name: sum(getattr(step, name) for step in steps) for name in NAMES}
    return {**sums, "hit_rate": hit_rate(sums["hits"], sums["misses"])}


def hit_rate(hits: int, misses: int) -> float | None:
    """From 0 to 1. None if there was no read."""
    return hits / (hits + misses) if hits + misses else None
