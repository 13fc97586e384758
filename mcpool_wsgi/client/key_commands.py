"""
Commands of one key
===================

The commands that have one key, with pylibmc's names and parameters: those that read, count, touch
and delete. (:mod:`mcpool_wsgi.client.storing_commands` has those that store.) Each checks its
arguments, because the C code does not, and then passes the door
(:mod:`mcpool_wsgi.client.connection`).

Nothing is ever stored under an empty key, as with pylibmc: a read is a miss, a write returns
False, and ``incr``, ``decr``, ``incr_multi`` and ``cas`` raise. Nothing is sent.

In the text protocol a key with a space or a line break is a command of its own. pylibmc
sends it, and from then on every answer on the connection belongs to the key before (the
class of CVE-2020-13254).
"""

from __future__ import annotations

from typing import Any, Callable

import pylibmc

from ..errors import PickleForbidden
from . import binary_protocol, explanations, native
from .arguments import LARGEST_DELTA, LARGEST_TIME, checked_number
from .behavior_commands import BehaviorCommands
from .failures import MISS
from .keys import Key, encoded
from .silent_errors import with_cause
from .values import NativeMethod, deserialize, serialize


class KeyCommands(BehaviorCommands):
    """The commands of :class:`pylibmc.Client` that have one key and store no value."""

    __slots__ = ()

    serialize: Any = NativeMethod(native.serialize, serialize)
    deserialize: Any = NativeMethod(native.deserialize, deserialize)

    def get(self, key: Key, default: Any = None) -> Any:
        """The value stored under *key*, or *default*."""
        try:
            value = self._command(native.get, (self, self._rule.encoded(key), MISS))
        except PickleForbidden as error:
            raise PickleForbidden(error.why, key) from None
        return default if value is MISS else value

    def gets(self, key: Key) -> tuple[Any, Any]:
        """``(value, cas)`` for *key*, or ``(None, None)``.

        It reads the end of the answer while it holds Python's lock, so a server that stalls
        there holds up all threads, ``command_timeout`` or not.

        :raises ValueError: the behavior ``cas`` is off.
        """
        raw = self._rule.encoded(key)
        self._check_cas("gets")
        try:
            found = self._command(_gets, (self, raw))
        except PickleForbidden as error:
            raise PickleForbidden(error.why, key) from None
        return (None, None) if found is MISS else found

    def incr(self, key: Key, delta: int = 1) -> int:
        """Add *delta* to the number under *key* and return the sum.

        memcached counts up to 2**64 - 1, and then goes on at 0.

        :raises pylibmc.NotFound: there is no such key.
        :raises pylibmc.ClientError: there is something else under it.
        """
        return count(self, native.incr, key, delta)

    def decr(self, key: Key, delta: int = 1) -> int:
        """Subtract *delta* from the number under *key*, not below 0, and return the rest.

        :raises pylibmc.NotFound: there is no such key.
        :raises pylibmc.ClientError: there is something else under it.
        """
        return count(self, native.decr, key, delta)

    def touch(self, key: Key, seconds: int) -> bool:
        """Let *key* expire later or earlier than it would. Return whether there is such a key.

        :param seconds: as *time* of :meth:`set`: 0 is never, and more than 30 days is a Unix time.
        """
        raw = self._rule.encoded(key)
        seconds = checked_number("seconds", seconds, LARGEST_TIME, key=key)
        return bool(self._command(native.touch, (self, raw, seconds)))

    def delete(self, key: Key) -> bool:
        """Remove *key*. Return whether there was such a key."""
        return bool(self._command(native.delete, (self, self._rule.encoded(key))))

    def hash(self, key: Key) -> int:
        """The position of the server that libmemcached chooses for *key*, from 0.

        It may be any server's at the moment when a command of another thread leaves one out.
        """
        if not hasattr(self, "_rule"):  # the C code would divide by its number of servers, 0
            raise RuntimeError("this client has no servers, because its __init__() has failed")
        return int(native.hash(self._here(), encoded(key)))  # the parent's may leave one out


def count(
    client: BehaviorCommands,
    command: Callable[..., int],
    key: Key,
    delta: int,
    limit: float | None = None,
) -> int:
    """The number under *key* after *command*, which is that of ``incr`` or ``decr``.

    :param limit: seconds, in place of ``command_timeout``.
    """
    raw = client._rule.encoded(key)
    delta = checked_number("delta", delta, LARGEST_DELTA, key=key)
    command = with_cause(command)
    if client.binary:
        command = binary_protocol.counting(command)
    try:
        result: int = client._command(command, (client, raw, delta), limit)
    except pylibmc.BadKeyProvided:
        if raw:  # the behavior verify_keys refuses it
            raise
        raise explanations.empty_key(key) from None
    except pylibmc.NotFound:
        raise explanations.missing_number(key) from None
    except pylibmc.ClientError:
        raise explanations.no_number(key) from None
    return result


def _gets(client: KeyCommands, key: bytes) -> Any:
    found = native.gets(client, key)
    return MISS if found[1] is None else found


_gets.__name__ = native.gets.__name__
