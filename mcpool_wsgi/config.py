"""
Configuration
=============

Makes clients and middleware from environment variables, a URL or an ``.ini`` file.
If an option is unknown, missing or wrong, it raises a :exc:`ValueError` that names
the option, at start-up.

From the environment:

.. code-block:: python

    from mcpool_wsgi import ClientPool
    from mcpool_wsgi.config import client_from_environ, client_from_url

    pool = ClientPool(client_from_environ(), 12)

From a URL, with options in its query:

.. code-block:: python

    client_from_url("memcached://10.0.1.1,10.0.1.2:11212/?connect_timeout=300")
    client_from_url("memcached:///run/memcached.sock?fail_soft=true")

With PasteDeploy, for ``pserve`` for example:

.. code-block:: ini

    [filter:memcached]
    use = egg:mcpool-wsgi
    servers = 10.0.1.1, 10.0.1.2:11212
    size = 12
    behaviors.connect_timeout = 300

    [pipeline:main]
    pipeline = memcached app

These are the options. One that is left out has the default of its class.

==================================  =================================================
``servers``                         with commas, semicolons or spaces between them;
                                    the default is the servers of the environment
``username``, ``password``          credentials; they imply ``binary``
``binary``, ``fail_soft``,          of :class:`~mcpool_wsgi.Client`; a URL has them
``command_timeout``,                in its query
``allow_pickle``
``behaviors.*``                     of :class:`~mcpool_wsgi.Client`; a URL has them
                                    in its query, without ``behaviors.``
``pool``                            ``bounded``, the default, or ``thread-mapped``
``size``, ``timeout``               of the bounded pool; ``size`` is its ``n_slots``
``environ_key``, ``lazy``,          of :class:`~mcpool_wsgi.MemcachedPoolMiddleware`
``slow_after``, ``server_timing``
==================================  =================================================

In an ``.ini`` file, write ``%%`` for a ``%``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pickle import HIGHEST_PROTOCOL
from typing import TYPE_CHECKING, Any, Callable
from urllib.parse import parse_qsl, unquote

import pylibmc

from .client import Client
from .middleware import MemcachedPoolMiddleware
from .pool import ClientPool, ThreadMappedPool

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

#: The names of the variables begin with these. The first that has servers counts: one's own,
#: MemCachier, Memcached Cloud.
SERVICES = ("MEMCACHED", "MEMCACHIER", "MEMCACHEDCLOUD")


def client_from_environ(
    environ: Mapping[str, str] = os.environ,
    *,
    behaviors: Mapping[str, Any] | None = None,
    fail_soft: bool = False,
    command_timeout: float = 1.0,
    allow_pickle: bool = True,
) -> Client:
    """A client for the servers that the environment names.

    ``MEMCACHED_SERVERS`` has the servers, with commas, semicolons or spaces between them.
    ``MEMCACHED_USERNAME`` and ``MEMCACHED_PASSWORD`` are optional. They imply the binary
    protocol, because credentials need it. MemCachier and Memcached Cloud set the same
    variables with another beginning; see :data:`SERVICES`. An empty variable counts as unset.

    The other arguments are those of :class:`~mcpool_wsgi.Client`.

    :raises ValueError: no variable names servers, the servers do not parse, or only one of
        username and password is set.
    """
    options = {
        "fail_soft": fail_soft,
        "command_timeout": command_timeout,
        "allow_pickle": allow_pickle,
    }
    return _client({**_address_in(environ), **options}, behaviors or {})


def client_from_url(url: str) -> Client:
    """A client for ``memcached://[username:password@]host[:port],...[/?name=value&...]``.

    Username and password are percent-encoded. They imply the binary protocol.

    :raises ValueError: *url* has another form, or an option in it is unknown or wrong.
    """
    match = _URL.fullmatch(url)
    path = match["path"] if match and match["path"] != "/" else None
    if match is None or bool(match["hosts"]) is bool(path):
        raise ValueError(  # without the URL, which may contain a password
            "the URL of a memcached must be like memcached://username:password@host:port,"
            "host:port/?name=value or like memcached:///path/to/socket"
        )
    given = dict(parse_qsl(match["query"] or "", keep_blank_values=True))
    query = _parsed(given, {**_CLIENT, **_BEHAVIORS})
    options = _parsed({} if path else {"servers": match["hosts"]}, _ADDRESS)
    if path:
        options["servers"] = [unquote(path)]
    options.update(
        (name, unquote(match[name])) for name in ("username", "password") if match[name]
    )
    return _client({**options, **_part(query, _CLIENT)}, _part(query, _BEHAVIORS))


def filter_factory(
    global_conf: Mapping[str, str] | None, /, **local_conf: str
) -> Callable[[WSGIApplication], MemcachedPoolMiddleware]:
    """PasteDeploy's ``paste.filter_factory``. All apps behind one filter share its pool.

    :raises ValueError: an option is missing, unknown or wrong.
    """
    prefixed = {f"behaviors.{name}": parser for name, parser in _BEHAVIORS.items()}
    options = _parsed(local_conf, {**_ADDRESS, **_CLIENT, **prefixed, **_POOL, **_MIDDLEWARE})
    behaviors = {name.partition(".")[2]: options[name] for name in prefixed if name in options}
    address = {} if "servers" in options else _address_in(os.environ)
    client = _client({**address, **options}, behaviors)
    pool: ClientPool | ThreadMappedPool
    if options.get("pool") == "thread-mapped":
        pool = ThreadMappedPool(client)
    elif "size" in options:
        pool = ClientPool(client, options["size"], **_part(options, ["timeout"]))
    else:
        raise ValueError("size is missing; use the number of threads that serve requests")

    def wrap(app: WSGIApplication) -> MemcachedPoolMiddleware:
        return MemcachedPoolMiddleware(app, pool, **_part(options, _MIDDLEWARE))

    return wrap


def filter_app_factory(
    app: WSGIApplication, global_conf: Mapping[str, str] | None, /, **local_conf: str
) -> MemcachedPoolMiddleware:
    """PasteDeploy's ``paste.filter_app_factory``, with the options of :func:`filter_factory`."""
    return filter_factory(global_conf, **local_conf)(app)


# The text of each option goes to a parser. The parser returns the value, or raises a ValueError
# that says what the text must be.

_Parsers = Mapping[str, Callable[[str], Any]]


def _servers(text: str) -> list[str]:
    servers = [server for server in re.split(r"[\s,;]+", text) if server]
    try:
        Client(servers)  # it checks the addresses, and opens no connection
    except ValueError:
        wanted = "servers like host, host:port, [IPv6]:port or /path/to/socket"
        raise ValueError(f"{wanted}, with ports of 1 to 65535") from None
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
_integer = _matching("[0-9]{1,9}", "an integer of up to nine digits", int)
_NUMBER = "([0-9]{1,9}([.][0-9]{0,9})?|[.][0-9]{1,9})"

_SWITCHES = ["auto_eject", "buffer_requests", "cas", "ketama", "ketama_weighted", "no_block"]
_SWITCHES += ["tcp_keepalive", "tcp_nodelay", "verify_keys", "_noreply", "_sort_hosts"]
_BEHAVIORS: _Parsers = {
    **dict.fromkeys(pylibmc.all_behaviors, _integer),
    **dict.fromkeys(_SWITCHES, _switch),
    **dict.fromkeys(["hash", "ketama_hash"], _one_of(pylibmc.hashers)),
    "distribution": _one_of(pylibmc.distributions),
    "namespace": str,
    "pickle_protocol": _matching(f"[0-{HIGHEST_PROTOCOL}]", f"0 to {HIGHEST_PROTOCOL}", int),
}
_ADDRESS: _Parsers = {"servers": _servers, "username": _text, "password": _text}
_CLIENT: _Parsers = {
    "binary": _switch,
    "fail_soft": _switch,
    "command_timeout": _matching(f"(?=.*[1-9]){_NUMBER}", "a positive number of seconds", float),
    "allow_pickle": _switch,
}
_POOL: _Parsers = {
    "pool": _one_of(["bounded", "thread-mapped"]),
    "size": _matching("0*[1-9][0-9]{0,8}", "a positive integer", int),
    "timeout": _matching(_NUMBER, "a number of seconds", float),
}
_MIDDLEWARE: _Parsers = {
    "environ_key": _text,
    "lazy": _switch,
    "slow_after": _matching(f"(?=.*[1-9]){_NUMBER}", "a positive number of seconds", float),
    "server_timing": _switch,
}

_URL = re.compile(
    r"memcached://((?P<username>[^:@/?#]+):(?P<password>[^@/?#]+)@)?"
    r"(?P<hosts>[^@/?#]*)(?P<path>/[^@?#]*)?(\?(?P<query>[^@#]*))?"
)


def _parsed(
    given: Mapping[str, str], parsers: _Parsers, variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The values of the *given* options.

    :param variables: the names of environment variables, for errors to show.
    """
    shown = variables or {name: name for name in parsers}
    options = {}
    for name, text in given.items():
        if name not in parsers:
            raise ValueError(f"unknown option {name!r}; the options are {', '.join(parsers)}")
        try:
            options[name] = parsers[name](text)
        except ValueError as error:
            seen = "a text that may contain a password" if "@" in text else repr(text)
            raise ValueError(f"{shown[name]} must be {error}, not {seen}") from None
    for one, other in (("username", "password"), ("password", "username")):
        if one in options and other not in options:
            raise ValueError(f"{shown[one]} is set and {shown[other]} is not")
    return options


def _address_in(environ: Mapping[str, str]) -> dict[str, Any]:
    """The servers and credentials of the first service in *environ*."""
    for service in SERVICES:
        variables = {name: f"{service}_{name.upper()}" for name in _ADDRESS}
        given = {name: environ[key] for name, key in variables.items() if environ.get(key)}
        if "servers" in given:
            return _parsed(given, _ADDRESS, variables)
    wanted = ", ".join(f"{service}_SERVERS" for service in SERVICES)
    raise ValueError(f"the environment names no memcached; set one of {wanted}")


def _client(options: Mapping[str, Any], behaviors: Mapping[str, Any]) -> Client:
    given = _part(options, [*_ADDRESS, *_CLIENT])
    if "username" in given and not given.setdefault("binary", True):
        raise ValueError("binary is false, but a username needs the binary protocol")
    try:
        return Client(**given, behaviors=behaviors)
    except pylibmc.Error as error:
        raise ValueError(f"libmemcached refuses an option: {error}") from None


def _part(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}
