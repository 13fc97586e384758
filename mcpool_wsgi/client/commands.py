"""
Commands
========

The commands of memcached, with pylibmc's names and parameters. Each checks its arguments,
because the C code does not, and then passes the door (:mod:`mcpool_wsgi.client.connection`).

In the text protocol a key with a space or a line break is a command of its own. pylibmc
sends it, and from then on every answer on the connection belongs to the key before (the
class of CVE-2020-13254).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Callable, TypeVar

import pylibmc

from ..errors import InvalidKey, PickleForbidden, shown
from .arguments import (
    LARGEST_CAS,
    LARGEST_DELTA,
    LARGEST_LENGTH,
    LARGEST_TIME,
    checked_number,
)
from .connection import Connection, native
from .keys import Key, KeyRule, encoded
from .values import (
    PLAIN,
    TOO_LONG_TO_COMPRESS,
    NativeMethod,
    check_deserialized,
    check_serialized,
    storable,
)

_Self = TypeVar("_Self", bound="Commands")
_control_character = re.compile(rb"[\x00-\x1f\x7f]").search


class Commands(Connection):
    """The commands of :class:`pylibmc.Client`, with checked arguments."""

    __slots__ = ("_rule",)

    _rule: KeyRule

    serialize = NativeMethod(native.serialize, check_serialized)
    deserialize = NativeMethod(native.deserialize, check_deserialized)

    @property
    def _has_cas(self) -> bool:
        """Whether the behavior ``cas`` is on."""
        raise NotImplementedError

    def _clone(self: _Self) -> _Self:
        clone = super()._clone()
        clone._rule = self._rule
        return clone

    # -- One key

    def get(self, key: Key, default: Any = None) -> Any:
        """The value stored under *key*, or *default*."""
        try:
            return self._command(native.get, self._rule.encoded(key), default)
        except PickleForbidden as error:
            raise PickleForbidden(error.why, key) from None

    def gets(self, key: Key) -> Any:
        """``(value, cas)`` for *key*, or ``(None, None)``.

        It reads the end of the answer while it holds Python's lock, so a server that stalls
        there holds up all threads, ``command_timeout`` or not.

        :raises ValueError: the behavior ``cas`` is off.
        """
        raw = self._rule.encoded(key)
        self._check_cas("gets")
        try:
            return self._command(native.gets, raw)
        except PickleForbidden as error:
            raise PickleForbidden(error.why, key) from None

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
        """Put *val* behind the value stored under *key*."""
        return self._store(native.append, key, val, time, min_compress_len, compress_level)

    def prepend(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        """Put *val* before the value stored under *key*."""
        return self._store(native.prepend, key, val, time, min_compress_len, compress_level)

    def cas(self, key: Key, val: Any, cas: int, time: int = 0) -> bool:
        """Store *val* if nobody has stored another since :meth:`gets` gave *cas*.

        :raises ValueError: the behavior ``cas`` is off.
        """
        raw = self._rule.encoded(key)
        cas = checked_number("cas", cas, LARGEST_CAS, key=key)
        time = checked_number("time", time, LARGEST_TIME, key=key)
        self._check_cas("cas")
        try:
            stored: bool = self._command(native.cas, raw, storable(val), cas, time)
        except (PickleForbidden, pylibmc.TooBig) as error:
            raise _with_key(error, key) from None
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
        if time:
            time = checked_number("time", time, LARGEST_TIME, key=key)
        if min_compress_len or compress_level != -1:
            _check_compression(key, val, min_compress_len, compress_level)
        try:
            stored: bool = self._command(command, raw, val, time, min_compress_len, compress_level)
        except (PickleForbidden, pylibmc.TooBig) as error:
            raise _with_key(error, key) from None
        return stored

    def incr(self, key: Key, delta: int = 1) -> int:
        """Add *delta* to the number under *key* and return the sum.

        :raises pylibmc.NotFound: there is no such key.
        """
        return self._count(native.incr, key, delta)

    def decr(self, key: Key, delta: int = 1) -> int:
        """Subtract *delta* from the number under *key*, not below 0, and return the rest.

        :raises pylibmc.NotFound: there is no such key.
        """
        return self._count(native.decr, key, delta)

    def _count(self, command: Callable[..., int], key: Key, delta: int) -> int:
        raw = self._rule.encoded(key)
        delta = checked_number("delta", delta, LARGEST_DELTA, key=key)
        try:
            result: int = self._command(command, raw, delta)
        except pylibmc.NotFound:
            raise pylibmc.NotFound(f"there is no memcached key {shown(key)} to count on") from None
        return result

    def touch(self, key: Key, seconds: int) -> bool:
        """Let *key* expire in so many *seconds* from now. Whether there is such a key."""
        raw = self._rule.encoded(key)
        seconds = checked_number("seconds", seconds, LARGEST_TIME, key=key)
        return bool(self._command(native.touch, raw, seconds))

    def delete(self, key: Key) -> bool:
        """Remove *key*. Whether there was one."""
        return bool(self._command(native.delete, self._rule.encoded(key)))

    def __setitem__(self, key: Key, val: Any) -> None:
        if not self.set(key, val) and not self._fail_soft:
            raise KeyError(f"failed setting {key!r}")

    def hash(self, key: Key) -> int:
        """The number by which libmemcached chooses a server for *key*."""
        return int(super().hash(encoded(key)))

    # -- Many keys. Prefixes are put on here: pylibmc checks no length and cuts at NUL bytes.

    def get_multi(self, keys: Iterable[Key], key_prefix: Key | None = None) -> dict[Key, Any]:
        """``{key: value}`` for those of *keys* that there are."""
        if isinstance(keys, (str, bytes)):
            raise _single_key(keys)
        wanted = list(keys)
        command = _get_multi_of_several if len(self.addresses) > 1 else _get_multi
        try:
            if key_prefix is None and self._rule.are_plain(wanted):
                try:
                    answer: dict[Key, Any] = self._command(command, wanted)
                except PickleForbidden:
                    raise
                except (pylibmc.BadKeyProvided, ValueError):
                    pass  # one is too long, and what follows says which
                else:
                    return answer
            named = self._prefixed(wanted, key_prefix)
            found = self._command(command, list(named))
            return {named[raw]: value for raw, value in found.items()}
        except PickleForbidden:
            for raw, key in self._prefixed(wanted, key_prefix).items():
                try:
                    self._command(native.get, raw, None)
                except PickleForbidden as error:
                    raise PickleForbidden(error.why, key) from None
            raise

    def set_multi(
        self,
        keys: Mapping[Key, Any],
        time: int = 0,
        key_prefix: Key | None = None,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> list[Key]:
        """Store all of *keys*. The keys that could not be stored."""
        return self._store_multi(
            native.set_multi, keys, time, key_prefix, min_compress_len, compress_level
        )

    def add_multi(
        self,
        keys: Mapping[Key, Any],
        time: int = 0,
        key_prefix: Key | None = None,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> list[Key]:
        """Like :meth:`set_multi`, of keys that are not there yet."""
        return self._store_multi(
            native.add_multi, keys, time, key_prefix, min_compress_len, compress_level
        )

    def _store_multi(
        self,
        command: Callable[..., Any],
        mapping: Mapping[Key, Any],
        time: int,
        key_prefix: Key | None,
        min_compress_len: int,
        compress_level: int,
    ) -> list[Key]:
        named = self._prefixed(mapping, key_prefix)
        values = {raw: storable(mapping[key]) for raw, key in named.items()}
        if time:
            time = checked_number("time", time, LARGEST_TIME)
        if min_compress_len or compress_level != -1:
            for raw, val in values.items():
                _check_compression(named[raw], val, min_compress_len, compress_level)
        try:
            failed = self._command(command, values, time, b"", min_compress_len, compress_level)
        except PickleForbidden:
            for raw, val in values.items():
                try:
                    self.serialize(val)
                except PickleForbidden as error:
                    raise PickleForbidden(error.why, named[raw]) from None
            raise
        return [named[raw] for raw in failed]

    def incr_multi(
        self, keys: Iterable[Key], key_prefix: Key | None = None, delta: int = 1
    ) -> None:
        """Add *delta* to the numbers under all of *keys*.

        :raises pylibmc.NotFound: one is not there. The others are counted on.
        """
        # One by one, as pylibmc sends them: of several it does not say which failed.
        errors = []
        for raw in self._prefixed(keys, key_prefix):
            try:
                self._count(native.incr, raw, delta)
            except pylibmc.Error as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def delete_multi(self, keys: Iterable[Key], key_prefix: Key | None = None) -> bool:
        """Remove all of *keys*. Whether all were there."""
        if isinstance(keys, Mapping):
            raise TypeError("keys must be a sequence, not a mapping")
        named = self._prefixed(keys, key_prefix)
        deleted = [self._command(native.delete, raw) for raw in named]  # each of them
        return all(deleted)

    def _prefixed(self, keys: Iterable[Key], key_prefix: Key | None) -> dict[bytes, Key]:
        """The keys as they go over the wire, each with the caller's name for it."""
        if isinstance(keys, (str, bytes)):
            raise _single_key(keys)
        prefix = b"" if key_prefix is None else encoded(key_prefix)
        return {self._rule.encoded(key, prefix): key for key in keys}

    # -- No key

    def flush_all(self, time: int = 0) -> bool:
        """Forget everything on all servers, in *time* seconds."""
        return bool(self._command(native.flush_all, checked_number("time", time, LARGEST_TIME)))

    def get_stats(self, *args: Any) -> list[tuple[bytes, dict[str, bytes]]]:
        """``[(server, {name: value}), ...]``

        :raises InvalidKey: an argument has a byte that the text protocol gives a meaning.
        """
        for arg in args:
            if _control_character(encoded(arg)):
                raise InvalidKey(arg, "has a byte in it that ends a command")
        found: list[tuple[bytes, dict[str, bytes]]] = self._command(native.get_stats, *args)
        return found

    def disconnect_all(self) -> None:
        """Close all connections. The next command opens what it needs."""
        self._command(native.disconnect_all)

    def _check_cas(self, command: str) -> None:
        if not self._has_cas:
            raise ValueError(f"{command} needs the behavior cas: behaviors={{'cas': True}}")


def _with_key(error: Exception, key: Key) -> Exception:
    if isinstance(error, PickleForbidden):
        return PickleForbidden(error.why, key)
    return pylibmc.TooBig(  # type: ignore[no-any-return]
        f"the value of memcached key {shown(key)} is larger than the server stores: 1 MiB, unless"
        " memcached runs with another -I"
    )


def _check_compression(key: Key, val: Any, min_compress_len: int, compress_level: int) -> None:
    checked_number("min_compress_len", min_compress_len, LARGEST_LENGTH, key=key)
    checked_number("compress_level", compress_level, 9, least=-1, key=key)
    if isinstance(val, (str, bytes)) and len(val) >= TOO_LONG_TO_COMPRESS:
        raise ValueError(
            f"the value of memcached key {shown(key)} has {len(val)} bytes, and fewer than"
            f" {TOO_LONG_TO_COMPRESS} can be compressed"
        )


def _single_key(key: Key) -> TypeError:
    return TypeError(f"keys is a sequence of keys, not the single {key!r}")


def _get_multi(client: Commands, keys: list[Key]) -> dict[Key, Any]:
    """The answer of one server.

    :raises pylibmc.ProtocolError: it has a key that was not asked for.
    """
    found: dict[Key, Any] = _native_get_multi(client, keys)
    try:
        "".join(found)  # type: ignore[arg-type]  # a key that was not asked for is bytes
    except TypeError:
        if not found.keys() <= set(keys):
            raise pylibmc.ProtocolError("get_multi was answered with a foreign key") from None
    return found


def _get_multi_of_several(client: Commands, keys: list[Key]) -> dict[Key, Any]:
    """The answers of several servers.

    If a server is late, or a signal comes, the C code returns without its answer and says
    nothing. Of a binary connection a later command would read that answer as its own. So
    if a key is missing, a ``get`` of one key follows: it first reads what is still to come.
    """
    found = _get_multi(client, keys)
    if len(found) < len(keys):
        try:
            native.get(client, next(encoded(key) for key in keys if key not in found))
        except (pylibmc.Error, RuntimeError, StopIteration):
            native.disconnect_all(client)
    return found


_native_get_multi: Any = native.get_multi
_get_multi.__name__ = _get_multi_of_several.__name__ = native.get_multi.__name__
