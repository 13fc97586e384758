"""
Storing commands
================

The commands that store the value of one key, with pylibmc's names and parameters.
"""

from __future__ import annotations

from typing import Any, Callable

import pylibmc

from ..errors import shown
from . import binary_protocol, explanations, native
from .arguments import LARGEST_CAS, LARGEST_LENGTH, LARGEST_TIME, checked_number
from .behavior_commands import BehaviorCommands
from .keys import Key
from .values import MAY_BE_TOO_LONG, PLAIN, check_length, storable, writing_ints

ZERO = 0  # for time and min_compress_len: never
DEFAULT_LEVEL = -1  # of compression


class StoringCommands(BehaviorCommands):
    """The commands of :class:`pylibmc.Client` that store the value of one key."""

    __slots__ = ()

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
        check_compress_numbers(key, min_compress_len, compress_level)
        return self._store(native.append, key, val, time)

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
        check_compress_numbers(key, min_compress_len, compress_level)
        return self._store(native.prepend, key, val, time)

    def cas(self, key: Key, val: Any, cas: int, time: int = 0) -> bool:
        """Store *val* if nobody has stored another since :meth:`gets` gave *cas*.

        :param time: as that of :meth:`set`.
        :return: whether it was stored.
        :raises ValueError: the behavior ``cas`` is off, or *cas* is 0, which :meth:`gets` gives if
            memcached runs with ``-C``.
        :raises pylibmc.NotFound: there is no such key.
        """
        raw = self._rule.encoded(key)
        # libmemcached would send no cas, and memcached would read the value as commands.
        cas = checked_number("cas", cas, LARGEST_CAS, key=key, least=1)
        time = checked_number("time", time, LARGEST_TIME, key=key)
        self._check_cas("cas")
        val = storable(val)
        check_value(key, val)
        command = writing_ints(native.cas) if type(val) is int else native.cas
        if self.binary:
            command = binary_protocol.storing(command)
        try:
            stored: bool = self._command(command, (self, raw, val, cas, time))
        except pylibmc.BadKeyProvided:
            if raw:  # the behavior verify_keys refuses it
                raise
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
        min_compress_len: int = ZERO,
        compress_level: int = DEFAULT_LEVEL,
    ) -> bool:
        raw = self._rule.encoded(key)
        kind = type(val)
        if kind is str or kind is bytes:
            if len(val) >= MAY_BE_TOO_LONG:
                check_value(key, val)
        elif kind not in PLAIN:
            val = storable(val)
            check_value(key, val)
            if type(val) is int:
                command = writing_ints(command)
        args: tuple[Any, ...] = (self, raw, val)
        # By identity, because a subclass of int may say that it is false, or equal.
        if not (time is ZERO and min_compress_len is ZERO and compress_level is DEFAULT_LEVEL):
            time = checked_number("time", time, LARGEST_TIME, key=key)
            check_compress_numbers(key, min_compress_len, compress_level)
            args += (time, min_compress_len, compress_level)
        if self._rule.binary:
            command = binary_protocol.storing(command)
        try:
            stored: bool = self._command(command, args)
        except explanations.VALUE_ERRORS as error:
            raise explanations.of_value(error, self, key, val) from error.__cause__
        return stored

    def __setitem__(self, key: Key, val: Any) -> None:
        if not self.set(key, val) and not self._fail_soft:
            raise KeyError(f"failed setting {key!r}")


def check_value(key: Key, val: Any) -> None:
    """:raises ValueError: *val* is str or bytes, and no memcached takes so many bytes."""
    try:
        check_length(val)
    except ValueError as error:
        raise ValueError(f"the value of memcached key {shown(key)}: {error}") from None


def check_compress_numbers(key: Key, min_compress_len: int, compress_level: int) -> None:
    checked_number("min_compress_len", min_compress_len, LARGEST_LENGTH, key=key)
    checked_number("compress_level", compress_level, 9, least=-1, key=key)
