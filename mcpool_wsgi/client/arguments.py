"""
Arguments
=========

The C code of pylibmc cuts a number that is too large, reads a negative number as a large one,
and fails late on a text that is no address. So each argument is checked before it gets there.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterable
from typing import Any

import pylibmc
from pylibmc.client import translate_server_spec

from ..errors import shown, without_password

#: The largest number of seconds, and the latest Unix time, that memcached knows.
LARGEST_TIME = 2**31 - 1
#: The largest delta that pylibmc passes on.
LARGEST_DELTA = 2**31 - 1
#: The largest cas that pylibmc passes on.
LARGEST_CAS = 2**63 - 1
#: The largest ``min_compress_len``, in bytes.
LARGEST_LENGTH = 2**31 - 1

#: A path that begins like this cannot exist. A client of it fails at once.
NOWHERE = "/dev/null/"
#: Bytes of the path of a Unix socket.
LONGEST_PATH = 107 if sys.platform == "linux" else 103
_is_host = re.compile(r"[^ ,/+?#@\[\]]{1,255}").fullmatch
_is_number = re.compile(r"[0-9]{1,5}").fullmatch
#: What no text of C can have: NUL, and halves of surrogate pairs, which are no UTF-8.
_not_in_c = re.compile("[\0\ud800-\udfff]").search

_SERVER = "'host', 'host:port', '[IPv6]:port' or '/path/to/socket', with a port of 1 to 65535"


def checked_number(
    name: str, number: Any, largest: int, *, key: object = None, least: int = 0
) -> int:
    """*number*, the argument of this *name*, as an exact int from *least* to *largest*.

    :param key: the memcached key that it is for.
    :raises TypeError: it is no int.
    :raises ValueError: it is out of range.
    """
    if type(number) is int and least <= number <= largest:
        return number
    where = "" if key is None else f", for memcached key {shown(key)}"
    # Not isinstance(): a proxy says that it is what it stands for.
    if not issubclass(type(number), int):
        raise TypeError(f"{name} must be an int, not {type(number).__name__}{where}")
    exact: int = int.__int__(number)
    if not least <= exact <= largest:
        # A very long number has no decimal form.
        given = exact if -(2**65) < exact < 2**65 else f"{hex(exact)[:20]}..."
        raise ValueError(f"{name} must be {least} to {largest}, not {given}{where}")
    return exact


def checked_seconds(name: str, seconds: Any, *, zero: bool = False) -> float:
    """*seconds*, the argument of this *name*, as a positive and finite number.

    :param zero: whether it may be 0.
    :raises TypeError: it is no number.
    :raises ValueError: it is negative, not finite, or 0 without *zero*.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {seconds!r}")
    if not 0 <= seconds <= threading.TIMEOUT_MAX or not (seconds or zero):
        wanted = "finite number of seconds, 0 or more" if zero else "positive number of seconds"
        raise ValueError(f"{name} must be a {wanted}, not {seconds!r}")
    return float(seconds)


def checked_switch(name: str, value: Any) -> bool:
    """*value*, the argument of this *name*, as a bool.

    :raises TypeError: it is neither a bool nor 0 or 1. A text like "no" would be true.
    """
    if not isinstance(value, int) or value not in (0, 1):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def checked_servers(servers: Iterable[str]) -> list[str]:
    """*servers* as a list of addresses that libmemcached understands.

    :raises TypeError: it is no list, or an address is no str.
    :raises ValueError: there is none, or one is no address.
    """
    if isinstance(servers, (str, bytes)):
        given = without_password(servers)
        raise TypeError(f"servers is a list of addresses, not a single one: {given}")
    if not isinstance(servers, Iterable):
        raise TypeError(f"servers is a list of addresses, not {servers!r}")
    checked = list(servers)
    if not checked:
        raise ValueError(f"servers is empty: give at least one, like {_SERVER}")
    return [_checked_server(server) for server in checked]


def have_weights(servers: Iterable[Any]) -> bool:
    """Whether one of *servers*, which :func:`checked_servers` returned, has a weight above 1."""
    return any(
        isinstance(server, str) and translate_server_spec(server)[3] > 1 for server in servers
    )


def check_login(username: str | None, password: str | None, servers: Iterable[Any]) -> None:
    """Check that libmemcached can log in at *servers*, which :func:`checked_servers` returned.

    :raises TypeError: *username* or *password* is no str.
    :raises ValueError: one of *servers* is not reached over TCP. libmemcached would not log in
        there, and would report no error. Or *username* or *password* has a character that cannot
        be sent.
    """
    for name, text in (("username", username), ("password", password)):
        if not isinstance(text, (str, type(None))):
            raise TypeError(f"{name} must be a str, not {type(text).__name__}")
        if text is not None and _not_in_c(text):  # which is not shown: it may be a secret
            raise ValueError(f"{name} must be UTF-8 without NUL, and has another character in it")
    if username is None:
        return
    for server in servers:
        kind = server[0] if isinstance(server, tuple) else translate_server_spec(server)[0]
        is_nowhere = isinstance(server, str) and server.startswith(NOWHERE)
        if kind != pylibmc.server_type_tcp and not is_nowhere:
            raise ValueError(
                f"a username needs servers like 'host:port', not {server!r}: libmemcached logs in"
                " over TCP only"
            )


def _checked_server(server: Any) -> str:
    weight = 1
    if isinstance(server, tuple) and list(map(type, server)) == [int, str, int]:
        kind, host, port = server  # in the form that pylibmc gives to its C code
    elif isinstance(server, str):
        server = str.__str__(server)
        try:
            kind, host, port, weight = translate_server_spec(server)
        except ValueError:
            kind = host = port = None
    else:
        is_pair = isinstance(server, tuple) and list(map(type, server)) == [str, int]
        wanted = repr("{}:{}".format(*server)) if is_pair else f"a str like {_SERVER}"
        raise TypeError(f"{server!r} is not the address of a memcached: write {wanted}")
    if kind == pylibmc.server_type_unix:
        is_address = host.startswith("/") and port == 0 and not _not_in_c(host)
        is_address = is_address and len(host.encode()) <= LONGEST_PATH
    else:
        is_address = kind == pylibmc.server_type_tcp  # over UDP, libmemcached reads no answers
        is_address = is_address and host.isprintable() and _is_host(host) and 1 <= port <= 65535
        # int() has taken " 1" and "1_1" for numbers, too.
        is_address = is_address and all(map(_is_number, _numbers(server)))
    if not is_address or not 1 <= weight <= 65535:
        reason = _reason(server) if isinstance(server, str) else ""
        given = without_password(server)
        raise ValueError(f"{given} is not the address of a memcached{reason}: write {_SERVER}")
    return server  # type: ignore[no-any-return]


def _reason(server: str) -> str:
    if not server:
        return ", because it is empty"
    if server.startswith("udp:"):
        return ", because over UDP nobody answers whether a command was done"
    if "://" in server:
        return ", but a URL, which mcpool_wsgi.config.client_from_url() may read"
    if "+" in server and not server.startswith("/"):
        return ", but a source, which mcpool_wsgi.discovery follows"
    if server.startswith("/"):
        return f", because its path is not UTF-8 without NUL, of at most {LONGEST_PATH} bytes"
    port, *_ = [*_numbers(server), ""]
    is_port = _is_number(port) and 1 <= int(port) <= 65535
    if not port or is_port or "@" in server:  # behind a username it is a password
        return ""
    return f", because its port is {port!r}"


def _numbers(server: Any) -> list[str]:
    """The port and the weight of an address, as far as it has them."""
    if not isinstance(server, str):
        return []
    return server.rpartition("]")[2].split(":")[1:]
