"""
Commands of many keys
=====================

The commands that have many keys, with pylibmc's names and parameters. Prefixes are put on here,
because pylibmc checks no length and cuts at NUL bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any, Callable

from ..errors import PickleForbidden
from . import binary_protocol, explanations, native
from .arguments import LARGEST_TIME, checked_number
from .behavior_commands import BehaviorCommands
from .failures import CommandExpired
from .key_commands import count
from .keys import AnyKey, Key, encoded
from .server_commands import call_for_each
from .silent_errors import storing_many
from .storing_commands import DEFAULT_LEVEL, ZERO, check_compress_numbers, check_value
from .values import storable, writing_ints
from .whole_answers import get_multi


class MultiCommands(BehaviorCommands):
    """The commands of :class:`pylibmc.Client` that have many keys."""

    __slots__ = ()

    def get_multi(
        self, keys: Iterable[AnyKey], key_prefix: Key | None = None
    ) -> dict[AnyKey, Any]:
        """``{key: value}`` for those of *keys* that exist."""
        if isinstance(keys, (str, bytes)):
            raise _single_key(keys)
        wanted = list(keys)
        if key_prefix is None and self._rule.are_plain(wanted):
            try:
                answer: dict[AnyKey, Any] = self._command(get_multi, (self, wanted))
                return answer
            except PickleForbidden:
                raise
            except ValueError:
                self._prefixed(wanted, key_prefix)  # says so if a key is too long
                raise
        named = dict(self._prefixed(wanted, key_prefix))
        found = self._command(get_multi, (self, list(named)))
        return {named[raw]: value for raw, value in found.items()}

    def set_multi(
        self,
        keys: Mapping[AnyKey, Any],
        time: int = 0,
        key_prefix: Key | None = None,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> list[AnyKey]:
        """Store all of *keys*. Return the keys that could not be stored."""
        return self._store_multi(
            native.set_multi, keys, time, key_prefix, min_compress_len, compress_level
        )

    def add_multi(
        self,
        keys: Mapping[AnyKey, Any],
        time: int = 0,
        key_prefix: Key | None = None,
        min_compress_len: int = 0,
        compress_level: int = -1,
    ) -> list[AnyKey]:
        """Like :meth:`set_multi`, of keys that are not there yet."""
        return self._store_multi(
            native.add_multi, keys, time, key_prefix, min_compress_len, compress_level
        )

    def _store_multi(
        self,
        command: Callable[..., Any],
        mapping: Mapping[AnyKey, Any],
        time: int,
        key_prefix: Key | None,
        min_compress_len: int,
        compress_level: int,
    ) -> list[AnyKey]:
        if not isinstance(mapping, Mapping):
            kind = type(mapping).__name__
            raise TypeError(f"keys must be a mapping of keys to values, not {kind}")
        named = dict(self._prefixed(mapping, key_prefix))
        values = {raw: storable(mapping[key]) for raw, key in named.items()}
        for raw, val in values.items():
            check_value(named[raw], val)
        if int in map(type, values.values()):
            command = writing_ints(command)
        if time is not ZERO:
            time = checked_number("time", time, LARGEST_TIME)
        if named and (min_compress_len is not ZERO or compress_level is not DEFAULT_LEVEL):
            check_compress_numbers(next(iter(named.values())), min_compress_len, compress_level)
        command = storing_many(command)
        if self.binary:
            command = binary_protocol.storing(command)
        try:
            failed = self._command(
                command, (self, values, time, b"", min_compress_len, compress_level)
            )
        except explanations.VALUE_ERRORS as error:
            raise explanations.of_values(error, self, values, named) from error.__cause__
        return [named[raw] for raw in failed]

    def incr_multi(
        self, keys: Iterable[Key], key_prefix: Key | None = None, delta: int = 1
    ) -> None:
        """Add *delta* to the number under each of *keys*. A key that is given twice counts twice.

        :raises pylibmc.NotFound: one is not there. The others are incremented.
        :raises pylibmc.Error: memcached failed, or less than a tenth of ``command_timeout`` was
            left before the last key. Some may be incremented.
        """
        # One by one, as pylibmc sends them: of several it does not say which failed.
        raws = [raw for raw, _ in self._prefixed(keys, key_prefix)]
        if b"" in raws:
            raise explanations.empty_key("")
        left = self._shared_limit("incr_multi")
        with self._forgiven_expiry():
            call_for_each(raws, lambda raw: count(self, native.incr, raw, delta, left()))

    def delete_multi(self, keys: Iterable[Key], key_prefix: Key | None = None) -> bool:
        """Remove all of *keys*. Return whether each was there.

        A key that is given twice is not there the second time.

        :raises pylibmc.Error: memcached failed, or less than a tenth of ``command_timeout`` was
            left before the last key. Some may be removed.
        """
        if isinstance(keys, Mapping):
            raise TypeError("keys must be a sequence, not a mapping")
        raws = [raw for raw, _ in self._prefixed(keys, key_prefix)]
        left = self._shared_limit("delete_multi")
        with self._forgiven_expiry():
            # A list, because all() would stop at the first key that is missing.
            deleted = [self._command(native.delete, (self, raw), left()) for raw in raws]
            return all(deleted)
        return False

    def _prefixed(
        self, keys: Iterable[AnyKey], key_prefix: Key | None
    ) -> list[tuple[bytes, AnyKey]]:
        """The keys as they go over the wire, each with the caller's name for it."""
        if isinstance(keys, (str, bytes)):
            raise _single_key(keys)
        prefix = b"" if key_prefix is None else encoded(key_prefix)
        return [(self._rule.encoded(key, prefix), key) for key in keys]

    def _shared_limit(self, command: str, began: float | None = None) -> Callable[[], float]:
        """The time limit of one command, for its parts.

        :param began: when the command began, in monotonic() time, if that is not now.
        :return: a function that returns how many seconds are left. It raises CommandExpired if
            that is less than a tenth of the limit. With so little time, a server that is only slow
            would count as failed.
        """
        limit = self._command_timeout
        end = (monotonic() if began is None else began) + limit

        def left() -> float:
            seconds = end - monotonic()
            if seconds < limit / 10:
                raise CommandExpired(
                    f"{command} was ended before its last key: command_timeout, {limit:g} s, is"
                    " nearly over"
                )
            return seconds

        return left

    def _forgiven_expiry(self) -> AbstractContextManager[None]:
        return contextlib.suppress(CommandExpired) if self._fail_soft else contextlib.nullcontext()


def _single_key(key: Key) -> TypeError:
    return TypeError(f"keys is a sequence of keys, not the single {key!r}")
