"""
Names in DNS
============

Two sources: the addresses of a name, and the SRV records of a name.
"""

from __future__ import annotations

import re
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

from . import system
from .answer import Answer, address_of

if TYPE_CHECKING:
    from dns.resolver import Resolver

_NAME = re.compile(r"([A-Za-z0-9_-]{1,63}\.)*(?![0-9]+\.?$)[A-Za-z0-9_-]{1,63}\.?")


class AddressRecords:
    """A source: all addresses of a name.

    :param name: ``host`` or ``host:port``.
    :param resolver: the resolver of dnspython to ask in place of the system's.
    :raises ValueError: *name* has another form.
    :raises ImportError: *resolver* is given, and dnspython is not installed.
    """

    def __init__(self, name: str, resolver: Resolver | None) -> None:
        host, colon, port = name.partition(":")
        is_port = re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536
        if not _is_name(host) or (colon and not is_port):
            raise ValueError(f"dns+ needs a name in DNS, like dns+host:port, not {name!r}")
        self._host = host
        self._port = int(port or 11211)
        self._resolver = resolver
        self._queries: Any = None
        try:
            from . import queries

            self._queries = queries
        except ImportError:
            if resolver is not None:
                raise

    def ask(self, timeout: float) -> Answer:
        end = monotonic() + timeout
        if self._queries is not None:
            try:
                dns = self._queries.Queries(self._resolver, timeout)
                return self._answer(dns.addresses(self._host), dns.ttl)
            except self._queries.NoRecords:
                if self._resolver is not None:
                    raise
        return self._answer(self._from_the_system(end))

    def _from_the_system(self, end: float) -> list[str]:
        try:
            return system.addresses(self._host, end - monotonic(), socket.AF_INET)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise
            return system.addresses(self._host, end - monotonic(), socket.AF_INET6)

    def _answer(self, addresses: list[str], ttl: float | None = None) -> Answer:
        return Answer((address_of(address, self._port) for address in addresses), ttl)


class ServiceRecords:
    """A source: the SRV records of a name.

    :param name: for example ``_memcache._tcp.memcached.cache.svc``.
    :param resolver: the resolver of dnspython to ask in place of the system's.
    :raises ValueError: *name* has another form.
    :raises ImportError: dnspython is not installed.
    """

    def __init__(self, name: str, resolver: Resolver | None) -> None:
        if not _is_name(name):
            raise ValueError(
                "dnssrv+ needs a name in DNS without a port, like"
                f" dnssrv+_memcache._tcp.host, not {name!r}"
            )
        from . import queries

        self._queries = queries
        self._name = name
        self._resolver = resolver

    def ask(self, timeout: float) -> Answer:
        dns = self._queries.Queries(self._resolver, timeout)
        servers, addresses = [], []
        for record in dns.records(self._name, "SRV"):
            host = record.target.to_text(omit_final_dot=True).lower()
            if host == ".":  # there is no such service
                continue
            if not _is_name(host) or not record.port:
                raise ValueError(f"an SRV record has no server in it: {record}")
            servers.append(address_of(host, record.port))
            try:
                found = dns.addresses(record.target)
            except self._queries.NoRecords:  # it may get them later
                found = []
            addresses += [f"{host} {address}" for address in found]
        return Answer(servers, dns.ttl, addresses)


def _is_name(text: str) -> bool:
    return len(text) <= 253 and _NAME.fullmatch(text) is not None
