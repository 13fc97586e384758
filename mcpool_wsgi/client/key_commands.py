"""
Commands of one key
===================

The commands that have one key, with pylibmc's names and parameters. Each checks its
arguments, because the C code does not, and then passes the door
(:mod:`mcpool_wsgi.client.connection`).

Nothing is ever stored under an empty key, as with pylibmc: a read is a miss, a write returns
False, and ``incr``, ``decr`` and ``cas`` raise. Nothing is sent.

In the text protocol a key with a space or a line break is a command of its own. pylibmc
sends it, and from then on every answer on the connection belongs to the key before (the
class of CVE-2020-13254).
"""

from __future__ import annotations

from typing import Any, Callable, TypeVar

import pylibmc

from ..errors import PickleForbidden, shown
from . import binary_protocol, explanations, native
from .arguments import (
    LARGEST_CAS,
    LARGEST_DELTA,
    LARGEST_LENGTH,
    LARGEST_TIME,
    checked_number,
)
from .connection import Connection
from .failures import MISS
from .keys import Key, KeyRule, encoded
from .values import (
    PLAIN,
    TOO_LONG_TO_COMPRESS,
    NativeMethod,
    deserialize,
    serialize,
    storable,
    writing_ints,
)

_Self = TypeVar("_Self", bound="KeyCommands")

ZERO = 0  # for time and min_compress_len: never
DEFAULT_LEVEL = -1  # of compression


class KeyCommands(Connection):
    """The commands of :class:`pylibmc.Client` that have one key."""

    __slots__ = ("_rule",)

    _rule: KeyRule

    serialize: Any = NativeMethod(native.serialize, serialize)
    deserialize: Any = NativeMethod(native.deserialize, deserialize)

    @property
    def _has_cas(self) -> bool:
        """Whether the behavior ``cas`` is on."""
        raise NotImplementedError

    def _clone(self: _Self) -> _Self:
        clone = super()._clone()
        clone._rule = self._rule
        return clone

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

    def set(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        """Store *val* under *key*.

        :param time: seconds until it expires, 0 for never; more than 30 days is a Unix time.
        :param min_compress_len: compress values of at least that many bytes; 0 for never.
        :param compress_level: zlib's, 0 to 9, or -1 for its default.
        :return: whether it was stored.
        """
        return self._store(native.set, key, val, time, min_compress_len, compress_level)

    def add(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        """Like :meth:`set`, if there is no such key yet."""
        return self._store(native.add, key, val, time, min_compress_len, compress_level)

    def replace(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        """Like :meth:`set`, if there is such a key."""
        return self._store(native.replace, key, val, time, min_compress_len, compress_level)

    def append(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        """Put *val* behind the value stored under *key*.

        It is not compressed, whatever *min_compress_len* is: nobody could read the two together.
        If the value was stored compressed, a read does not show what is put behind it.
        """
        return self._extend(native.append, key, val, time, min_compress_len, compress_level)

    def prepend(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        """Put *val* before the value stored under *key*.

        It is not compressed, as with :meth:`append`. If the value was stored compressed, it
        cannot be read any more.
        """
        return self._extend(native.prepend, key, val, time, min_compress_len, compress_level)

    def cas(self, key: Key, val: Any, cas: int, time: int = 0) -> bool:
        """Store *val* if nobody has stored another since :meth:`gets` gave *cas*.

        :param time: as that of :meth:`set`.
        :return: whether it was stored.
        :raises ValueError: the behavior ``cas`` is off, or *cas* is 0, which :meth:`gets` gives if
            memcached runs with ``-C``.
        """
        raw = self._rule.encoded(key)
        # libmemcached would send no cas, and memcached would read the value as commands.
        cas = checked_number("cas", cas, LARGEST_CAS, key=key, least=1)
        time = checked_number("time", time, LARGEST_TIME, key=key)
        self._check_cas("cas")
        val = storable(val)
        command = writing_ints(native.cas) if type(val) is int else native.cas
        if self.binary:
            command = binary_protocol.storing(command)
        try:
            stored: bool = self._command(command, (self, raw, val, cas, time))
        except pylibmc.BadKeyProvided:
            raise explanations.empty_key(key) from None
        except explanations.VALUE_ERRORS as error:
            raise explanations.of_value(error, self, key, val) from error.__cause__
        return stored

    def _store(
        self,
        command: Callable[..., bool],
        key: Key,
        val: Any,
        time: int,
        min_compress_len: int,
        compress_level: int,
    ) -> bool:
        raw = self._rule.encoded(key)
        if type(val) not in PLAIN:
            val = storable(val)
            if type(val) is int:
                command = writing_ints(command)
        # By identity, because a subclass of int may say that it is false, or equal.
        if time is not ZERO:
            time = checked_number("time", time, LARGEST_TIME, key=key)
        if min_compress_len is not ZERO or compress_level is not DEFAULT_LEVEL:
            check_compression(key, val, min_compress_len, compress_level)
        if self.binary:
            command = binary_protocol.storing(command)
        try:
            stored: bool = self._command(
                command, (self, raw, val, time, min_compress_len, compress_level)
            )
        except explanations.VALUE_ERRORS as error:
            raise explanations.of_value(error, self, key, val) from error.__cause__
        return stored

    def _extend(
        self,
        command: Callable[..., bool],
        key: Key,
        val: Any,
        time: int,
        min_compress_len: int,
        compress_level: int,
    ) -> bool:
        check_compress_numbers(key, min_compress_len, compress_level)
        return self._store(command, key, val, time, ZERO, DEFAULT_LEVEL)

    def incr(self, key: Key, delta: int = 1) -> int:
        """Add *delta* to the number under *key* and return the sum.

        :raises pylibmc.NotFound: there is no such key.
        :raises pylibmc.ClientError: there is something else under it.
        """
        return self._count(native.incr, key, delta)

    def decr(self, key: Key, delta: int = 1) -> int:
        """Subtract *delta* from the number under *key*, not below 0, and return the rest.

        :raises pylibmc.NotFound: there is no such key.
        :raises pylibmc.ClientError: there is something else under it.
        """
        return self._count(native.decr, key, delta)

    def _count(
        self, command: Callable[..., int], key: Key, delta: int, limit: float | None = None
    ) -> int:
        raw = self._rule.encoded(key)
        delta = checked_number("delta", delta, LARGEST_DELTA, key=key)
        if self.binary:
            command = binary_protocol.counting(command)
        try:
            result: int = self._command(command, (self, raw, delta), limit)
        except pylibmc.BadKeyProvided:
            raise explanations.empty_key(key) from None
        except pylibmc.NotFound:
            raise explanations.missing_number(key) from None
        except pylibmc.ClientError:
            raise explanations.no_number(key) from None
        return result

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

    def __setitem__(self, key: Key, val: Any) -> None:
        if not self.set(key, val) and not self._fail_soft:
            raise KeyError(f"failed setting {key!r}")

    def hash(self, key: Key) -> int:
        """The position of the server that libmemcached chooses for *key*, from 0."""
        return int(super().hash(encoded(key)))

    def _check_cas(self, command: str) -> None:
        if not self._has_cas:
            raise ValueError(f"{command} needs the behavior cas: behaviors={{'cas': True}}")


def _gets(client: KeyCommands, key: bytes) -> Any:
    found = native.gets(client, key)
    return MISS if found[1] is None else found


_gets.__name__ = native.gets.__name__


def check_compression(key: Key, val: Any, min_compress_len: int, compress_level: int) -> None:
    check_compress_numbers(key, min_compress_len, compress_level)
    if isinstance(val, (str, bytes)) and len(val) >= TOO_LONG_TO_COMPRESS:
        raise ValueError(
            f"the value of memcached key {shown(key)} has {len(val)} bytes, and fewer than"
            f" {TOO_LONG_TO_COMPRESS} can be compressed"
        )


def check_compress_numbers(key: Key, min_compress_len: int, compress_level: int) -> None:
    checked_number("min_compress_len", min_compress_len, LARGEST_LENGTH, key=key)
    checked_number("compress_level", compress_level, 9, least=-1, key=key)
