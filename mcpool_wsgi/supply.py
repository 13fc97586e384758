"""
Supply
======

What a pool's clients are made from, when they are made anew, and the counts
that are kept of it.

Clients of one :class:`Generation` are clones of one master. When the connection
of one fails, its memcached has probably been restarted and the others' are dead
as well, so the whole generation is replaced: each client by a fresh clone when it
is next reserved. That happens at most once per retry interval, because a fresh
clone knows nothing of libmemcached's fast failure: it would wait for a server
that is down in its full length, again and again.
"""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections import Counter, deque
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any

from . import forks
from .client import Client
from .slots import NO_GENERATION, Generation, Slot

logger: logging.Logger = logging.getLogger(__name__)


class Burst:
    """Tells the first of many events from those that follow it, so that one line is logged."""

    QUIET = 10.0  # seconds without one, after which the next is a first one again

    def __init__(self) -> None:
        self._last = float("-inf")

    def begins(self) -> bool:
        now = monotonic()
        first = now - self._last >= self.QUIET
        self._last = now
        return first


class Supply:
    """Makes clients for slots."""

    def __init__(self, master: Any = None) -> None:
        self.generation: Generation = Generation(master, "")
        self.closed: bool = False
        self.slots: set[weakref.ref[Slot]] = set()
        self.ended: deque[float] = deque()  # the reservations of slots that are no more
        self._reservations = 0.0  # of those that have been added up
        # For what happens seldom. Reentrant, for signal handlers that use the pool.
        self.lock: AbstractContextManager[Any] = threading.RLock()
        self._failures = 0
        self._failure_burst = Burst()
        self._timeout_burst = Burst()
        self._waits = 0
        self._timeouts = 0
        self._seconds_waited = 0.0
        self._longest_wait = 0.0
        self._clients_made = 0
        self._clients_renewed: Counter[str] = Counter()

    # -- Clients

    def fill(self, slot: Slot) -> None:
        """Give *slot* a client of the current generation. ``clone()`` opens no connection."""
        generation = self.generation
        client = generation.master.clone()
        if isinstance(client, Client):
            client.on_connection_failure = functools.partial(self.connection_failed, generation)
        renewed = slot.generation is not NO_GENERATION
        slot.process = forks.current
        slot.client = client
        slot.generation = generation
        with self.lock:
            self._add_up()
            self._clients_made += 1
            if renewed:
                self._clients_renewed[generation.reason] += 1

    def renew(self, master: Any, reason: str) -> None:
        """Begin a new generation: every client is replaced when it is next reserved."""
        with self.lock:
            self.generation.current = False
            self.generation = Generation(master, reason)

    def connection_failed(self, generation: Generation) -> None:
        """A client of *generation* could not reach its server."""
        with self.lock:
            self._failures += 1
            if self._failure_burst.begins():
                logger.warning("cannot reach memcached: %r", generation.master)
            age = monotonic() - generation.born
            if generation is self.generation and age >= generation.renewal_interval:
                self.renew(generation.master, "failure")
                logger.info("renewing all clients of %r", generation.master)

    def enter(self, slot: Slot) -> Slot:
        """Count *slot* as one of the pool's, for as long as it lives."""
        self.slots.add(weakref.ref(slot, self.slots.discard))
        return slot

    # -- Counts

    def _add_up(self) -> None:
        while self.ended:
            self._reservations += self.ended.popleft()

    def note_wait(self, seconds: float, timed_out: bool) -> None:
        with self.lock:
            self._waits += 1
            if timed_out:
                self._timeouts += 1
                if self._timeout_burst.begins():
                    logger.warning("no client came free; waited %.3g s", seconds)
            self._seconds_waited += seconds
            self._longest_wait = max(self._longest_wait, seconds)

    def counts(self) -> dict[str, Any]:
        """The counters of :class:`~mcpool_wsgi.PoolStats`."""
        with self.lock:
            slots = [reference() for reference in self.slots.copy()]
            self._add_up()
            return {
                "reservations": int(
                    self._reservations
                    + sum(slot.reservations for slot in slots if slot is not None)
                ),
                "waits": self._waits,
                "seconds_waited": self._seconds_waited,
                "longest_wait": self._longest_wait,
                "timeouts": self._timeouts,
                "failures": self._failures,
                "clients_made": self._clients_made,
                "clients_renewed": dict(self._clients_renewed),
            }
