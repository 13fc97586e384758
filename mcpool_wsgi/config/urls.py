"""
URLs
====

Clients and pools from a URL.
"""

from __future__ import annotations

import functools
import re
from typing import Any
from urllib.parse import parse_qsl, unquote

from ..client import Client, Serializer
from ..pool import ClientPool
from .clients import client_for_now, pool_for
from .options import ADDRESS, BEHAVIORS, CLIENT, parsed, part

_URL = re.compile(
    r"memcached://((?P<username>[^:@/?#]+):(?P<password>[^@/?#]+)@)?"
    r"(?P<hosts>[^@/?#]*)(?P<path>/[^@?#]*)?(\?(?P<query>[^@#]*))?"
)


def client_from_url(url: str, *, serializer: Serializer | None = None) -> Client:
    """A client for ``memcached://[username:password@]host[:port],...[/?name=value&...]``.

    Username and password are percent-encoded. They imply the binary protocol. In place of the
    hosts there may be a source, which is asked now and not again.
    *serializer* is that of :class:`~mcpool_wsgi.Client`.

    :raises ImportError: the source needs dnspython, which is not installed.
    :raises OSError: the source does not tell the servers within a second.
    :raises TypeError: *url* is no str, or *serializer* lacks a method.
    :raises ValueError: *url* has another form, an option in it is unknown or wrong, or the answer
        of the source is wrong.
    """
    return client_for_now(*_options_in(url, serializer))


def pool_from_url(
    url: str,
    n_slots: int,
    *,
    timeout: float = 5.0,
    name: str | None = None,
    serializer: Serializer | None = None,
) -> ClientPool:
    """A pool for the servers of *url*. If that is a source, it is followed.

    *n_slots*, *timeout* and *name* are those of :class:`~mcpool_wsgi.ClientPool`. The form of
    *url*, *serializer* and the errors are those of :func:`client_from_url`. But a source that
    does not answer is no error.
    """
    make_pool = functools.partial(ClientPool, n_slots=n_slots, timeout=timeout, name=name)
    return pool_for(make_pool, *_options_in(url, serializer))


def _options_in(url: str, serializer: Serializer | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options and the behaviors in *url*."""
    if not isinstance(url, str):  # not shown either: bytes may contain a password
        raise TypeError(
            f"the URL of a memcached is a str like 'memcached://host', not {type(url).__name__}"
        )
    match = _URL.fullmatch(url)
    path = match["path"] if match and match["path"] != "/" else None
    if match is None or bool(match["hosts"]) is bool(path):
        raise ValueError(  # without the URL, which may contain a password
            "the URL of a memcached must be like memcached://username:password@host:port,"
            "host:port/?name=value or like memcached:///path/to/socket"
        )
    try:
        pairs = parse_qsl(match["query"] or "", keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise _not_utf_8("query") from None
    query = parsed(dict(pairs), {**CLIENT, **BEHAVIORS})
    names = [name for name, _ in pairs]
    for name in query:
        if names.count(name) > 1:
            raise ValueError(f"{name} is given twice")
    options = parsed({} if path else {"servers": match["hosts"]}, ADDRESS)
    if path:
        options["servers"] = [_decoded(path, "path")]
    options.update(
        (name, _decoded(match[name], name)) for name in ("username", "password") if match[name]
    )
    return {**options, **part(query, CLIENT), "serializer": serializer}, part(query, BEHAVIORS)


def _decoded(text: str, what: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _not_utf_8(what) from None  # without the text, which may be a password


def _not_utf_8(what: str) -> ValueError:
    return ValueError(f"the {what} in a URL must be percent-encoded UTF-8; write %25 for a %")
