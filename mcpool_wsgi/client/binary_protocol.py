"""
Binary protocol
===============

Commands whose outcome the C code does not tell in the binary protocol.
"""

from __future__ import annotations

import functools
from typing import Any

import pylibmc

from . import failures, native, sockets
from .silent_errors import silent_error


@functools.cache
def counting(command: native.Command) -> native.Command:
    """*command*, with the error that it has in the text protocol if a value is no number.

    libmemcached does not know this answer. It says the same if the connection breaks in the middle
    of an answer, but then it remembers another cause.
    """

    def count(client: Any, key: bytes, delta: int) -> int:
        try:
            result: int = command(client, key, delta)
        except pylibmc.UnknownReadFailure as error:
            if not failures.is_own(error):
                raise
            cause = silent_error(client, command.__name__)
            if cause is not None and type(cause) is not pylibmc.UnknownReadFailure:
                try:
                    raise cause from error
                finally:
                    del cause  # its traceback has this frame: that would be a circle
            raise pylibmc.ClientError(str(error)) from error
        return result

    count.__name__ = command.__name__
    return count


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
