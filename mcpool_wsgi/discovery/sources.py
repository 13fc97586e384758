"""
Sources
=======

Finds out which source a text such as ``dns+host:port`` means.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .answer import Source
from .elasticache import ElastiCache
from .names import AddressRecords, ServiceRecords

if TYPE_CHECKING:
    from dns.resolver import Resolver

_PREFIX = re.compile(r"([^/:\[\]+]*)\+")


def is_source(text: str) -> bool:
    """Whether *text* begins like the name of a source, with ``dns+`` for example."""
    return _PREFIX.match(text) is not None


def source_of(text: str, resolver: Resolver | None = None) -> Source:
    """The source that *text* means; see :mod:`mcpool_wsgi.discovery`.

    :param resolver: the resolver of dnspython to ask in place of the system's.
    :raises ImportError: this source needs dnspython, which is not installed.
    :raises TypeError: *text* is no str, or *resolver* has no method ``resolve()``.
    :raises ValueError: *text* means no source, or the source asks no resolver.
    """
    if not isinstance(text, str):
        raise TypeError(f"a source is a str like 'dns+host:port', not {text!r}")
    if resolver is not None and not callable(getattr(resolver, "resolve", None)):
        raise TypeError(f"resolver must have a method resolve(), and {resolver!r} has none")
    match = _PREFIX.match(text)
    prefix, name = (match[1], text[match.end() :]) if match else ("elasticache", text)
    if prefix == "dns":
        return AddressRecords(name, resolver)
    if prefix == "dnssrv":
        return ServiceRecords(name, resolver)
    if prefix != "elasticache":
        raise ValueError(
            f"a source begins with dns+, dnssrv+ or elasticache+, or is host:port, not {text!r}"
        )
    if resolver is not None:
        raise ValueError(f"resolver is for dns+ and dnssrv+, and not for {text!r}")
    return ElastiCache(name)


def look_up(source: str, timeout: float = 1.0) -> list[str]:
    """Ask *source* once.

    :param source: for example ``dns+host:port``; see :mod:`mcpool_wsgi.discovery`.
    :param timeout: seconds that it may take.
    :return: the servers, sorted.
    :raises ImportError: this source needs dnspython, which is not installed.
    :raises OSError: there is no answer in time, or it has no servers.
    :raises RuntimeError: no thread can be started.
    :raises TypeError: *source* is no str.
    :raises ValueError: *source* means no source, or the answer is wrong.
    """
    found = source_of(source)
    try:
        return found.ask(timeout).servers
    except OSError as error:  # which does not name the source
        raise OSError(f"no answer from {source}: {error}") from error
