"""
Connection
==========

What all commands of a :class:`~mcpool_wsgi.Client` go through. It sees to it that
no command is sent on a connection that is out of step or another process's, and
notices when a server cannot be reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Callable, TypeVar

import pylibmc

from . import failures, forks
from .keys import Key

_Self = TypeVar("_Self", bound="Connection")

if TYPE_CHECKING:

    class _Base:
        """What pylibmc, which has no types, would say of its client."""

        addresses: list[str]
        binary: bool

        def __init__(
            self,
            servers: Iterable[str],
            behaviors: Mapping[str, Any] | None,
            binary: bool,
            username: str | None,
            password: str | None,
        ) -> None: ...
        def __getitem__(self, key: Key) -> Any: ...
        def __delitem__(self, key: Key) -> None: ...
        def __contains__(self, key: object) -> bool: ...
        def clone(self) -> Any: ...
        def get_behaviors(self) -> dict[str, Any]: ...
        def set_behaviors(self, behaviors: Mapping[str, Any]) -> None: ...
        def hash(self, key: Key) -> int: ...
        def serialize(self, value: Any) -> tuple[bytes, int]: ...
        def deserialize(self, value: bytes, flags: int) -> Any: ...
else:
    _Base = pylibmc.Client


class Connection(_Base):
    """A :class:`pylibmc.Client` whose connection is in step, and this process's own."""

    # What every command looks at: to read and set a slot takes a third of the time.
    __slots__ = ("_in_doubt", "_process")

    _in_doubt: bool  # whether the connection may be out of step
    _process: forks.Process  # the one that the connection belongs to

    #: Called without arguments when a server could not be reached. A pool sets it.
    on_connection_failure: Callable[[], None] | None = None

    _fail_soft: bool = False
    _heir: Any = None

    def __init__(
        self,
        servers: Iterable[str],
        behaviors: Mapping[str, Any] | None = None,
        binary: bool = False,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        self._process = forks.current
        self._in_doubt = False
        super().__init__(servers, behaviors, binary, username, password)

    def clone(self: _Self) -> _Self:
        """A client with the same servers and options, and no connection yet."""
        heir: _Self | None = self._heir
        if heir is not None and heir._process is forks.current:
            return heir._clone()  # with the behaviors that were set in this child
        return self._clone()

    def _clone(self: _Self) -> _Self:
        # Copies options and addresses only: neither reads nor writes a socket.
        clone: _Self = super().clone()
        clone._process = forks.current
        clone._in_doubt = False
        clone._fail_soft = self._fail_soft
        return clone

    def _command(self, command: Callable[..., Any], *args: Any) -> Any:
        # The first of args is this client, so that they go on as they came: to put it before them
        # here would copy them twice.
        if not forks.same_process:
            forks.enter_child()
        if self._process is not forks.current:
            self = self._here()
            args = (self, *args[1:])
        if self._in_doubt:
            pylibmc.Client.disconnect_all(self)
        # Until the command has ended well, so that an interrupt at any point leaves it set.
        self._in_doubt = True
        try:
            result = command(*args)
        except Exception as error:
            unreachable = failures.is_unreachable(command.__name__, error)
            self._in_doubt = not unreachable and failures.leaves_doubt(error)
            if unreachable or failures.is_broken(error):
                if self.on_connection_failure is not None:
                    self.on_connection_failure()
                if self._fail_soft:
                    return failures.miss(command.__name__, args[1:])
            raise
        self._in_doubt = False
        return result

    def _here(self: _Self) -> _Self:
        """This client or, in a forked child, the one that stands for it there."""
        if not forks.from_elsewhere(self._process):
            return self
        heir: _Self | None = self._heir
        if heir is None or heir._process is not forks.current:
            self._heir = self._clone()  # for what a subclass's clone() asks of this one
            heir = self._heir = self.clone()
        return heir

    def __del__(self, spare: Callable[..., bool] = forks.spare) -> None:
        try:
            process = self._process
        except AttributeError:  # interrupted in the making
            return
        spare(self, process)
