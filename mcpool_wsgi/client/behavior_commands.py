"""
Behaviors of a client
=====================

How a client gets its behaviors when it is made, cloned, or told later
(:mod:`mcpool_wsgi.client.behaviors` has the defaults, and what is refused).

The chosen ones are kept here, because a question to libmemcached would open a connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, TypeVar

import pylibmc.client
from pylibmc.consts import BehaviorDict

from .. import forks
from .arguments import have_weights
from .behaviors import FEW_SERVERS, UNWEIGHTED, WEIGHTED, completed, normalized, refusal, ring
from .connection import Connection, disconnect_all
from .failures import CommandExpired
from .keys import KeyRule
from .turns import NO_TURN, missed_turn, wait_for_turn

_Self = TypeVar("_Self", bound="BehaviorCommands")


class BehaviorCommands(Connection):
    """The commands of :class:`pylibmc.Client` that show and set behaviors."""

    __slots__ = ("_rule",)

    _chosen: Mapping[str, Any]  # the behaviors that the caller has given
    _rule: KeyRule  # for keys, which depends on them

    def _add_servers(self, servers: list[str], binary: bool) -> None:
        """Make the client of the C code, with the behaviors that were chosen."""
        behaviors = completed(self._chosen, len(servers))
        distribution, is_weighted = ring(behaviors, have_weights(servers))
        if is_weighted:
            # Before there are servers: libmemcached takes no more memory for a ring that becomes a
            # weighted one later, and writes beyond its end.
            behaviors["distribution"] = WEIGHTED
        try:
            super().__init__(servers, behaviors, binary, *self._credentials)
            if is_weighted and distribution not in (WEIGHTED, *UNWEIGHTED):
                super().set_behaviors({"distribution": distribution})
        except pylibmc.Error as error:
            raise refusal(error) from None

    def _copy(self: _Self) -> _Self:
        if not self._is_weighted(self._completed()):
            return super()._copy()
        # libmemcached would forget that, or remember it too late.
        copy: _Self = pylibmc.client.Client.__new__(type(self))
        copy._chosen, copy._credentials = self._chosen, self._credentials
        copy._add_servers(self.addresses, self.binary)
        return copy

    def _is_weighted(self, behaviors: Mapping[str, Any]) -> bool:
        return ring(behaviors, have_weights(self.addresses))[1]

    def _becomes_weighted_too_late(
        self, new: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]
    ) -> bool:
        if len(self.addresses) <= FEW_SERVERS or self._is_weighted(before):
            return False
        # The C code takes ketama_weighted first, and a distribution without weights after it.
        return bool(new.get("ketama_weighted")) or self._is_weighted(after)

    def _clone(self: _Self) -> _Self:
        # In a child, a thread that only the parent has may hold the lock for ever.
        is_foreign = forks.is_foreign(self._process)
        with contextlib.nullcontext() if is_foreign else self._options_lock:
            clone = super()._clone()
            clone._chosen, clone._rule = self._chosen, self._rule
        if len(self.addresses) > 1:
            # A command of this client may ignore its limit at this moment: see run_again.
            limit = {"failure_limit": clone._failure_limit}
            super(BehaviorCommands, clone).set_behaviors(limit)
        return clone

    @property
    def renewal_interval(self) -> float:
        """Seconds until libmemcached tries a server that failed again.

        Unless all of several servers have failed, a pool does not renew its clients more often:
        each new client would wait for a server that is down again.
        """
        behaviors = self._completed()
        return float(max(behaviors["retry_timeout"], behaviors.get("dead_timeout", 0)))

    @property
    def _failure_limit(self) -> int:
        """The failures in a row after which libmemcached leaves out one of several servers."""
        limit: int = self._completed()["failure_limit"]
        return limit

    def _is_on(self, behavior: str) -> bool:
        """Whether a *behavior* is on."""
        return bool(self._chosen.get(behavior))

    def _check_cas(self, command: str) -> None:
        if not self._is_on("cas"):
            raise ValueError(f"{command} needs the behavior cas: behaviors={{'cas': True}}")

    def _completed(self) -> dict[str, Any]:
        """The behaviors that were chosen, and the defaults for the others."""
        return completed(self._chosen, len(self.addresses))

    def get_behaviors(self) -> dict[str, Any]:
        """See :attr:`behaviors`."""
        here = self._here()
        behaviors = here._unconnected(here._chosen).get_behaviors()
        return BehaviorDict(self, behaviors)  # type: ignore[no-any-return]

    def _unconnected(self, chosen: Mapping[str, Any]) -> pylibmc.client.Client:
        """A client without a connection, with the behaviors of a client like this one.

        To be asked for its behaviors: libmemcached would open a connection, with Python's lock
        held, to ask the system for the sizes of its buffers.

        :raises ValueError: the C code refuses one of them.
        """
        try:
            behaviors = completed(chosen, len(self.addresses))
            return pylibmc.client.Client(["/"], behaviors, self.binary)
        except pylibmc.Error as error:
            raise refusal(error) from None

    def set_behaviors(self, behaviors: Mapping[str, Any]) -> None:
        """See :attr:`behaviors`."""
        here = self._here()
        new = normalized(behaviors, self.binary)

        def work(_: float) -> None:  # in a turn, because another thread may set other behaviors
            if here._chosen.get("namespace") and behaviors.get("namespace", b"") is None:
                raise ValueError("behavior namespace cannot be None once there is one")
            here._choose(new, (here, self))  # in a child the two are not the same

        if wait_for_turn(here, self._command_timeout, work) is NO_TURN:
            raise missed_turn(here, "set_behaviors", self._command_timeout)

    def _choose(self: _Self, new: Mapping[str, Any], clients: tuple[_Self, _Self]) -> None:
        """Choose the *new* behaviors. *clients* show them from then on."""
        chosen = {**self._chosen, **new}
        if "remove_failed" in new and "failure_limit" not in new:  # which it sets, too
            chosen.pop("failure_limit", None)
        before, after = self._completed(), completed(chosen, len(self.addresses))
        if self._becomes_weighted_too_late(new, before, after):
            raise ValueError(
                f"a client of {len(self.addresses)} servers must have its weights from the"
                " start: give this behavior when you make it"
            )
        # The C code sets one after the other, and keeps what it has set when it refuses one.
        shown = self._unconnected(chosen).get_behaviors()
        # The defaults depend on what is chosen.
        changed = {**new, **dict(after.items() - before.items())}
        changed.update((name, shown[name]) for name in before.keys() - after.keys())
        if self._out_of_sync:
            # The C code may send ``quit`` to the server, and wait with Python's lock held.
            with contextlib.suppress(CommandExpired):
                self._command(disconnect_all, (self,))
        with self._options_lock:  # another thread may make a clone
            try:
                self._take(changed, shown["auto_eject"], chosen, clients)
            except BaseException:  # an interrupt: the C code may have taken a part of them
                self._take(changed, shown["auto_eject"], chosen, clients)
                raise

    def _take(
        self: _Self,
        changed: Mapping[str, Any],
        auto_eject: Any,
        chosen: Mapping[str, Any],
        clients: tuple[_Self, _Self],
    ) -> None:
        """Let the C code have what is *changed*, and *clients* what is *chosen*."""
        # Servers that failed do not count as left out meanwhile: if there is no other, the C code
        # does not place the keys, and the next command crashes.
        try:
            super().set_behaviors({"auto_eject": False})
            super().set_behaviors(changed)
        finally:
            super().set_behaviors({"auto_eject": auto_eject})
        rule = KeyRule(self.binary, chosen.get("namespace", b""))
        for client in clients:
            client._rule, client._chosen = rule, chosen
        self._missed_on = None  # libmemcached may have closed the connection

    @property
    def behaviors(self) -> dict[str, Any]:
        """The options of libmemcached, as pylibmc names them. They can be set.

        :raises TypeError: when they are set: a value has a wrong type.
        :raises ValueError: when they are set: one is unknown, out of range or refused.
        :raises pylibmc.Error: when they are set: other threads use the client for too long.
        """
        return self.get_behaviors()

    @behaviors.setter
    def behaviors(self, behaviors: Mapping[str, Any]) -> None:
        self.set_behaviors(behaviors)
