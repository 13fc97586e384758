"""
Outages
=======

When memcached fails and when it answers again, as two lines of the log. There is no line in
between, however many commands fail.

An outage of a single server ends with the first command that succeeds. If a client has several
servers, the others go on answering. So the outage ends when no command has failed for longer than
the time after which libmemcached tries a server again. An outage that begins again within ten
seconds is the same one: it ends when nothing has failed for ten seconds. Its begin is logged again
only if a command fails after these ten seconds. Otherwise the last line would say that memcached
answers.

If all of several servers have failed, each client leaves most of them out for ten seconds more. It
goes on with the server that it finds first, which is another one for each client. So they would
look for a key at different servers. For this reason all clients are renewed at the first answer.
All have failed if keys of each server have failed and nothing was answered meanwhile. The number
of failures does not tell: if one server hangs, all threads may wait for it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from time import monotonic
from typing import Any, Callable

from ..client import (
    CircuitBreaker,
    Client,
    CommandEvent,
    Listener,
    ServerResting,
    is_timeout,
    without_key,
)

logger: logging.Logger = logging.getLogger("mcpool_wsgi.pool")

SAME_OUTAGE = 10.0  # seconds
SILENCE_OF_ALL = 0.1  # seconds without an answer, if all of several servers have failed


class Outages:
    """The outages that the clients of one pool notice.

    :param name: of the pool.
    :param listeners: those of the pool's commands. While there is an outage, this is one of them.
    """

    def __init__(self, name: str, listeners: list[Listener]) -> None:
        self.breaker: CircuitBreaker = CircuitBreaker()
        self._name = name
        self._listeners = listeners
        # Reentrant, for signal handlers that use the pool.
        self._lock = threading.RLock()
        self._began: float | None = None  # while there is an outage
        self._is_logged = False  # its begin
        self._servers = ""
        self._failures = 0
        self._silent: set[int] = set()  # the servers that have failed since the last answer
        self._last_answer = 0.0  # or the begin of the outage
        # If there are several servers. Weak, so that a dropped pool is freed at once.
        self._find_master: Callable[[], Any] = _nothing
        self._find_renew: Callable[[], Callable[[], None] | None] = _nothing
        self._last_failure = 0.0
        self._last_end = -SAME_OUTAGE
        self._quiet = 0.0  # seconds without a failure that end it

    def note_failure(self, master: Any, error: Exception, renew: Callable[[], None]) -> None:
        """A command of a clone of *master*, which is a Client, has failed.

        :param renew: renews all clients.
        """
        with self._lock:
            now = monotonic()
            if self._note_command not in self._listeners:
                self._began = None  # an interrupt may have come when the one before ended
                self._listeners.append(self._note_command)
            if self._began is None:
                self._begin(master, now)
            tells_cause = not isinstance(error, ServerResting)
            is_new = tells_cause and not (self._is_logged or self._is_same(now))
            if is_new:
                self._is_logged = True
            if len(master.addresses) > 1:
                self._find_master = weakref.ref(master)
                self._find_renew = weakref.WeakMethod(renew)
            elif is_timeout(error):
                self.breaker.note_timeout(self._servers, master.renewal_interval)
            self._failures += 1
            self._last_failure = now
        if is_new:  # not while the lock is held: a log handler may wait for another thread
            logger.warning(
                "%s: memcached %s fails: %s: %s",
                self._name,
                self._servers,
                type(error).__name__,
                without_key(error),
            )

    def _is_same(self, now: float) -> bool:
        """Whether an outage of this time is the one before."""
        return now - self._last_end < SAME_OUTAGE

    def _begin(self, master: Any, now: float) -> None:
        self._servers = ", ".join(map(str, master.addresses))
        self._quiet = 0.0 if len(master.addresses) == 1 else master.renewal_interval + 1
        if self._is_same(now):
            self._quiet = max(self._quiet, SAME_OUTAGE)
        self._failures = 0
        self._is_logged = False
        self._silent = set()
        self._last_answer = now
        self._began = now  # last: after an interrupt, the next failure begins it

    def forget(self) -> None:
        """End without a line."""
        self.breaker.note_answer()
        with contextlib.suppress(ValueError):
            self._listeners.remove(self._note_command)
        self._began = None
        self._find_master = self._find_renew = _nothing

    def _note_command(self, event: CommandEvent) -> None:
        """A command of the pool has ended, while there is an outage."""
        if event.outcome == "failure":
            self._note_server(event)
        if event.outcome in ("failure", "error"):  # an error may come from before the wire
            return
        with self._lock:
            now = monotonic()
            began = self._began
            if began is None:
                self.forget()  # what an interrupt has left
                return
            self.breaker.note_answer()
            renew = self._find_renew() if self._all_have_failed(now) else None
            self._silent = set()
            self._last_answer = now
            is_over = now - self._last_failure >= self._quiet
            if is_over:
                self._last_end = now
                self.forget()
            seconds = (self._last_failure if self._quiet else now) - began
            failures = self._failures
        if renew is not None:
            renew()
        if not is_over:
            return
        logger.info(
            "%s: memcached %s answers again after %.1f s, %d commands failed",
            self._name,
            self._servers,
            seconds,
            failures,
        )

    def _note_server(self, event: CommandEvent) -> None:
        """A command has failed: note at which server, if that is known."""
        with self._lock:
            master = self._find_master()
            if master is not None:
                servers = {Client.hash(master, key) for key in event.key_names}
                if len(servers) == 1:  # or nobody knows which of them has failed
                    self._silent |= servers

    def _all_have_failed(self, now: float) -> bool:
        """Whether no server has answered until *now*."""
        master = self._find_master()
        return (
            master is not None
            and len(self._silent) == len(master.addresses)
            and now - self._last_answer >= SILENCE_OF_ALL
        )


def _nothing() -> None:
    """In the place of a reference to what is not there."""
