"""
Binary protocol
===============

Commands whose outcome the C code does not tell in the binary protocol.
"""

from __future__ import annotations

import functools
import secrets
from time import monotonic
from typing import Any

import pylibmc

from . import failures, native, sockets
from .discarding import discard
from .silent_errors import silent_error
from .watchdog import SHORTEST_LIMIT


@functools.cache
def counting(command: native.Command) -> native.Command:
    """*command*, with the error that it has in the text protocol if a value is no number.

    libmemcached does not know memcached's answer for such a value. Its error is the same if the
    connection breaks in the middle of an answer, but then it remembers another cause. And it is
    the same if memcached has too many connections, but then no other key gets an answer either.
    """

    def count(client: Any, key: bytes, delta: int) -> int:
        try:
            result: int = command(client, key, delta)
        except pylibmc.UnknownReadFailure as error:
            if not failures.is_own(error):
                raise
            cause = silent_error(client, command.__name__)
            if cause is None or type(cause) is pylibmc.UnknownReadFailure:
                cause = _failure_of_another_key(client, key)
            if cause is not None:
                try:
                    raise cause from error
                finally:
                    del cause  # its traceback has this frame: that would be a circle
            raise pylibmc.ClientError(str(error)) from error
        return result

    count.__name__ = command.__name__
    return count


def _failure_of_another_key(client: Any, key: bytes) -> Exception | None:
    """Why a server that gave no known answer for *key* gives none for a missing key either."""
    # On a client of its own, because libmemcached may leave the server out from now on.
    address = client.addresses[native.hash(client, key)]
    left = client._deadline - monotonic()  # infinite if a signal handler was at work meanwhile
    limit = max(min(left, client._command_timeout), SHORTEST_LIMIT)
    other = client._for_one_server(address, limit)
    other._fail_soft, other._listeners = False, []
    other._on_failure = other.on_connection_failure = None
    try:
        other._command(native.incr, (other, secrets.token_hex(8).encode(), 0))
    except pylibmc.NotFound:
        pass
    except pylibmc.Error as error:
        if not failures.is_own(error):
            raise
        return error  # type: ignore[no-any-return]
    finally:
        discard(other)
    return None


@functools.cache
def storing(command: native.Command) -> native.Command:
    """*command*, with an error if memcached could not store a value, because it has no memory, and
    without one if ``replace`` finds no key.

    Without memory, libmemcached returns what it returns if another value is in the way, and closes
    the connection. For the next key of the same command, the server counts as failed.
    """

    def store(client: Any, *args: Any) -> Any:
        try:
            result = command(client, *args)
        except pylibmc.ServerDown as error:
            if len(client.addresses) > 1 or not failures.is_own(error):
                raise
            raise _not_stored(command) from error  # an earlier key was not stored
        except pylibmc.NotFound as error:
            if command.__name__ != "replace" or not failures.is_own(error):
                raise
            return False  # as in the text protocol
        if result is True or result == []:
            return result
        not_stored = result if isinstance(result, list) else args[:1]
        descriptors = sockets.numbers(client)
        for key in filter(None, not_stored):  # without one, nothing was sent
            if descriptors and descriptors[native.hash(client, key)] == -1:
                raise _not_stored(command)
        return result

    store.__name__ = command.__name__
    return store


def _not_stored(command: native.Command) -> Exception:
    text = f"{command.__name__} failed: memcached could not store it"
    return pylibmc.Error(text)  # type: ignore[no-any-return]


def flush_all(client: Any, time: int) -> bool:
    """The command, followed by one that every server must answer.

    The C code says True although no server has answered.
    """
    flushed: bool = native.flush_all(client, time)
    native.get_stats(client)
    return flushed
