"""
Commands
========

Those of memcached, with pylibmc's names and parameters. In memcached's text protocol
a key with a space or a line break is a command of its own; pylibmc sends it, and from
then on every answer on the connection belongs to the key before (the class of
CVE-2020-13254). So every command here checks its keys first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Callable, TypeVar

import pylibmc

from .connection import Connection
from .errors import InvalidKey
from .keys import Key, KeyRule, encoded

_Self = TypeVar("_Self", bound="Commands")
_control_character = re.compile(rb"[\x00-\x1f\x7f]").search


class Commands(Connection):
    """The commands of :class:`pylibmc.Client`, which refuse keys that must not reach the wire."""

    __slots__ = ("_rule",)

    _rule: KeyRule

    def _clone(self: _Self) -> _Self:
        clone = super()._clone()
        clone._rule = self._rule
        return clone

    # -- One key

    def get(self, key: Key, default: Any = None) -> Any:
        """The value stored under *key*, or *default*."""
        self._rule.check(key)
        return self._command(_get, self, key, default)

    def gets(self, key: Key) -> Any:
        """``(value, cas)`` for *key*, or ``(None, None)``; needs the behavior ``cas``."""
        self._rule.check(key)
        return self._command(_gets, self, key)

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
        self._rule.check(key)
        return bool(self._command(_set, self, key, val, time, min_compress_len, compress_level))

    def add(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        """Like :meth:`set`, if there is no such key yet."""
        self._rule.check(key)
        return bool(self._command(_add, self, key, val, time, min_compress_len, compress_level))

    def replace(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        """Like :meth:`set`, if there is such a key."""
        self._rule.check(key)
        return bool(
            self._command(_replace, self, key, val, time, min_compress_len, compress_level)
        )

    def append(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        """Put *val* behind the value stored under *key*."""
        self._rule.check(key)
        return bool(self._command(_append, self, key, val, time, min_compress_len, compress_level))

    def prepend(
        self,
        key: Key,
        val: Any,
        time: int = 0,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> bool:
        """Put *val* before the value stored under *key*."""
        self._rule.check(key)
        return bool(
            self._command(_prepend, self, key, val, time, min_compress_len, compress_level)
        )

    def cas(self, key: Key, val: Any, cas: int, time: int = 0) -> bool:
        """Store *val* if nobody has since :meth:`gets` gave *cas*."""
        self._rule.check(key)
        return bool(self._command(_cas, self, key, val, cas, time))

    def incr(self, key: Key, delta: int = 1) -> int:
        """Add *delta* to the number under *key* and return the sum."""
        self._rule.check(key)
        total: int = self._command(_incr, self, key, delta)
        return total

    def decr(self, key: Key, delta: int = 1) -> int:
        """Subtract *delta* from the number under *key*, not below 0, and return the rest."""
        self._rule.check(key)
        rest: int = self._command(_decr, self, key, delta)
        return rest

    def touch(self, key: Key, seconds: int) -> bool:
        """Have *key* expire in so many *seconds* from now."""
        self._rule.check(key)
        return bool(self._command(_touch, self, key, seconds))

    def delete(self, key: Key) -> bool:
        """Remove *key*; whether there was one."""
        self._rule.check(key)
        return bool(self._command(_delete, self, key))

    def __setitem__(self, key: Key, val: Any) -> None:
        if not self.set(key, val) and not self._fail_soft:
            raise KeyError(f"failed setting {key!r}")

    # -- Many keys. Prefixes are put on here: pylibmc checks no length and cuts at NUL bytes.

    def get_multi(self, keys: Iterable[Key], key_prefix: Key | None = None) -> dict[Key, Any]:
        """``{key: value}`` for those of *keys* that there are."""
        named = self._prefixed(keys, key_prefix)
        found = self._command(_get_multi, self, list(named))
        return {named[key]: value for key, value in found.items()}

    def set_multi(
        self,
        keys: Mapping[Key, Any],
        time: int = 0,
        key_prefix: Key | None = None,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> list[Key]:
        """Store all of *keys*; the keys that could not be stored."""
        return self._store_multi(
            _set_multi, keys, key_prefix, time, b"", min_compress_len, compress_level
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
            _add_multi, keys, key_prefix, time, b"", min_compress_len, compress_level
        )

    def incr_multi(
        self, keys: Iterable[Key], key_prefix: Key | None = None, delta: int = 1
    ) -> None:
        """Add *delta* to the numbers under all of *keys*."""
        # One by one, as pylibmc sends them: of several it does not say what failed.
        errors = []
        for key in self._prefixed(keys, key_prefix):
            try:
                self._command(_incr_multi, self, [key], b"", delta)
            except pylibmc.Error as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def delete_multi(self, keys: Iterable[Key], key_prefix: Key | None = None) -> bool:
        """Remove all of *keys*; whether all were there."""
        if isinstance(keys, Mapping):
            raise TypeError("keys must be a sequence, not a mapping")
        deleted = [self.delete(key) for key in self._prefixed(keys, key_prefix)]
        return all(deleted)

    def _store_multi(
        self,
        command: Callable[..., Any],
        mapping: Mapping[Key, Any],
        key_prefix: Key | None,
        *args: Any,
    ) -> list[Key]:
        named = self._prefixed(mapping, key_prefix)
        values = {full: mapping[key] for full, key in named.items()}
        return [named[full] for full in self._command(command, self, values, *args)]

    def _prefixed(self, keys: Iterable[Key], key_prefix: Key | None) -> dict[bytes, Key]:
        """The keys as they go over the wire, each with the caller's name for it."""
        if isinstance(keys, (str, bytes)):
            raise TypeError(f"keys is a sequence of keys, not the single {keys!r}")
        prefix = b"" if key_prefix is None else encoded(key_prefix)
        named: dict[bytes, Key] = {}
        for key in keys:
            self._rule.check(key, prefix)
            named[prefix + encoded(key)] = key
        return named

    # -- No key

    def flush_all(self, time: int = 0) -> bool:
        """Forget everything on all servers, in *time* seconds."""
        return bool(self._command(_flush_all, self, time))

    def get_stats(self, *args: Any) -> list[tuple[bytes, dict[str, bytes]]]:
        """``[(server, {name: value}), ...]``

        :raises InvalidKey: an argument has a byte that the text protocol gives a meaning.
        """
        for arg in args:
            if _control_character(encoded(arg)):
                raise InvalidKey(arg, "has a byte in it that ends a command")
        found: list[tuple[bytes, dict[str, bytes]]] = self._command(_get_stats, self, *args)
        return found

    def disconnect_all(self) -> None:
        """Close all connections; the next command opens what it needs."""
        self._command(pylibmc.Client.disconnect_all, self)


# Names of this module, because each command would have to look for two attributes otherwise.
_get = pylibmc.Client.get
_gets = pylibmc.Client.gets
_set = pylibmc.Client.set
_add = pylibmc.Client.add
_replace = pylibmc.Client.replace
_append = pylibmc.Client.append
_prepend = pylibmc.Client.prepend
_cas = pylibmc.Client.cas
_incr = pylibmc.Client.incr
_decr = pylibmc.Client.decr
_touch = pylibmc.Client.touch
_delete = pylibmc.Client.delete
_get_multi = pylibmc.Client.get_multi
_set_multi = pylibmc.Client.set_multi
_add_multi = pylibmc.Client.add_multi
_incr_multi = pylibmc.Client.incr_multi
_flush_all = pylibmc.Client.flush_all
_get_stats = pylibmc.Client.get_stats
