"""
Discovery
=========

Follows a cluster whose nodes change: asks its configuration endpoint for the nodes, as
Amazon ElastiCache and Google Memorystore offer it (*Auto Discovery*, the command
``config get cluster``), and has the pool use them.

.. code-block:: python

    from mcpool_wsgi import Client, ClientPool
    from mcpool_wsgi.discovery import Discovery

    endpoint = "cache.abc123.cfg.use1.cache.amazonaws.com:11211"
    pool = ClientPool(Client([endpoint]), 12)
    discovery = Discovery(pool, endpoint)
    discovery.start()

:meth:`~Discovery.start` asks once, so that the first request finds the nodes, and then a
daemon thread asks every minute, until :meth:`~Discovery.stop`. An endpoint that is down,
slow, or answers something else changes nothing: the pool keeps the servers it has, one
warning is logged, and one line when the endpoint answers again. That holds for the first
question, too, so that a site can start while its endpoint is down. Where that is not
wanted, ask before: :meth:`~Discovery.refresh` raises.

A forked child goes on asking in a thread of its own. But a server that forks in C (uWSGI)
may do so while this thread runs, and no Python survives that: start it after the fork
there, in a ``postfork`` function, with ``enable-threads``.
"""

from __future__ import annotations

import _thread
import logging
import re
import socket
import threading
from collections.abc import Iterable
from time import monotonic
from types import TracebackType
from typing import NamedTuple, Protocol, TypeVar

from . import forks

logger: logging.Logger = logging.getLogger(__name__)

LONGEST_ANSWER = 1 << 20  # bytes
_ENDPOINT = re.compile(r"(\[[^\]]+\]|[^:/\[\]]+)(?::([0-9]{1,5}))?")
_ANSWER = re.compile(r"CONFIG cluster [0-9]+ [0-9]+\r\n([0-9]+)\r?\n([^\r\n]+)\r?\n\r?\nEND\r\n")
_NODE = re.compile(r"([^|\s]*)\|([^|\s]*)\|([0-9]{1,5})")

_Self = TypeVar("_Self", bound="Discovery")


class Configuration(NamedTuple):
    """The nodes of a cluster."""

    #: Goes up with every change.
    version: int
    #: As :class:`~mcpool_wsgi.Client` takes them; IP addresses where the cluster tells them.
    servers: list[str]


def read_configuration(endpoint: str, timeout: float = 1.0) -> Configuration:
    """Ask *endpoint* for the nodes of its cluster.

    :param endpoint: ``host`` or ``host:port``.
    :param timeout: seconds to wait for a connection, and seconds to wait for the answer.
    :raises OSError: it cannot be reached, or does not answer in time.
    :raises ValueError: it answers something else, or *endpoint* is no address.
    """
    answer = b""
    with socket.create_connection(_host_and_port(endpoint), timeout) as connection:
        end = monotonic() + timeout
        connection.sendall(b"config get cluster\r\n")
        # An error is one line.
        while not answer.endswith(b"\nEND\r\n" if answer.startswith(b"CONFIG ") else b"\r\n"):
            remaining = end - monotonic()
            if remaining <= 0:
                raise TimeoutError(f"no whole answer within {timeout} s")
            connection.settimeout(remaining)
            received = connection.recv(65536)
            answer += received
            if not received or len(answer) > LONGEST_ANSWER:
                break
    return _parsed(answer)


def _parsed(answer: bytes) -> Configuration:
    match = _ANSWER.fullmatch(answer.decode("ascii", "replace"))
    nodes = [_NODE.fullmatch(node) for node in match[2].split()] if match else []
    servers = []
    for node in nodes:
        host = node and (node[2] or node[1])
        if not node or not host or not 0 < int(node[3]) < 65536:
            break
        servers.append(f"[{host}]:{node[3]}" if ":" in host else f"{host}:{node[3]}")
    if match is None or not servers or len(servers) < len(nodes):
        raise ValueError(f"that is no configuration of a cluster: {answer[:200]!r}")
    return Configuration(int(match[1]), servers)


def _host_and_port(endpoint: str) -> tuple[str, int]:
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or not 0 < int(match[2] or 11211) < 65536:
        raise ValueError(f"an endpoint is like host:port or [IPv6]:port, not {endpoint!r}")
    return match[1].strip("[]"), int(match[2] or 11211)


class Pool(Protocol):
    """What discovery needs of a pool."""

    def set_servers(self, servers: Iterable[str]) -> None: ...


class _Poll:
    """One thread that asks again and again."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.ended = threading.Event()


class Discovery:
    """Has *pool* use the nodes that *endpoint* names; also as a context manager.

    :param pool: one of this package's pools.
    :param endpoint: ``host`` or ``host:port``.
    :param interval: seconds from one question to the next.
    :param timeout: seconds to wait for a connection to each address of *endpoint*, and seconds to
        wait for the answer. Looking the name up has no limit.
    :raises TypeError: *pool* has no ``set_servers()``.
    :raises ValueError: *endpoint* is no address, or a number of seconds is not positive.
    """

    def __init__(
        self, pool: Pool, endpoint: str, *, interval: float = 60.0, timeout: float = 1.0
    ) -> None:
        if not callable(getattr(pool, "set_servers", None)):
            raise TypeError(f"pool must have a method set_servers(), and {pool!r} has none")
        _host_and_port(endpoint)
        for seconds in (interval, timeout):
            if not 0 < seconds <= threading.TIMEOUT_MAX:
                raise ValueError(f"interval and timeout are seconds, more than 0, not {seconds}")
        self._pool = pool
        self._endpoint = endpoint
        self._interval = interval
        self._timeout = timeout
        self._servers: list[str] = []  # that the pool was last given
        self._failing = False
        self._poll: _Poll | None = None
        forks.tell_in_child(self)

    def start(self) -> None:
        """Ask now, and from now on. Starting again does nothing.

        :raises TypeError: as ``pool.set_servers()``.
        """
        forks.check_process()
        if self._poll is None:
            self._servers = []  # the pool may have been given others meanwhile
            try:
                self.refresh()
            except (OSError, ValueError) as error:
                self._note_failure(error)
            _started.add(self)
            self._begin()

    def stop(self) -> None:
        """Ask no more: at once or, if a question is on its way, after twice *timeout* at most."""
        forks.check_process()
        poll, self._poll = self._poll, None
        _started.discard(self)
        if poll is not None:
            poll.stopped.set()
            poll.ended.wait(2 * self._timeout)

    def refresh(self) -> None:
        """Ask now, and have the pool use other servers if they have changed.

        :raises OSError: the endpoint cannot be reached, or does not answer in time.
        :raises ValueError: it answers something else.
        """
        self._apply(read_configuration(self._endpoint, self._timeout))

    def __enter__(self: _Self) -> _Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _apply(self, configuration: Configuration) -> None:
        # The servers are compared and not the version: a cluster made anew counts from 1 again.
        if configuration.servers != self._servers:
            self._pool.set_servers(configuration.servers)
            self._servers = configuration.servers
            logger.info("%s, version %d: %s", self._endpoint, *configuration)
        if self._failing:
            self._failing = False
            logger.info("%s answers again", self._endpoint)

    def _note_failure(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            logger.warning(
                "keeping the servers, no configuration from %s: %r", self._endpoint, error
            )

    def _begin(self) -> None:
        self._poll = poll = _Poll()
        # Not a threading.Thread: start() of that waits for the thread, and a fork's hook must not.
        try:
            _thread.start_new_thread(self._run, (poll,))
        except BaseException:
            self._poll = None
            _started.discard(self)
            raise

    def _run(self, poll: _Poll) -> None:
        try:
            # In a child it waits first, too: the pool may be yet to start afresh.
            while not poll.stopped.wait(self._interval) and self._poll is poll:
                try:
                    configuration = read_configuration(self._endpoint, self._timeout)
                    if not poll.stopped.is_set():
                        self._apply(configuration)
                except Exception as error:  # the next answer may be better, whatever it was
                    self._note_failure(error)
        finally:
            poll.ended.set()

    def _start_afresh(self) -> None:
        if self._poll is not None:
            try:
                self._begin()
            except RuntimeError as error:  # no more threads; the child can do without
                logger.warning("%s is not asked any more: %r", self._endpoint, error)


# Those that were started. Their threads keep them alive, but a child has no thread at first.
_started: set[Discovery] = set()
