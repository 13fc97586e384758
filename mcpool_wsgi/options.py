"""
Options
=======

What the text of an option says, in an ``.ini`` file, a URL or the environment.

A parser returns the value that a text stands for, or raises a :exc:`ValueError`
that says what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pickle import HIGHEST_PROTOCOL
from typing import Any, Callable

import pylibmc
from pylibmc.client import translate_server_spec

Parsers = Mapping[str, Callable[[str], Any]]


def parsed(
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
            seen = "not shown, there may be a password in it," if "@" in text else repr(text)
            raise ValueError(f"{shown[name]} is {seen} and should be {error}") from None
    for one, other in (("username", "password"), ("password", "username")):
        if one in options and other not in options:
            raise ValueError(f"{shown[one]} is set and {shown[other]} is not")
    return options


def server_list(text: str) -> list[str]:
    """Servers with commas, semicolons or spaces between them, as ``Client`` takes them."""
    servers = [server for server in re.split(r"[\s,;]+", text) if server]
    try:
        specs = [translate_server_spec(server) for server in servers]
    except ValueError:
        specs = []
    if not specs or not all(host and 0 <= port <= 65535 for _, host, port, _ in specs):
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
#: What options there are, of which class, and how each is read.
BEHAVIORS: Parsers = {
    **dict.fromkeys(pylibmc.all_behaviors, _integer),
    **dict.fromkeys(_SWITCHES, _switch),
    **dict.fromkeys(["hash", "ketama_hash"], _one_of(pylibmc.hashers)),
    "distribution": _one_of(pylibmc.distributions),
    "namespace": str,
    "pickle_protocol": _matching(f"[0-{HIGHEST_PROTOCOL}]", f"0 to {HIGHEST_PROTOCOL}", int),
}
ADDRESS: Parsers = {"servers": server_list, "username": _text, "password": _text}
CLIENT: Parsers = {"binary": _switch, "fail_soft": _switch}
POOL: Parsers = {
    "pool": _one_of(["bounded", "thread-mapped"]),
    "size": _matching("0*[1-9][0-9]{0,8}", "a positive integer", int),
    "timeout": _seconds,
}
MIDDLEWARE: Parsers = {"environ_key": _text}
