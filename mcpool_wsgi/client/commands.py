"""
Commands
========

The commands that have many keys, or none, with pylibmc's names and parameters.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any, Callable, TypeVar

import pylibmc

from ..errors import InvalidKey, PickleForbidden
from . import binary_protocol, explanations, native
from .arguments import LARGEST_TIME, checked_number
from .connection import disconnect_all
from .discarding import discard
from .failures import MISS, CommandExpired, is_unavailable
from .keys import AnyKey, Key, encoded
from .storing_commands import DEFAULT_LEVEL, ZERO, StoringCommands, check_compression
from .values import storable, writing_ints
from .whole_answers import get_multi

_Thing = TypeVar("_Thing")

SHORTEST_LIMIT = 0.001  # seconds
_control_character = re.compile(rb"[\x00-\x1f\x7f]").search


class Commands(StoringCommands):
    """The commands of :class:`pylibmc.Client`, with checked arguments."""

    __slots__ = ()

    # -- Many keys. Prefixes are put on here: pylibmc checks no length and cuts at NUL bytes.

    def get_multi(
        self, keys: Iterable[AnyKey], key_prefix: Key | None = None
    ) -> dict[AnyKey, Any]:
        """``{key: value}`` for those of *keys* that exist."""
        if isinstance(keys, (str, bytes)):
            raise _single_key(keys)
        wanted = list(keys)
        try:
            if key_prefix is None and self._rule.are_plain(wanted):
                try:
                    answer: dict[AnyKey, Any] = self._command(get_multi, (self, wanted))
                except PickleForbidden:
                    raise
                except pylibmc.BadKeyProvided:
                    pass  # one is empty, and is left out below
                except ValueError:
                    self._prefixed(wanted, key_prefix)  # says so if a key is too long
                    raise
                else:
                    return answer
            named = dict(self._prefixed(wanted, key_prefix))
            named.pop(b"", None)  # nothing is stored there
            found = self._command(get_multi, (self, list(named)))
            return {named[raw]: value for raw, value in found.items()}
        except PickleForbidden:
            left = self._shared_limit("get_multi")
            for raw, key in dict(self._prefixed(wanted, key_prefix)).items():
                try:
                    self._command(native.get, (self, raw, MISS), left())
                except PickleForbidden as error:
                    raise PickleForbidden(error.why, key) from None
                except pylibmc.Error:
                    break  # then the error names no key
            raise

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
        if int in map(type, values.values()):
            command = writing_ints(command)
        if time is not ZERO:
            time = checked_number("time", time, LARGEST_TIME)
        if min_compress_len is not ZERO or compress_level is not DEFAULT_LEVEL:
            for raw, val in values.items():
                check_compression(named[raw], val, min_compress_len, compress_level)
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
            _call_for_each(raws, lambda raw: self._count(native.incr, raw, delta, left()))

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

    # -- No key

    def flush_all(self, time: int = 0) -> bool:
        """Forget everything on all servers. Return whether all of them do so.

        :param time: in so many seconds; more than 30 days is a Unix time.
        :raises pylibmc.Error: the first error, after all servers were asked.
        """
        time = checked_number("time", time, LARGEST_TIME)
        command = binary_protocol.flush_all if self.binary else native.flush_all
        return all(self._ask_all_servers(command, time))

    def get_stats(self, *args: Any) -> list[tuple[bytes, dict[str, bytes]]]:
        """``[(server, {name: value}), ...]``

        :raises pylibmc.Error: the first error, after all servers were asked.
        :raises InvalidKey: an argument has a byte that the text protocol gives a meaning.
        """
        for arg in args:
            if _control_character(encoded(arg)):
                raise InvalidKey(arg, "has a byte in it that ends a command")
        answers = self._ask_all_servers(native.get_stats, *args)
        return [stats for answer in answers for stats in answer]

    def _ask_all_servers(self, command: Callable[..., Any], *args: Any) -> list[Any]:
        """The answers to a *command* without a key: one, or one from each server."""
        here = self._here()
        with here._turn:  # until it is over, no other thread sets no_block
            if not here._asks_on_new_connections:
                return [here._command(command, (here, *args))]
        return here._ask_each_server(command.__name__, *args)

    @property
    def _asks_on_new_connections(self) -> bool:
        """Whether commands without a key need :meth:`_ask_each_server`.

        On a binary connection with the behavior ``no_block``, libmemcached looks for the end of
        the statistics for ever. Nothing ends that, not even a shutdown of the socket.
        """
        return len(self.addresses) > 1 or (self.binary and self._is_on("no_block"))

    def _ask_each_server(self, command: str, *args: Any) -> list[Any]:
        """The answers to *command* from all servers, each on a new connection.

        With one client for all of them, libmemcached fails as long as one server counts as dead,
        and each failure makes that last longer.

        :raises pylibmc.Error: the first error, after all servers were asked.
        """
        end = monotonic() + self._command_timeout

        def ask(address: str) -> Any:
            client = self._for_one_server(address, max(end - monotonic(), SHORTEST_LIMIT))
            try:
                return getattr(client, command)(*args)
            finally:
                discard(client)

        return _call_for_each(self.addresses, ask)

    def _shared_limit(self, command: str) -> Callable[[], float]:
        """The time limit of one command, for its parts.

        :return: a function that returns how many seconds are left. It raises CommandExpired if
            that is less than a tenth of the limit. With so little time, a server that is only slow
            would count as failed.
        """
        limit = self._command_timeout
        end = monotonic() + limit

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

    def _for_one_server(self, address: str, command_timeout: float) -> Commands:
        """A new client with the options of this one, but without ``no_block``."""
        raise NotImplementedError

    def disconnect_all(self) -> None:
        """Close all connections. The next command opens what it needs."""
        self._command(disconnect_all, (self,))


def _single_key(key: Key) -> TypeError:
    return TypeError(f"keys is a sequence of keys, not the single {key!r}")


def _call_for_each(things: Iterable[_Thing], function: Callable[[_Thing], Any]) -> list[Any]:
    """What *function* returns for each of *things*.

    :raises pylibmc.Error: the first failure of memcached or, without one, the first error, after
        all calls.
    """
    results = []
    first_error = None
    for thing in things:
        try:
            results.append(function(thing))
        except pylibmc.Error as error:
            if first_error is None or (is_unavailable(error) and not is_unavailable(first_error)):
                first_error = error
    try:
        if first_error is not None:
            raise first_error
        return results
    finally:
        del first_error  # its traceback has this frame: that would be a circle
