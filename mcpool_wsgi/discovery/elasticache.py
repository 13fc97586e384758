"""
ElastiCache and Memorystore
===========================

A cluster of Amazon ElastiCache or Google Memorystore has a configuration endpoint, which
knows the nodes. They call this *Auto Discovery*. The command is ``config get cluster``.
"""

from __future__ import annotations

import re
import socket
from time import monotonic
from typing import NamedTuple

from . import system
from .answer import Answer, address_of

LONGEST_ANSWER = 1 << 20  # bytes
_ENDPOINT = re.compile(r"(\[[^\]]+\]|[^:/\[\]+\s]+)(?::([0-9]{1,5}))?")
_ANSWER = re.compile(r"CONFIG cluster [0-9]+ [0-9]+\r\n([0-9]+)\r?\n([^\r\n]+)\r?\n\r?\nEND\r\n")
_NODE = re.compile(r"([^|\s]*)\|([^|\s]*)\|([0-9]{1,5})")
_is_host = re.compile(r"[A-Za-z0-9._:%-]+").fullmatch


class Configuration(NamedTuple):
    """The nodes of a cluster."""

    #: Every change increases it.
    version: int
    #: The addresses in the form that :class:`~mcpool_wsgi.Client` takes. They are IP addresses
    #: if the cluster tells them.
    servers: list[str]


class ElastiCache:
    """A source: the nodes of a cluster.

    :param endpoint: ``host`` or ``host:port``.
    :raises ValueError: *endpoint* is no address.
    """

    def __init__(self, endpoint: str) -> None:
        _host_and_port(endpoint)
        self._endpoint = endpoint

    def ask(self, timeout: float) -> Answer:
        # The version is not used, because a cluster that is made again counts from 1.
        return Answer(read_configuration(self._endpoint, timeout).servers)


def read_configuration(endpoint: str, timeout: float = 1.0) -> Configuration:
    """Ask *endpoint* for the nodes of its cluster.

    :param endpoint: ``host`` or ``host:port``.
    :param timeout: seconds that it may take.
    :raises OSError: the endpoint cannot be reached, or does not answer in time.
    :raises ValueError: the answer is no configuration, or *endpoint* is no address.
    """
    end = monotonic() + timeout
    host, port = _host_and_port(endpoint)
    answer = b""
    with _connected(host, port, end) as connection:
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


def _connected(host: str, port: int, end: float) -> socket.socket:
    addresses = system.addresses(host, end - monotonic())
    while True:
        # The addresses that have not been tried share the time that is left.
        limit = max(0.001, (end - monotonic()) / len(addresses))
        try:
            return socket.create_connection((addresses.pop(0), port), limit)
        except OSError:
            if not addresses:
                raise


def _parsed(answer: bytes) -> Configuration:
    match = _ANSWER.fullmatch(answer.decode("ascii", "replace"))
    nodes = [_NODE.fullmatch(node) for node in match[2].split()] if match else []
    servers = []
    for node in nodes:
        host = node and (node[2] or node[1])
        if not node or not host or not _is_host(host) or not 0 < int(node[3]) < 65536:
            break
        servers.append(address_of(host, int(node[3])))
    if match is None or not servers or len(servers) < len(nodes):
        raise ValueError(f"the answer is no configuration of a cluster: {answer[:200]!r}")
    return Configuration(int(match[1]), servers)


def _host_and_port(endpoint: str) -> tuple[str, int]:
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or not 0 < int(match[2] or 11211) < 65536:
        raise ValueError(f"an endpoint must be like host:port or [IPv6]:port, not {endpoint!r}")
    return match[1].strip("[]"), int(match[2] or 11211)
