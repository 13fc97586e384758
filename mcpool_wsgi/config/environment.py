"""
Environment
===========

Clients and pools from environment variables.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

from ..client import Client, Serializer
from ..pool import ClientPool
from .clients import client_for_now, pool_for
from .options import ADDRESS, parsed

#: The prefixes of the variables: your own, MemCachier's and Memcached Cloud's. The first prefix
#: whose ``_SERVERS`` is set counts.
SERVICES = ("MEMCACHED", "MEMCACHIER", "MEMCACHEDCLOUD")


def client_from_environ(
    environ: Mapping[str, str] = os.environ,
    *,
    behaviors: Mapping[str, Any] | None = None,
    fail_soft: bool = False,
    command_timeout: float = 1.0,
    allow_pickle: bool = True,
    serializer: Serializer | None = None,
) -> Client:
    """A client for the servers that the environment names.

    ``MEMCACHED_SERVERS`` has the servers, with commas, semicolons or spaces between them, or a
    source, which is asked now and not again. ``MEMCACHED_USERNAME`` and ``MEMCACHED_PASSWORD``
    are optional. They imply the binary protocol, because credentials need it. MemCachier and
    Memcached Cloud set the same variables with other prefixes; see :data:`SERVICES`. An
    empty variable counts as unset.

    The other arguments are those of :class:`~mcpool_wsgi.Client`.

    :raises ImportError: the source needs dnspython, which is not installed.
    :raises OSError: the source does not tell the servers within a second.
    :raises TypeError: an argument has a wrong type.
    :raises ValueError: no variable names servers, the servers do not parse, only one of username
        and password is set, the answer of the source is wrong, or an argument is.
    """
    options = address_in(environ)
    options.update(fail_soft=fail_soft, command_timeout=command_timeout)
    options.update(allow_pickle=allow_pickle, serializer=serializer)
    return client_for_now(options, behaviors or {})


def pool_from_environ(
    n_slots: int,
    environ: Mapping[str, str] = os.environ,
    *,
    timeout: float = 5.0,
    name: str | None = None,
    behaviors: Mapping[str, Any] | None = None,
    fail_soft: bool = False,
    command_timeout: float = 1.0,
    allow_pickle: bool = True,
    serializer: Serializer | None = None,
) -> ClientPool:
    """A pool for the servers that the environment names. If that is a source, it is followed.

    *n_slots*, *timeout* and *name* are those of :class:`~mcpool_wsgi.ClientPool`. The other
    arguments, and the errors, are those of :func:`client_from_environ`. But a source that does
    not answer is no error.
    """
    options = address_in(environ)
    options.update(fail_soft=fail_soft, command_timeout=command_timeout)
    options.update(allow_pickle=allow_pickle, serializer=serializer)
    make_pool = functools.partial(ClientPool, n_slots=n_slots, timeout=timeout, name=name)
    return pool_for(make_pool, options, behaviors or {})


def address_in(environ: Mapping[str, str]) -> dict[str, Any]:
    """The servers and credentials of the first service in *environ*."""
    if not isinstance(environ, Mapping):
        raise TypeError(f"environ must be a mapping like os.environ, not {type(environ).__name__}")
    for service in SERVICES:
        variables = {name: f"{service}_{name.upper()}" for name in ADDRESS}
        given = {name: environ[key] for name, key in variables.items() if environ.get(key)}
        if "servers" in given:
            return parsed(given, ADDRESS, variables)
    wanted = ", ".join(f"{service}_SERVERS" for service in SERVICES)
    raise ValueError(f"the environment names no memcached; set one of {wanted}")
