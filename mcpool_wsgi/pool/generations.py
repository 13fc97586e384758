"""
Generations
===========

What the clients of a pool are made from, and when they are made anew.

The clients of one :class:`~mcpool_wsgi.pool.slots.Generation` are clones of one master. If
the connection of one fails, memcached has probably been restarted, and the other
connections are dead as well. So a new generation begins: each slot gets a fresh clone when
it is next reserved. That happens at most once per ``renewal_interval``, because a fresh clone
does not know that one of several servers is down. Its first command waits for the time limit
again. If all of several servers have failed, it happens once more
(:mod:`mcpool_wsgi.pool.outages`). A single server that hangs is known to fresh clones, too
(:mod:`mcpool_wsgi.client.circuit_breaker`).
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
from time import monotonic
from typing import Any

from .. import forks
from ..client import Client, Listener, discard, opened_here
from .outages import Outages
from .slots import NO_GENERATION, Generation, Slot
from .statistics import Statistics

logger: logging.Logger = logging.getLogger("mcpool_wsgi.pool")


def _references_of_a_name() -> int:
    """What getrefcount() counts for an object that only one name has. It depends on the Python."""
    name = object()
    return sys.getrefcount(name)


ONLY_HERE: int = _references_of_a_name()


class Generations:
    """Makes the clients of one pool.

    :param master: the client to clone.
    :param listeners: those of all clients' commands.
    """

    def __init__(
        self, master: Any, statistics: Statistics, outages: Outages, listeners: list[Listener]
    ) -> None:
        self.current: Generation = Generation(master, "")
        # Kept: otherwise the request that renews the last of its clones would free it, and its
        # finaliser would swallow an interrupt.
        self._master_before: Any = None
        self._statistics = statistics
        self._outages = outages
        self._listeners = listeners
        # Reentrant, for signal handlers that use the pool.
        self._lock = threading.RLock()

    def begin(self, master: Any, reason: str) -> None:
        """Begin a new generation: every slot gets a new client when it is next reserved."""
        with self._lock:
            # In this order: an interrupt between the two must leave a generation that is current.
            before, self.current = self.current, Generation(master, reason)
            before.current = False
            if master is not before.master:  # a renewal may come in a request
                freed, self._master_before = self._master_before, before.master
                if sys.getrefcount(freed) == ONLY_HERE:
                    discard(freed)

    def renew(self, reason: str) -> None:
        """Begin a new generation of the same master."""
        with self._lock:  # begin() could be called with a master that is no longer the pool's
            self.begin(self.current.master, reason)

    def fill(self, slot: Slot) -> None:
        """Give *slot* a client of the current generation. ``clone()`` opens no connection."""
        generation = self.current
        client = generation.master.clone()
        if isinstance(client, Client):
            client._on_failure = functools.partial(self._client_failed, generation)
            client._listeners = self._listeners
            self._outages.breaker.guard(client)
        else:
            opened_here.add(client)
        is_renewed = slot.generation is not NO_GENERATION
        discard(slot.client)
        slot.process, slot.client, slot.generation = forks.current, client, generation
        self._statistics.note_client(generation.reason if is_renewed else None)

    def _renew_after_failure(self) -> None:
        self.renew("failure")

    def _client_failed(self, generation: Generation, error: Exception) -> None:
        """A client of *generation* could not reach its server."""
        self._statistics.note_failure()
        self._outages.note_failure(generation.master, error, self._renew_after_failure)
        with self._lock:
            age = monotonic() - generation.born
            is_over = generation is self.current and age >= generation.master.renewal_interval
            if generation is not self.current:
                generation.current = False  # an interrupt may have come before that was done
            if is_over:
                self.begin(generation.master, "failure")
        if is_over:
            logger.debug("renewing all clients of %r", generation.master)
