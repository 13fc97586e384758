"""
Options of the caches
=====================

The options that Django, dogpile.cache and Flask-Caching have in common. A cache has a pool of its
own, which is made from servers and these options. Or it uses the pool of the option ``pool``,
which stands alone. An unknown option is an error.

======================================  ===================================================
``size``                                of the pool: its ``n_slots``, 12 by default
``timeout``                             of the pool: seconds to wait for a client, 5 by default
``fail_soft``, ``command_timeout``      of :class:`~mcpool_wsgi.Client`
``allow_pickle``, ``serializer``        the same; dogpile.cache has a serializer of its own
``behaviors``, ``binary``               the same
``username``, ``password``              of :class:`~mcpool_wsgi.Client`; they imply ``binary``
``pool``                                a pool or a :class:`~mcpool_wsgi.PooledClient`, or
                                        where to import it: ``"package.module.name"``
======================================  ===================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from werkzeug.utils import import_string

from ..client import LARGEST_TIME
from ..pool import checked_n_slots
from ..pooled import PooledClient

#: A client is reserved for one command only, so many threads share few clients.
DEFAULT_SIZE = 12

#: memcached takes more than 30 days for a Unix time. This one has passed.
EXPIRED = 30 * 24 * 60 * 60 + 1

OPTIONS = (
    *("size", "timeout", "fail_soft", "allow_pickle", "serializer", "behaviors", "binary"),
    *("command_timeout", "username", "password", "pool"),
)


def pooled_client(
    servers: str | Iterable[str] | None,
    options: Mapping[str, Any],
    *,
    servers_name: str,
    pool_name: str | None = None,
    others: Iterable[str] = (),
) -> PooledClient:
    """The client of a cache.

    :param servers: a list, or a string with commas, semicolons or spaces between the servers. A
        Unix socket is ``/path`` or ``unix:/path``.
    :param options: see above.
    :param servers_name: what the library calls *servers*, for errors.
    :param pool_name: the name of the pool, if one is made.
    :param others: options that the caller has taken out of *options*, for errors.
    :raises TypeError: an option has a wrong type.
    :raises ValueError: an option is unknown or wrong.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in options:
        if name not in OPTIONS:
            known = ", ".join([*OPTIONS, *others])
            raise ValueError(f"unknown option {name!r}; the options are {known}")
    if "pool" in given:
        client = client_of(given.pop("pool"))
        beside = [servers_name] if servers else list(given)
        if beside:
            raise ValueError(
                f"a pool has servers and options of its own: give either pool or {beside[0]}"
            )
        return client
    if not isinstance(servers, (str, Iterable, type(None))) or isinstance(servers, Mapping):
        raise TypeError(f"{servers_name} must be a list of servers, not {servers!r}")
    if "username" in given:
        given.setdefault("binary", True)
    if not servers:
        raise ValueError(f"{servers_name} is missing: name the servers, or give a pool")
    size = checked_n_slots(given.pop("size", DEFAULT_SIZE), "size")
    return PooledClient.from_servers(_server_list(servers), size, name=pool_name, **given)


def client_of(pool: Any) -> PooledClient:
    """The client of the option ``pool``.

    :raises TypeError: *pool* is none of what it may be.
    :raises ValueError: it is a str, and nothing can be imported from there.
    """
    if isinstance(pool, str):
        try:
            pool = import_string(pool)
        except ImportError as error:
            raise ValueError(f"pool must be a pool or where to import it, not {pool!r}") from error
    return pool if isinstance(pool, PooledClient) else PooledClient(pool)


def within_limits(time: int) -> int:
    """*time*, as near to it as memcached can: below 0 is expired, and after 2038 is 2038.

    :param time: of a value: seconds, or a Unix time.
    """
    return EXPIRED if time < 0 else min(time, LARGEST_TIME)


def _server_list(servers: str | Iterable[str]) -> list[Any]:
    if isinstance(servers, str):
        servers = filter(None, re.split(r"[\s,;]+", servers))
    # Client checks them, and so their type.
    return [
        server[len("unix:") :] if str(server).startswith("unix:") else server for server in servers
    ]
