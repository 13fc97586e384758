"""
Discovery
=========

Follows a cluster whose nodes change. It asks the configuration endpoint of the cluster
for the nodes and gives them to the pool. Amazon ElastiCache and Google Memorystore have
such an endpoint; they call this *Auto Discovery*. The command is ``config get cluster``.

.. code-block:: python

    from mcpool_wsgi import Client, ClientPool
    from mcpool_wsgi.discovery import Discovery

    endpoint = "cache.abc123.cfg.use1.cache.amazonaws.com:11211"
    pool = ClientPool(Client([endpoint]), 12)
    discovery = Discovery(pool, endpoint)
    discovery.start()

:meth:`~Discovery.start` asks once, so that the first request finds the nodes. Then a
daemon thread asks every minute, until :meth:`~Discovery.stop`.

If the endpoint is down, slow, or gives another answer, the pool keeps its servers. One
warning is logged, and one line when the endpoint answers again. The same is true for the
first question, so a site can start while its endpoint is down. :meth:`~Discovery.refresh`
raises instead: call it before, if the site must not start then.

A forked child asks in a thread of its own. But a server that forks in C (uWSGI) may fork
while this thread runs Python code, and Python does not survive that. With such a server,
start it after the fork: in a ``postfork`` function, with ``enable-threads``.
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

    #: Every change increases it.
    version: int
    #: The addresses in the form that :class:`~mcpool_wsgi.Client` takes. They are IP addresses
    #: if the cluster tells them.
    servers: list[str]


def read_configuration(endpoint: str, timeout: float = 1.0) -> Configuration:
    """Ask *endpoint* for the nodes of its cluster.

    :param endpoint: ``host`` or ``host:port``.
    :param timeout: seconds to wait for a connection, and seconds to wait for the answer.
    :raises OSError: the endpoint cannot be reached, or does not answer in time.
    :raises ValueError: the answer is no configuration, or *endpoint* is no address.
    """
    answer = b""
    with socket.create_connection(_host_and_port(endpoint), timeout) as connection:
        end = monotonic() + timeout
        connection.sendall(b"config get cluster\r\n")
        # The answer is a configuration or one line with an error.
        while not answer.endswith(b"\nEND\r\n" if answer.startswith(b"CONFIG ") else b"\r\n"):
            remaining = end - monotonic()
            if remaining <= 0:
                raise TimeoutError(f"the answer is not complete after {timeout} s")
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
        raise ValueError(f"the answer is no configuration of a cluster: {answer[:200]!r}")
    return Configuration(int(match[1]), servers)


def _host_and_port(endpoint: str) -> tuple[str, int]:
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or not 0 < int(match[2] or 11211) < 65536:
        raise ValueError(f"an endpoint must be like host:port or [IPv6]:port, not {endpoint!r}")
    return match[1].strip("[]"), int(match[2] or 11211)


class Pool(Protocol):
    """The part of a pool that :class:`Discovery` uses."""

    def set_servers(self, servers: Iterable[str]) -> None: ...


class _Poll:
    """The state of one thread that asks again and again."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.ended = threading.Event()


class Discovery:
    """Gives *pool* the nodes that *endpoint* names. It is also a context manager.

    :param pool: one of this package's pools.
    :param endpoint: ``host`` or ``host:port``.
    :param interval: seconds between two questions.
    :param timeout: seconds to wait for a connection to each address of *endpoint*, and seconds to
        wait for the answer. The lookup of the name has no limit.
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
                raise ValueError(f"interval and timeout must be more than 0, not {seconds}")
        self._pool = pool
        self._endpoint = endpoint
        self._interval = interval
        self._timeout = timeout
        self._servers: list[str] = []  # the last ones that the pool was given
        self._failing = False
        self._poll: _Poll | None = None
        forks.reset_in_child(self)

    def start(self) -> None:
        """Ask now and then once per interval. A second call does nothing.

        :raises RuntimeError: no thread can be started.
        :raises TypeError: ``pool.set_servers()`` raises it.
        """
        forks.check_process()
        if self._poll is None:
            self._servers = []  # somebody else may have set others
            try:
                self.refresh()
            except (OSError, ValueError) as error:
                self._note_failure(error)
            _started.add(self)
            self._begin()

    def stop(self) -> None:
        """Stop asking. It waits for an open question, for twice *timeout* at most."""
        forks.check_process()
        poll, self._poll = self._poll, None
        _started.discard(self)
        if poll is not None:
            poll.stopped.set()
            poll.ended.wait(2 * self._timeout)

    def refresh(self) -> None:
        """Ask now, and give the pool the servers if they have changed.

        :raises OSError: the endpoint cannot be reached, or does not answer in time.
        :raises ValueError: the answer is no configuration.
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
        # The version is not compared, because a cluster that is made again counts from 1.
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
        # Not a threading.Thread: its start() waits for the thread, and a fork hook must not wait.
        try:
            _thread.start_new_thread(self._run, (poll,))
        except BaseException:
            self._poll = None
            _started.discard(self)
            raise

    def _run(self, poll: _Poll) -> None:
        try:
            # It waits first, because in a child the pool may not have been reset yet.
            while not poll.stopped.wait(self._interval) and self._poll is poll:
                try:
                    configuration = read_configuration(self._endpoint, self._timeout)
                    if not poll.stopped.is_set():
                        self._apply(configuration)
                except Exception as error:  # no error ends the thread
                    self._note_failure(error)
        finally:
            poll.ended.set()

    def _reset_in_child(self) -> None:
        if self._poll is not None:
            try:
                self._begin()
            except RuntimeError as error:  # no thread can be started, and the child works without
                logger.warning("%s is not asked any more: %r", self._endpoint, error)


# All that are started. In a child no thread keeps them alive at first.
_started: set[Discovery] = set()
