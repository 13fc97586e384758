"""
Answer
======

What a source says: the servers, and for how long that is good.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Answer:
    """The servers, sorted.

    :param servers: the addresses in the form that :class:`~mcpool_wsgi.Client` takes.
    :param ttl: seconds for which the answer is good, or None if the source does not say.
    :param addresses: what the names among *servers* stand for, in any form.
    :raises OSError: there are no servers.
    """

    __slots__ = ("addresses", "servers", "ttl")

    def __init__(
        self, servers: Iterable[str], ttl: float | None = None, addresses: Iterable[str] = ()
    ) -> None:
        self.servers: list[str] = sorted(set(servers))
        self.ttl: float | None = ttl
        self.addresses: list[str] = sorted(set(addresses))
        if not self.servers:
            raise OSError("the answer has no servers")

    def means_the_same_as(self, other: Answer | None) -> bool:
        """Whether a pool that has the servers of *other* need not be given those of this one."""
        return (
            other is not None
            and self.servers == other.servers
            and self.addresses == other.addresses
        )


class Source(Protocol):
    """Something that knows the servers."""

    def ask(self, timeout: float) -> Answer:
        """The current servers.

        :param timeout: seconds that it may take.
        :raises OSError: there is no answer in time, or it has no servers.
        :raises ValueError: the answer is wrong.
        """
        ...


def address_of(host: str, port: int) -> str:
    """*host*, which may be an IPv6 address, and *port* in the form for a client."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
