"""
The thread that asks
====================

See :mod:`mcpool_wsgi.discovery`.
"""

from __future__ import annotations

import _thread
import logging
import signal
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, TypeVar

from .. import forks, interpreters
from ..client import checked_seconds
from .answer import Answer
from .sources import source_of

if TYPE_CHECKING:
    from dns.resolver import Resolver

logger: logging.Logger = logging.getLogger("mcpool_wsgi.discovery")

_Self = TypeVar("_Self", bound="Discovery")

_ERRORS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
#: All but those that an error of this process causes.
_SIGNALS = signal.valid_signals() - _ERRORS
#: All that are started. In a child no thread keeps them alive at first.
_started: set[Discovery] = set()


class Pool(Protocol):
    """The part of a pool that :class:`Discovery` uses."""

    def set_servers(self, servers: Iterable[str]) -> None: ...


class _Poll:
    """The state of one thread that asks again and again."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.ended = threading.Event()
        self.thread: int | None = None  # its ident


class Discovery:
    """Gives *pool* the servers that *source* names. It is also a context manager.

    :param pool: one of this package's pools.
    :param source: ``dns+host:port``, ``dnssrv+name``, ``elasticache+host:port`` or ``host:port``.
    :param interval: seconds between two questions at most.
    :param min_interval: seconds between two questions at least, whatever the TTL is. It is never
        more than *interval*.
    :param timeout: seconds that a question may take, with all that belongs to it.
    :param resolver: a ``dns.resolver.Resolver`` of dnspython for ``dns+`` and ``dnssrv+`` to
        ask, in place of the name servers of the system. The names in SRV records are always
        looked up by the system as well, when a client connects.
    :raises ImportError: *source* needs dnspython, which is not installed.
    :raises TypeError: *pool* has no ``set_servers()``, or another argument has a wrong type.
    :raises ValueError: *source* means no source, or asks no *resolver*, or a number of seconds is
        not positive.
    """

    def __init__(
        self,
        pool: Pool,
        source: str,
        *,
        interval: float = 60.0,
        min_interval: float = 5.0,
        timeout: float = 1.0,
        resolver: Resolver | None = None,
    ) -> None:
        if not callable(getattr(pool, "set_servers", None)):
            raise TypeError(f"pool must have a method set_servers(), and {pool!r} has none")
        self._source = source_of(source, resolver)
        self._pool = pool
        self._source_name = source
        self._pool_name = getattr(pool, "name", type(pool).__name__)
        self._interval = checked_seconds("interval", interval)
        self._min_interval = min(checked_seconds("min_interval", min_interval), self._interval)
        self._timeout = checked_seconds("timeout", timeout)
        self._wait = interval  # seconds from one question to the next
        self._answer: Answer | None = None  # the one whose servers the pool was given
        self._failing = False
        self._poll: _Poll | None = None
        forks.reset_in_child(self)

    def start(self) -> None:
        """Ask now, and then again and again. A second call does nothing.

        :raises RuntimeError: no thread can be started.
        :raises TypeError: ``pool.set_servers()`` raises it.
        """
        forks.check_process()
        if self._poll is None:
            self._answer = None  # somebody else may have set other servers
            try:
                self.refresh()
            except (OSError, ValueError) as error:
                self._note_failure(error)
            _started.add(self)
            self._begin()

    def stop(self) -> None:
        """Stop asking. It waits for an open question, for *timeout* at most."""
        forks.check_process()
        poll, self._poll = self._poll, None
        _started.discard(self)
        if poll is not None:
            poll.stopped.set()
            poll.ended.wait(self._timeout)

    def refresh(self) -> None:
        """Ask now, and give the pool the servers if they have changed.

        :raises OSError: there is no answer in time, or it has no servers.
        :raises RuntimeError: no thread can be started.
        :raises TypeError: ``pool.set_servers()`` raises it.
        :raises ValueError: the answer is wrong.
        """
        self._use(self._source.ask(self._timeout))

    def __enter__(self: _Self) -> _Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _use(self, answer: Answer) -> None:
        if not answer.means_the_same_as(self._answer):
            self._pool.set_servers(answer.servers)
            self._answer = answer
            servers = ", ".join(answer.servers)
            logger.info("%s: %s: %s", self._pool_name, self._source_name, servers)
        ttl = self._interval if answer.ttl is None else answer.ttl
        self._wait = min(max(ttl, self._min_interval), self._interval)
        if self._failing:
            self._failing = False
            logger.info("%s: %s answers again", self._pool_name, self._source_name)

    def _note_failure(self, error: Exception) -> None:
        if self._failing:
            self._wait = min(2 * self._wait, self._interval)
        else:
            self._failing = True
            self._wait = self._min_interval
            logger.warning(
                "%s: keeping the servers, no answer from %s: %r",
                self._pool_name,
                self._source_name,
                error,
            )

    def _begin(self) -> None:
        self._poll = poll = _Poll()
        # Not a threading.Thread: its start() waits for the thread, and a fork hook must not wait.
        try:
            _thread.start_new_thread(self._run, (poll, threading.get_native_id()))
        except BaseException:
            self._poll = None
            _started.discard(self)
            raise

    def _run(self, poll: _Poll, starter: int) -> None:
        poll.thread = threading.get_ident()
        if threading.get_native_id() != starter:  # with gevent it is a greenlet of that thread
            # It starts threads, for look-ups. A thread that starts others can take a signal that
            # the main thread waits for.
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            # It waits first, because in a child the pool may not have been reset yet.
            while not poll.stopped.wait(self._wait) and self._poll is poll:
                if getattr(self._pool, "closed", False):  # another kind of pool may not tell
                    self._poll = None
                    _started.discard(self)
                    break
                try:
                    answer = self._source.ask(self._timeout)
                    if not poll.stopped.is_set():
                        self._use(answer)
                except Exception as error:  # no error ends the thread
                    if not poll.stopped.is_set():
                        self._note_failure(error)
        finally:
            poll.ended.set()

    def _reset_in_child(self) -> None:
        if self._poll is not None:
            try:
                self._begin()
            except RuntimeError as error:  # no thread can be started, and the child works without
                logger.warning(
                    "%s: %s is not asked any more: %r", self._pool_name, self._source_name, error
                )


def _stop_all() -> None:
    for discovery in list(_started):
        poll = discovery._poll
        discovery.stop()
        if poll is not None:
            interpreters.wait_for_thread(poll.thread)


interpreters.at_end(_stop_all)
