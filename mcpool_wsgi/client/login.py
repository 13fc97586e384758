"""
Login
=====

Logs a client in at memcached, with SASL. libmemcached does that whenever it connects, as a part
of the command. This module does it before the command, for two reasons:

-   A refused login looks different after each command: ``incr`` says "1 keys failed", and
    ``get_multi`` says that the server is down. Here it is a
    :exc:`~mcpool_wsgi.client.failures.LoginFailed` that names the server.
-   libmemcached before 1.1 reads the server's mechanisms into memory on the stack that it does
    not clear. If an earlier call has left a pointer there, ``PLAIN`` becomes ``PLAINU`` for
    example. Then no mechanism is found, and the right password does not help. So this module
    clears the stack before libmemcached connects.

A client of several servers connects to each when it has a command for it. So for such a client
this module only clears the stack.
"""

from __future__ import annotations

import ctypes
from typing import Any

import pylibmc

from .failures import LoginFailed
from .libmemcached import SOCKET_SEND_SIZE, calibrated
from .silent_errors import silent_error

#: libmemcached's codes for errors of a login.
NO_MECHANISM = 40
REFUSED = 41
#: What other errors mean if they come from a login.
_ONLY_AT_LOGIN = {
    pylibmc.UnknownReadFailure: "knows no login: start it with -S, or give no username",
    pylibmc.WriteError: "broke off the login: it must offer the mechanism PLAIN only",
}
#: libmemcached 1.0 has the mechanisms some ten kilobytes below the frame of its caller.
CLEARED = 16384


class _Zeros(ctypes.Structure):
    _fields_ = [("zeros", ctypes.c_char * CLEARED)]


_zeros = _Zeros()
#: Any function: a struct that is passed by value is copied to the stack.
_clear_stack: Any = ctypes.CDLL(None).getpid
_clear_stack.argtypes = (_Zeros,)


def log_in(client: Any) -> None:
    """Connect *client*, which has a username and no connection, to its server.

    :raises LoginFailed: memcached refused, or knows no login, or no mechanism in common.
    :raises pylibmc.Error: it cannot be reached.
    """
    library = calibrated()
    _clear_stack(_zeros)
    if library is None or len(client.addresses) > 1:
        return  # libmemcached logs in within the command
    if library.behavior(library.memcached_st(client), SOCKET_SEND_SIZE):
        return
    error = silent_error(client, "login")
    if error is not None:
        why = _ONLY_AT_LOGIN.get(type(error))
        if why is not None:
            raise LoginFailed(f"memcached at {client.addresses[0]} {why}") from error
        try:
            raise explained(client, error)
        finally:
            del error  # its traceback may have this frame: that would be a circle


def explained(client: Any, error: Exception) -> Exception:
    """A :exc:`LoginFailed` in place of *error*, if the last command failed for this reason."""
    if type(error) not in (pylibmc.Error, pylibmc.SomeErrors):
        return error
    library = calibrated()
    code = library.last_error(library.memcached_st(client) or 0) if library is not None else 0
    text, servers = str(error), client._shown_addresses
    username, _ = client._credentials
    if code == NO_MECHANISM or text.startswith(f"error {NO_MECHANISM} "):
        why = (
            f"cannot log in to memcached at {servers}: no SASL mechanism of the server is found"
            " here; the environment variable SASL_PATH names the directory of the mechanisms"
        )
    elif code == REFUSED or text.startswith(f"error {REFUSED} "):
        if username is None:
            return login_missing(client, error)
        why = f"memcached at {servers} refused the login of {username!r}"
    else:
        return error
    failed = LoginFailed(why)
    failed.__cause__ = error
    return failed


def login_missing(client: Any, cause: Exception | None = None) -> LoginFailed:
    """For a client without a username at a memcached with SASL.

    In the binary protocol, libmemcached takes that for a miss, and closes the connection.
    """
    servers = client._shown_addresses
    failed = LoginFailed(f"memcached at {servers} wants a login, and the client has no username")
    failed.__cause__ = cause
    return failed
