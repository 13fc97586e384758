"""
Configuration
=============

Clients and middleware from what a deployment has: environment variables, a URL, or
an ``.ini`` file. An option that is unknown, missing or does not parse is a
:exc:`ValueError` at start-up, which names it.

From the environment:

.. code-block:: python

    from mcpool_wsgi import ClientPool
    from mcpool_wsgi.config import client_from_environ, client_from_url

    pool = ClientPool(client_from_environ(), 12)

From a URL, with ``binary``, ``fail_soft`` and behaviors in its query:

.. code-block:: python

    client_from_url("memcached://10.0.1.1,10.0.1.2:11212/?connect_timeout=300")
    client_from_url("memcached:///run/memcached.sock")

With PasteDeploy, as ``pserve`` reads it:

.. code-block:: ini

    [filter:memcached]
    use = egg:mcpool-wsgi
    servers = 10.0.1.1, 10.0.1.2:11212
    size = 12
    behaviors.connect_timeout = 300

    [pipeline:main]
    pipeline = memcached app

The options are ``servers``, ``binary``, ``username``, ``password``, ``fail_soft`` and
``behaviors.*`` of :class:`~mcpool_wsgi.Client`; ``pool``, which is ``bounded`` or
``thread-mapped``; ``size`` (``n_slots``) and ``timeout`` of the bounded one; and the
middleware's ``environ_key``. What is left out is as the classes have it, but ``servers``
are then looked for in the environment. PasteDeploy wants a ``%`` written ``%%``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Callable
from urllib.parse import parse_qsl, unquote

import pylibmc

from .client import Client
from .middleware import MemcachedPoolMiddleware
from .options import ADDRESS, BEHAVIORS, CLIENT, MIDDLEWARE, POOL, parsed
from .pools import ClientPool, ThreadMappedPool

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

#: What the variables' names begin with, in the order in which they are looked for: one's own,
#: and those of two hosted services, MemCachier and Memcached Cloud.
SERVICES = ("MEMCACHED", "MEMCACHIER", "MEMCACHEDCLOUD")

_URL = re.compile(
    r"memcached://((?P<username>[^:@/?#]+):(?P<password>[^@/?#]+)@)?"
    r"(?P<hosts>[^@/?#]*)(?P<path>/[^@?#]*)?(\?(?P<query>[^@#]*))?"
)


def client_from_environ(
    environ: Mapping[str, str] = os.environ,
    *,
    behaviors: Mapping[str, Any] | None = None,
    fail_soft: bool = False,
) -> Client:
    """A client for the servers that the environment names.

    They are in ``MEMCACHED_SERVERS``, with commas, semicolons or spaces between them.
    ``MEMCACHED_USERNAME`` and ``MEMCACHED_PASSWORD`` imply the binary protocol, which
    they need. Likewise with ``MEMCACHIER_...`` and ``MEMCACHEDCLOUD_...``: the first of
    :data:`SERVICES` that has servers counts. An empty variable is as good as none.

    :raises ValueError: there are no servers, or they do not parse, or there is only one of
        username and password.
    """
    return _client({**_found_in(environ), "fail_soft": fail_soft}, behaviors or {})


def client_from_url(url: str) -> Client:
    """A client for ``memcached://[username:password@]host[:port],...[/?name=value&...]``.

    Username and password are percent-encoded, and imply the binary protocol.

    :raises ValueError: *url* is not like this, or an option in it is unknown or does not parse.
    """
    match = _URL.fullmatch(url)
    path = match["path"] if match and match["path"] != "/" else None
    if match is None or bool(match["hosts"]) is bool(path):
        raise ValueError(  # without the URL, because there may be a password in it
            "a memcached's URL is like memcached://username:password@host:port,host:port/"
            "?name=value or like memcached:///path/to/socket, and this one is not"
        )
    given = dict(parse_qsl(match["query"] or "", keep_blank_values=True))
    query = parsed(given, {**CLIENT, **BEHAVIORS})
    options = parsed({} if path else {"servers": match["hosts"]}, ADDRESS)
    if path:
        options["servers"] = [unquote(path)]
    options.update(
        (name, unquote(match[name])) for name in ("username", "password") if match[name]
    )
    return _client({**options, **_part(query, CLIENT)}, _part(query, BEHAVIORS))


def filter_factory(
    global_conf: Mapping[str, str] | None, /, **local_conf: str
) -> Callable[[WSGIApplication], MemcachedPoolMiddleware]:
    """PasteDeploy's ``paste.filter_factory``: all apps behind one filter share its pool.

    :raises ValueError: an option is missing, unknown, or does not parse.
    """
    prefixed = {f"behaviors.{name}": parse for name, parse in BEHAVIORS.items()}
    options = parsed(local_conf, {**ADDRESS, **CLIENT, **prefixed, **POOL, **MIDDLEWARE})
    behaviors = {name.partition(".")[2]: options[name] for name in prefixed if name in options}
    address = {} if "servers" in options else _found_in(os.environ)
    client = _client({**address, **options}, behaviors)
    pool: ClientPool | ThreadMappedPool
    if options.get("pool") == "thread-mapped":
        pool = ThreadMappedPool(client)
    elif "size" in options:
        pool = ClientPool(client, options["size"], **_part(options, ["timeout"]))
    else:
        raise ValueError("size is missing: best as many as the process has threads for requests")

    def wrap(app: WSGIApplication) -> MemcachedPoolMiddleware:
        return MemcachedPoolMiddleware(app, pool, **_part(options, MIDDLEWARE))

    return wrap


def filter_app_factory(
    app: WSGIApplication, global_conf: Mapping[str, str] | None, /, **local_conf: str
) -> MemcachedPoolMiddleware:
    """PasteDeploy's ``paste.filter_app_factory``, with the options of :func:`filter_factory`."""
    return filter_factory(global_conf, **local_conf)(app)


def _found_in(environ: Mapping[str, str]) -> dict[str, Any]:
    """Servers and credentials of the first service in *environ*."""
    for service in SERVICES:
        variables = {name: f"{service}_{name.upper()}" for name in ADDRESS}
        given = {name: environ[key] for name, key in variables.items() if environ.get(key)}
        if "servers" in given:
            return parsed(given, ADDRESS, variables)
    wanted = ", ".join(f"{service}_SERVERS" for service in SERVICES)
    raise ValueError(f"no memcached in the environment: one of {wanted} must be set")


def _client(options: Mapping[str, Any], behaviors: Mapping[str, Any]) -> Client:
    given = _part(options, [*ADDRESS, *CLIENT])
    if "username" in given and not given.setdefault("binary", True):
        raise ValueError("binary is false, and a username needs the binary protocol")
    try:
        return Client(**given, behaviors=behaviors)
    except pylibmc.Error as error:
        raise ValueError(f"libmemcached refuses an option: {error}") from None


def _part(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}
