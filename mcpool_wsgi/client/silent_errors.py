"""
Silent errors
=============

The errors that pylibmc does not raise. If the server of a ``get`` times out, answers
``SERVER_ERROR`` or, with libmemcached 1.0.16, closes the connection, pylibmc returns what it
returns for a key that is not there. For ``incr`` and ``decr``, it says only that keys failed. If
the system has no memory for a connection, a storing command returns what it returns if another
value is in the way. libmemcached remembers the cause, and exports a function that tells it.

A command that succeeds does not ask for it, so a hit costs nothing. If the function cannot
be used (see :mod:`mcpool_wsgi.client.libmemcached`), such a read stays a miss.
"""

from __future__ import annotations

import errno
import functools
import re
from typing import Any

import pylibmc

from . import native
from .failures import Interrupted, is_own
from .libmemcached import Library, calibrated

ERRNO = 26  # libmemcached's code for an error of the system
#: Any other code is a plain pylibmc.Error.
_classes = {getattr(kind, "retcode", None): kind for kind in vars(pylibmc).values()}
#: The text of an error about a key. These commands decode no values.
_about_key = re.compile(rb"error ([0-9]+) from memcached_(cas|touch|delete)\(").match


def silent_error(client: object, command: str) -> Exception | None:
    """Why the last *command* of *client* failed, if it has failed."""
    found = _library_of(client)
    if found is None:
        return None
    library, memcached_st = found
    code = library.last_error(memcached_st)
    if not code:
        return None
    message = (library.last_message(memcached_st) or b"").decode("utf-8", "replace")
    kind = _classes.get(code, pylibmc.Error)
    if code == ERRNO and library.last_errno(memcached_st) == errno.EINTR:
        kind = Interrupted
    error: Exception = kind(f"error {code} from {command}: {message}")
    return error


def readable(error: Exception) -> Exception:
    """The error of pylibmc in place of *error*, if pylibmc could not make it.

    Its text has up to 32 bytes of the key. If these are no UTF-8, Python raises a
    UnicodeDecodeError.
    """
    if not isinstance(error, UnicodeDecodeError) or not is_own(error):
        return error
    match = _about_key(error.object)
    if match is None:
        return error
    text = error.object.decode("utf-8", "replace")
    meant: Exception = _classes.get(int(match[1]), pylibmc.Error)(text)
    return meant


@functools.cache
def with_cause(command: native.Command) -> native.Command:
    """*command*, which is ``incr`` or ``decr``, with the cause of a failure in its error."""

    def count(client: Any, key: bytes, delta: int) -> Any:
        try:
            return command(client, key, delta)
        except pylibmc.Error as error:
            if str(error).endswith("keys failed") and is_own(error):
                cause = silent_error(client, command.__name__)
                if isinstance(cause, type(error)):
                    error.args = cause.args
            raise

    count.__name__ = command.__name__
    return count


def check_memory(client: object, command: str) -> None:
    """Check why *command*, the last one of *client*, was not done.

    :raises pylibmc.AllocationError: the system had no memory for it.
    """
    found = _library_of(client)
    if found is None:
        return
    library, memcached_st = found
    if library.last_error(memcached_st) == pylibmc.AllocationError.retcode:
        raise pylibmc.AllocationError(f"{command} failed: the system has no memory for it")


@functools.cache
def storing_many(command: native.Command) -> native.Command:
    """*command*, which returns the keys that it did not store, after :func:`check_memory`."""

    def store(client: Any, *args: Any) -> Any:
        not_stored = command(client, *args)
        if not_stored:
            check_memory(client, command.__name__)
        return not_stored

    store.__name__ = command.__name__
    return store


def is_refused(client: object) -> bool:
    """Whether the last command of *client* failed because nothing listens at its server."""
    found = _library_of(client)
    if found is None:
        return False
    library, memcached_st = found
    return library.last_errno(memcached_st) in (errno.ECONNREFUSED, errno.ENOENT)


def _library_of(client: object) -> tuple[Library, int] | None:
    """libmemcached and the address of its struct of *client*, if both are known."""
    library = calibrated()
    memcached_st = None if library is None else library.memcached_st(client)
    return (library, memcached_st) if library is not None and memcached_st else None
