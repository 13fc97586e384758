"""
DNS queries
===========

Asks DNS with dnspython, which tells the TTL and knows SRV records.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

try:
    import dns.exception
    import dns.resolver
except ImportError as _error:
    raise ImportError(
        "this kind of discovery needs dnspython: pip install 'mcpool-wsgi[dns]'"
    ) from _error

if TYPE_CHECKING:
    from dns.name import Name
    from dns.resolver import Resolver


class NoRecords(OSError):
    """DNS does not know the name, or it has no records of this kind."""


class Queries:
    """Queries that share one time limit.

    :param resolver: whom to ask, or None for the name servers of ``/etc/resolv.conf``.
    :param timeout: seconds that all queries together may take.
    :raises NoRecords: ``/etc/resolv.conf`` names no server.
    """

    def __init__(self, resolver: Resolver | None, timeout: float) -> None:
        self._end = monotonic() + timeout
        #: The shortest TTL of the answers so far, in seconds.
        self.ttl: float | None = None
        if resolver is None:
            try:
                resolver = dns.resolver.Resolver()  # each time, because the file may change
            except dns.resolver.NoResolverConfiguration as error:
                raise NoRecords(str(error)) from None
            resolver.timeout = timeout / 2  # leaves time to ask again, or another server
        self._resolver = resolver

    def records(self, name: str | Name, kind: str) -> list[Any]:
        """The records of this *kind* that *name* has.

        :raises NoRecords: it has none.
        :raises OSError: there is no answer in time.
        """
        limit = self._end - monotonic()
        try:
            answer = self._resolver.resolve(name, kind, lifetime=limit, search=True)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer) as error:
            raise NoRecords(str(error)) from None
        except dns.exception.Timeout as error:
            raise TimeoutError(str(error)) from None
        except dns.exception.DNSException as error:
            raise OSError(f"{type(error).__name__}: {error}") from None
        ttl = float(answer.chaining_result.minimum_ttl)
        self.ttl = ttl if self.ttl is None else min(self.ttl, ttl)
        return list(answer)

    def addresses(self, name: str | Name) -> list[str]:
        """The IPv4 addresses of *name*, or its IPv6 addresses if it has no others.

        :raises NoRecords: it has none.
        :raises OSError: there is no answer in time.
        """
        try:
            records = self.records(name, "A")
        except NoRecords:
            records = self.records(name, "AAAA")
        return [record.address for record in records]
