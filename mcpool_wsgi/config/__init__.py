"""
Configuration
=============

Makes clients and middleware from environment variables, a URL or an ``.ini`` file.
If an option is unknown, missing or wrong, it raises a :exc:`ValueError` that names
the option, at start-up.

From the environment:

.. code-block:: python

    from mcpool_wsgi.config import pool_from_environ, pool_from_url

    pool = pool_from_environ(12)

From a URL, with options in its query:

.. code-block:: python

    pool_from_url("memcached://10.0.1.1,10.0.1.2:11212/?connect_timeout=300", 12)
    pool_from_url("memcached:///run/memcached.sock?fail_soft=true", 12)

With PasteDeploy, for ``pserve`` for example:

.. code-block:: ini

    [filter:memcached]
    use = egg:mcpool-wsgi
    servers = 10.0.1.1, 10.0.1.2:11212
    size = 12
    behaviors.connect_timeout = 300

    [pipeline:main]
    pipeline = memcached app

Servers that change
-------------------

In place of servers there can be one source of :mod:`mcpool_wsgi.discovery`:

.. code-block:: console

    MEMCACHED_SERVERS=dns+memcached.cache.svc:11211
    memcached://dnssrv+_memcache._tcp.memcached.cache.svc/?fail_soft=true
    servers = elasticache+cache.abc123.cfg.use1.cache.amazonaws.com:11211

*   A pool from :func:`pool_from_environ` or :func:`pool_from_url`, and the pool of a
    middleware from an ``.ini`` file, **follows the source**: it gets the servers of now, and
    each change. The :class:`~mcpool_wsgi.discovery.Discovery` has its defaults, and it ends
    when the pool is closed. If the source does not answer at start-up, one warning is logged,
    and until it answers every command fails at once, or is a miss with ``fail_soft``.
*   A client from :func:`client_from_environ` or :func:`client_from_url` has **the servers of
    now, and keeps them**. If the source does not answer, an :exc:`OSError` is raised.
*   A source stands alone. With other servers or a second source it is a :exc:`ValueError`.
*   With a server that forks in C (uWSGI), make the pool after the fork (``lazy-apps``).

Options
-------

These are the options. One that is left out has the default of its class.

==================================  =================================================
``servers``                         with commas, semicolons or spaces between them, or
                                    one source; the default is those of the environment
``username``, ``password``          credentials; they imply ``binary``
``binary``, ``fail_soft``           of :class:`~mcpool_wsgi.Client`; a URL has them
                                    in its query
``command_timeout``                 the same
``allow_pickle``                    the same
``behaviors.*``                     the same; in a query without ``behaviors.``
``pool``                            ``bounded``, the default, or ``thread-mapped``
``size``, ``timeout``               of the bounded pool; ``size`` is its ``n_slots``
``environ_key``, ``lazy``           of :class:`~mcpool_wsgi.MemcachedPoolMiddleware`
``slow_after``, ``server_timing``   the same
==================================  =================================================

In an ``.ini`` file, write ``%%`` for a ``%``.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping
from pickle import HIGHEST_PROTOCOL
from typing import TYPE_CHECKING, Any, Callable, TypeVar
from urllib.parse import parse_qsl, unquote

import pylibmc

from .client import Client
from .discovery import Discovery, is_source, look_up, source_of
from .middleware import MemcachedPoolMiddleware
from .pool import ClientPool, Pool, ThreadMappedPool

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

    ``MEMCACHED_SERVERS`` has the servers, with commas, semicolons or spaces between them, or a
    source, which is asked now and not again. ``MEMCACHED_USERNAME`` and ``MEMCACHED_PASSWORD``
    are optional. They imply the binary protocol, because credentials need it. MemCachier and
    Memcached Cloud set the same variables with another beginning; see :data:`SERVICES`. An
    empty variable counts as unset.

    The other arguments are those of :class:`~mcpool_wsgi.Client`.

    :raises ImportError: the source needs dnspython, which is not installed.
    :raises OSError: the source does not tell the servers within a second.
    :raises ValueError: no variable names servers, the servers do not parse, or only one of
        username and password is set.
    """
    options = _address_in(environ)
    options.update(fail_soft=fail_soft, command_timeout=command_timeout, allow_pickle=allow_pickle)
    return _client_for_now(options, behaviors or {})


def client_from_url(url: str) -> Client:
    """A client for ``memcached://[username:password@]host[:port],...[/?name=value&...]``.

    Username and password are percent-encoded. They imply the binary protocol. In place of the
    hosts there may be a source, which is asked now and not again.

    :raises ImportError: the source needs dnspython, which is not installed.
    :raises OSError: the source does not tell the servers within a second.
    :raises ValueError: *url* has another form, or an option in it is unknown or wrong.
    """
    return _client_for_now(*_options_in(url))


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
) -> ClientPool:
    """A pool for the servers that the environment names. If that is a source, it is followed.

    *n_slots*, *timeout* and *name* are those of :class:`~mcpool_wsgi.ClientPool`. The other
    arguments, and the errors, are those of :func:`client_from_environ`. But a source that does
    not answer is no error.
    """
    options = _address_in(environ)
    options.update(fail_soft=fail_soft, command_timeout=command_timeout, allow_pickle=allow_pickle)
    make_pool = functools.partial(ClientPool, n_slots=n_slots, timeout=timeout, name=name)
    return _pool(make_pool, options, behaviors or {})


def pool_from_url(
    url: str, n_slots: int, *, timeout: float = 5.0, name: str | None = None
) -> ClientPool:
    """A pool for the servers of *url*. If that is a source, it is followed.

    *n_slots*, *timeout* and *name* are those of :class:`~mcpool_wsgi.ClientPool`. The form of
    *url*, and the errors, are those of :func:`client_from_url`. But a source that does not
    answer is no error.
    """
    make_pool = functools.partial(ClientPool, n_slots=n_slots, timeout=timeout, name=name)
    return _pool(make_pool, *_options_in(url))


def filter_factory(
    global_conf: Mapping[str, str] | None, /, **local_conf: str
) -> Callable[[WSGIApplication], MemcachedPoolMiddleware]:
    """PasteDeploy's ``paste.filter_factory``. All apps behind one filter share its pool.

    :raises ImportError: the source needs dnspython, which is not installed.
    :raises ValueError: an option is missing, unknown or wrong.
    """
    prefixed = {f"behaviors.{name}": parser for name, parser in _BEHAVIORS.items()}
    options = _parsed(local_conf, {**_ADDRESS, **_CLIENT, **prefixed, **_POOL, **_MIDDLEWARE})
    behaviors = {name.partition(".")[2]: options[name] for name in prefixed if name in options}
    address = {} if "servers" in options else _address_in(os.environ)
    make_pool: Callable[[Client], Pool]
    if options.get("pool") == "thread-mapped":
        make_pool = ThreadMappedPool
    elif "size" in options:
        make_pool = functools.partial(
            ClientPool, n_slots=options["size"], **_part(options, ["timeout"])
        )
    else:
        raise ValueError("size is missing; use the number of threads that serve requests")
    pool = _pool(make_pool, {**address, **options}, behaviors)

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
    if any(map(is_source, servers)):
        return [_source(",".join(servers))]
    try:
        Client(servers)  # it checks the addresses, and opens no connection
    except ValueError:
        wanted = "servers like host, host:port, [IPv6]:port or /path/to/socket"
        raise ValueError(f"{wanted}, with ports of 1 to 65535") from None
    return servers


def _source(text: str) -> str:
    try:
        source_of(text)  # it checks the text, and asks nothing
    except ValueError:
        raise ValueError(
            "one source like dns+host:port, dnssrv+name or elasticache+host:port, with no server"
            " and no second source beside it"
        ) from None
    return text


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


def _options_in(url: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options and the behaviors in *url*."""
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
    return {**options, **_part(query, _CLIENT)}, _part(query, _BEHAVIORS)


def _address_in(environ: Mapping[str, str]) -> dict[str, Any]:
    """The servers and credentials of the first service in *environ*."""
    for service in SERVICES:
        variables = {name: f"{service}_{name.upper()}" for name in _ADDRESS}
        given = {name: environ[key] for name, key in variables.items() if environ.get(key)}
        if "servers" in given:
            return _parsed(given, _ADDRESS, variables)
    wanted = ", ".join(f"{service}_SERVERS" for service in SERVICES)
    raise ValueError(f"the environment names no memcached; set one of {wanted}")


_Pool = TypeVar("_Pool", bound=Pool)


def _pool(
    make_pool: Callable[[Client], _Pool], options: Mapping[str, Any], behaviors: Mapping[str, Any]
) -> _Pool:
    """A pool that follows its source, if it has one."""
    source = options["servers"][0]
    if not is_source(source):
        return make_pool(_client(options, behaviors))
    # Until the source answers: a path that cannot exist, so that a command fails at once.
    nowhere = f"/dev/null/{source}"
    pool = make_pool(_client({**options, "servers": [nowhere]}, behaviors))
    Discovery(pool, source).start()
    return pool


def _client_for_now(options: Mapping[str, Any], behaviors: Mapping[str, Any]) -> Client:
    """A client for the servers that its source tells now, if it has one."""
    source = options["servers"][0]
    if is_source(source):
        options = {**options, "servers": look_up(source)}
    return _client(options, behaviors)


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
