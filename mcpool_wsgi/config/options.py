"""
Options
=======

The options that a text can set, and how they are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pickle import HIGHEST_PROTOCOL
from typing import Any, Callable

import pylibmc

from ..client import Client
from ..discovery import is_source, source_of
from ..errors import without_password

#: By option: what gets its text, and returns its value or raises a ValueError that says what the
#: text must be.
Parsers = Mapping[str, Callable[[str], Any]]


def _servers(text: str) -> list[str]:
    servers = [server for server in re.split(r"[\s,;]+", text) if server]
    if any(map(is_source, servers)):
        return [_source(",".join(servers))]
    if len({server.startswith("/") for server in servers}) > 1:  # pylibmc takes one kind only
        raise ValueError("either all with a host or all paths of sockets")
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
_switch = _matching("(?ai)true|yes|on|1|false|no|off|0", "true or false", _is_yes)
_integer = _matching("[0-9]{1,9}", "an integer of up to nine digits", int)
_NUMBER = "([0-9]{1,9}([.][0-9]{0,9})?|[.][0-9]{1,9})"
_positive_seconds = _matching(f"(?=.*[1-9]){_NUMBER}", "a positive number of seconds", float)

_SWITCHES = ["auto_eject", "buffer_requests", "cas", "ketama", "ketama_weighted", "no_block"]
_SWITCHES += ["tcp_keepalive", "tcp_nodelay", "verify_keys", "_noreply", "_sort_hosts"]
BEHAVIORS: Parsers = {
    **dict.fromkeys(pylibmc.all_behaviors, _integer),
    **dict.fromkeys(_SWITCHES, _switch),
    **dict.fromkeys(["hash", "ketama_hash"], _one_of(pylibmc.hashers)),
    "distribution": _one_of(pylibmc.distributions),
    "namespace": str,
    "pickle_protocol": _matching(f"[0-{HIGHEST_PROTOCOL}]", f"0 to {HIGHEST_PROTOCOL}", int),
}
ADDRESS: Parsers = {"servers": _servers, "username": _text, "password": _text}
CLIENT: Parsers = {
    "binary": _switch,
    "fail_soft": _switch,
    "command_timeout": _positive_seconds,
    "allow_pickle": _switch,
}
POOL: Parsers = {
    "pool": _one_of(["bounded", "thread-mapped"]),
    "name": _text,
    "size": _matching("0*[1-9][0-9]{0,8}", "a positive integer", int),
    "timeout": _matching(_NUMBER, "a number of seconds", float),
}
MIDDLEWARE: Parsers = {
    "environ_key": _text,
    "lazy": _switch,
    "slow_after": _positive_seconds,
    "server_timing": _switch,
}


def parsed(
    given: Mapping[str, str], parsers: Parsers, variables: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The values of the *given* options.

    :param variables: the names of environment variables, for errors to show.
    :raises TypeError: an option is no text.
    :raises ValueError: an option is unknown or wrong, or lacks its other half.
    """
    shown = variables or {name: name for name in parsers}
    options = {}
    for name, text in given.items():
        if name not in parsers:
            raise ValueError(f"unknown option {name!r}; the options are {', '.join(parsers)}")
        if not isinstance(text, str):  # which is not shown: it may be a password
            raise TypeError(f"{shown[name]} must be a str, not {type(text).__name__}")
        try:
            options[name] = parsers[name](text)
        except ValueError as error:
            seen = without_password(text)
            raise ValueError(f"{shown[name]} must be {error}, not {seen}") from None
    for one, other in (("username", "password"), ("password", "username")):
        if one in options and other not in options:
            raise ValueError(f"{shown[one]} is set and {shown[other]} is not")
    return options


def part(options: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: options[name] for name in names if name in options}
