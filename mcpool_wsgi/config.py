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
from pylibmc.client import translate_server_spec

from .client import Client
from .middleware import MemcachedPoolMiddleware
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
    return _client({**_found_in(environ), "fail_soft": fail_soft}, behaviors)


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
    given = {"servers": match["hosts"] or unquote(path or "")}
    for name, text in parse_qsl(match["query"] or "", keep_blank_values=True):
        given[name if name in ("binary", "fail_soft") else f"behaviors.{name}"] = text
    given.update((name, unquote(match[name])) for name in ("username", "password") if match[name])
    return _client(_parsed(given, _CLIENT))


def filter_factory(
    global_conf: Mapping[str, str] | None, /, **local_conf: str
) -> Callable[[WSGIApplication], MemcachedPoolMiddleware]:
    """PasteDeploy's ``paste.filter_factory``: all apps behind one filter share its pool.

    :raises ValueError: an option is missing, unknown, or does not parse.
    """
    options = _parsed(local_conf, {**_CLIENT, **_POOL, **_MIDDLEWARE})
    client = _client(options if "servers" in options else {**_found_in(os.environ), **options})
    pool: ClientPool | ThreadMappedPool
    if options.get("pool") == "thread-mapped":
        pool = ThreadMappedPool(client)
    elif "size" in options:
        pool = ClientPool(client, options["size"], **_part(options, ["timeout"]))
    else:
        raise ValueError("size is missing: best as many as the process has threads for requests")

    def wrap(app: WSGIApplication) -> MemcachedPoolMiddleware:
        return MemcachedPoolMiddleware(app, pool, **_part(options, _MIDDLEWARE))

    return wrap


def filter_app_factory(
    app: WSGIApplication, global_conf: Mapping[str, str] | None, /, **local_conf: str
) -> MemcachedPoolMiddleware:
    """PasteDeploy's ``paste.filter_app_factory``, with the options of :func:`filter_factory`."""
    return filter_factory(global_conf, **local_conf)(app)


def _found_in(environ: Mapping[str, str]) -> dict[str, Any]:
    """Servers and credentials of the first service in *environ*."""
    for service in SERVICES:
        variables = {name: f"{service}_{name.upper()}" for name in _ADDRESS}
        given = {name: environ[key] for name, key in variables.items() if environ.get(key)}
        if "servers" in given:
            return _parsed(given, _ADDRESS, variables)
    wanted = ", ".join(f"{service}_SERVERS" for service in SERVICES)
    raise ValueError(f"no memcached in the environment: one of {wanted} must be set")


def _client(options: Mapping[str, Any], behaviors: Mapping[str, Any] | None = None) -> Client:
    named = {name.partition(".")[2]: options[name] for name in _BEHAVIORS if name in options}
    given = _part(options, [*_ADDRESS, "binary", "fail_soft"])
    if "username" in given and not given.setdefault("binary", True):
        raise ValueError("binary is false, and a username needs the binary protocol")
    return Client(**given, behaviors={**named, **(behaviors or {})})


def _part(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}


# -- What the text of an option says. A parser that cannot tell raises what would be right.

Parsers = Mapping[str, Callable[[str], Any]]


def _parsed(
    given: Mapping[str, str], parsers: Parsers, shown: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The values of the *given* options.

    :param shown: what to call the options in errors.
    """
    shown = shown or {name: name for name in parsers}
    options = {}
    for name, text in given.items():
        if name not in parsers:
            raise ValueError(f"there is no option {name!r}; there are {', '.join(parsers)}")
        try:
            options[name] = parsers[name](text)
        except ValueError as error:
            raise ValueError(f"{shown[name]} is {text!r} and should be {error}") from None
    for one, other in (("username", "password"), ("password", "username")):
        if one in options and other not in options:
            raise ValueError(f"{shown[one]} is set and {shown[other]} is not")
    return options


def _servers(text: str) -> list[str]:
    servers = [server for server in re.split(r"[\s,;]+", text) if server]
    try:
        ports = [translate_server_spec(server)[2] for server in servers]
    except ValueError:
        ports = []
    if not ports or not all(0 <= port <= 65535 for port in ports):
        raise ValueError("servers like host, host:port, [IPv6]:port or /path/to/socket")
    return servers


def _matching(
    pattern: str, wanted: str, convert: Callable[[str], Any] = str
) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        if not re.fullmatch(pattern, text, re.DOTALL):
            raise ValueError(wanted)
        return convert(text)

    return parse


def _one_of(choices: Iterable[str]) -> Callable[[str], Any]:
    return _matching("|".join(choices), f"one of {', '.join(choices)}")


def _is_yes(text: str) -> bool:
    return text.lower() in ("true", "yes", "on", "1")


_text = _matching(".+", "some text")
_switch = _matching("(?i)true|yes|on|1|false|no|off|0", "true or false", _is_yes)
# libmemcached's integers are not much longer than this.
_integer = _matching("-?[0-9]{1,9}", "an integer", int)
_seconds = _matching("[0-9]{1,9}([.][0-9]*)?|[.][0-9]+", "a number of seconds", float)

_SWITCHES = ["auto_eject", "buffer_requests", "cas", "ketama", "ketama_weighted", "no_block"]
_SWITCHES += ["tcp_keepalive", "tcp_nodelay", "verify_keys", "_noreply", "_sort_hosts"]
_BEHAVIORS: Parsers = {
    f"behaviors.{name}": parse
    for name, parse in {
        **dict.fromkeys(pylibmc.all_behaviors, _integer),
        **dict.fromkeys(_SWITCHES, _switch),
        **dict.fromkeys(["hash", "ketama_hash"], _one_of(pylibmc.hashers)),
        "distribution": _one_of(pylibmc.distributions),
        "namespace": str.encode,  # pylibmc 1.6.3 takes bytes only
    }.items()
}
_ADDRESS: Parsers = {"servers": _servers, "username": _text, "password": _text}
_CLIENT: Parsers = {**_ADDRESS, "binary": _switch, "fail_soft": _switch, **_BEHAVIORS}
_POOL: Parsers = {
    "pool": _one_of(["bounded", "thread-mapped"]),
    "size": _matching("0*[1-9][0-9]{0,8}", "a positive integer", int),
    "timeout": _seconds,
}
_MIDDLEWARE: Parsers = {"environ_key": _text}
