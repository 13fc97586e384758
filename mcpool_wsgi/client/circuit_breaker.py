"""
Circuit breaker
===============

What the clients of a pool tell each other if their server hangs. Otherwise each client would find
that out for itself, and wait until its time is over. With gevent these waits add up, because no
other greenlet runs meanwhile.

-   If two commands in a row are not answered in time, the breaker opens. For some time, the
    commands of all clients fail at once, and nothing is sent.
-   Then it is half-open: one client tries the server, and the others still fail at once.
-   An answer closes it.

One command without an answer is not enough: a packet may have been lost. A connection that is
refused or lost does not count, because no client waits for it.

The idea and its words are from Michael Nygard's book "Release It!".
"""

from __future__ import annotations

from time import monotonic
from typing import Protocol

from .. import forks
from .failures import ServerResting

ENOUGH = 2  # commands in a row that were not answered in time


class Guarded(Protocol):
    """A client that asks its breaker before it connects."""

    _breaker: CircuitBreaker | None
    #: It makes the client connect anew at its next command.
    _out_of_sync: bool


class CircuitBreaker:
    """One for all clients of a pool. The pool holds a lock while it notes something."""

    def __init__(self) -> None:
        self._clients = forks.WeakList()
        self._timeouts = 0  # in a row
        self._open_until = 0.0  # in monotonic() time
        self._seconds = 0.0  # how long it is open
        self._because = ""

    def guard(self, client: Guarded) -> None:
        """Let *client* ask this. It is held weakly."""
        client._breaker = self
        self._clients.add(client)
        if self._timeouts >= ENOUGH:
            client._out_of_sync = True

    def check(self) -> None:
        """:raises ServerResting: it is open, or another client tries the server."""
        now = monotonic()
        if now < self._open_until:
            raise ServerResting(self._because)
        if self._timeouts >= ENOUGH:  # two threads at once may both try: this does no harm
            self._open_until = now + self._seconds  # for the others, until there is an answer

    def note_timeout(self, servers: str, seconds: float) -> None:
        """A command to *servers* was not answered in time.

        :param seconds: how long it is open.
        """
        self._timeouts += 1
        if self._timeouts < ENOUGH:
            return
        self._because = f"{servers} did not answer in time, less than {seconds:g} s ago"
        self._seconds = seconds
        self._open_until = monotonic() + seconds
        for reference in self._clients.references():
            client: Guarded | None = reference()
            if client is not None:
                client._out_of_sync = True

    def note_answer(self) -> None:
        """A command was answered."""
        self._timeouts = 0
        self._open_until = 0.0
