"""
Commands of servers
===================

The commands that have no key, with pylibmc's names and parameters. They are about all servers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from time import monotonic
from typing import Any, Callable, TypeVar

import pylibmc

from ..errors import InvalidKey
from . import binary_protocol, native
from .arguments import LARGEST_TIME, checked_number
from .behavior_commands import BehaviorCommands
from .connection import disconnect_all
from .discarding import discard
from .failures import is_unavailable
from .keys import encoded
from .turns import in_turn
from .watchdog import SHORTEST_LIMIT

_Thing = TypeVar("_Thing")

_control_character = re.compile(rb"[\x00-\x1f\x7f]").search


class ServerCommands(BehaviorCommands):
    """The commands of :class:`pylibmc.Client` that have no key."""

    __slots__ = ()

    def flush_all(self, time: int = 0) -> bool:
        """Forget everything on all servers. Return whether all of them did it.

        :param time: in so many seconds; more than 30 days is a Unix time. memcached does it one to
            two seconds early.
        :raises pylibmc.Error: the first error, after all servers were asked.
        """
        time = checked_number("time", time, LARGEST_TIME)
        command = binary_protocol.flush_all if self.binary else native.flush_all
        return all(self._ask_all_servers(command, time))

    def get_stats(self, *args: Any) -> list[tuple[bytes, dict[str, bytes]]]:
        """``[(server, {name: value}), ...]``

        :raises pylibmc.Error: the first error, after all servers were asked.
        :raises InvalidKey: an argument has a control character.
        """
        for arg in args:
            if _control_character(encoded(arg)):
                raise InvalidKey(arg, "has a byte in it that ends a command")
        answers = self._ask_all_servers(native.get_stats, *args)
        return [stats for answer in answers for stats in answer]

    def _ask_all_servers(self, command: Callable[..., Any], *args: Any) -> list[Any]:
        """The answers to a *command* without a key: one, or one from each server."""
        here = self._here()
        if len(here.addresses) > 1:
            return here._ask_each_server(command.__name__, *args)
        if not here.binary:
            return [here._command(command, (here, *args))]

        def ask(left: float) -> Any:
            # With it, libmemcached looks for the end of the statistics for ever on a binary
            # connection. Nothing ends that, not even a shutdown of the socket.
            if here._is_on("no_block"):  # no other thread sets it in this turn
                return None
            return here._command(command, (here, *args), left)

        answer = in_turn(here, command, (here, *args), here._command_timeout, ask)
        return here._ask_each_server(command.__name__, *args) if answer is None else [answer]

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

        return call_for_each(self.addresses, ask)

    def _for_one_server(self, address: str, command_timeout: float) -> ServerCommands:
        """A new client with the options of this one, but without ``no_block``."""
        raise NotImplementedError

    def disconnect_all(self) -> None:
        """Close all connections. The next command opens what it needs."""
        self._command(disconnect_all, (self,))


def call_for_each(things: Iterable[_Thing], function: Callable[[_Thing], Any]) -> list[Any]:
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
