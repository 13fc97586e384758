"""
Borrowed commands
=================

The commands of a :class:`~mcpool_wsgi.Client` for an object that has no connection of its
own. It says which client to use, and each command is run on that one. A subclass of
:class:`~mcpool_wsgi.Client` keeps what it overrides.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Callable

from pylibmc.consts import BehaviorDict

from .client import Client
from .keys import Key

#: The methods that are run on a client.
COMMANDS = (
    *("get", "gets", "set", "add", "replace", "append", "prepend", "cas"),
    *("incr", "decr", "touch", "delete", "serialize", "deserialize"),
    *("get_multi", "set_multi", "add_multi", "incr_multi", "delete_multi"),
    *("flush_all", "get_stats", "disconnect_all", "clone"),
    *("__getitem__", "__setitem__", "__delitem__", "__contains__"),
)

if TYPE_CHECKING:
    _Interface = Client  # its signatures and its documentation
else:
    _Interface = object


class BorrowedCommands(_Interface):
    """The methods of :class:`~mcpool_wsgi.Client`, run on a client that :meth:`_run` chooses."""

    __slots__ = ()

    def _run(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the method *name* of a client."""
        raise NotImplementedError

    def _shown_client(self) -> Client:
        """The client whose options are shown."""
        raise NotImplementedError

    @property
    def addresses(self) -> list[str]:  # type: ignore[override]
        """The servers."""
        return list(self._shown_client().addresses)

    @property
    def binary(self) -> bool:  # type: ignore[override]
        """Whether the binary protocol is spoken."""
        return self._shown_client().binary

    def hash(self, key: Key) -> int:
        return self._shown_client().hash(key)

    def get_behaviors(self) -> dict[str, Any]:
        """See :attr:`behaviors`."""
        return BehaviorDict(self, self._shown_client().get_behaviors())  # type: ignore[no-any-return]

    if TYPE_CHECKING:
        # Of a Client alone: without these lines, type checkers would accept calls of them.
        observe: None  # type: ignore[assignment]
        renewal_interval: None  # type: ignore[assignment]
        with_servers: None  # type: ignore[assignment]

        def clone(self) -> Client: ...  # type: ignore[override]

    else:
        behaviors = Client.behaviors


def _run_on_a_client(name: str) -> Callable[..., Any]:
    original = getattr(Client, name)

    @functools.wraps(original, assigned=("__name__", "__doc__", "__annotations__"))
    def method(self: BorrowedCommands, *args: Any, **kwargs: Any) -> Any:
        return self._run(name, args, kwargs)

    return method


for _name in COMMANDS:
    setattr(BorrowedCommands, _name, _run_on_a_client(_name))
