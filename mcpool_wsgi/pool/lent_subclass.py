"""
Lent subclass
=============

Lent clients of a subclass of :class:`~mcpool_wsgi.Client`. They have what the subclass has of its
own, too.
"""

from __future__ import annotations

import functools
from typing import Any, Callable, NoReturn

from ..client import BorrowedCommands, Client
from .lent_client import LazyClient, LentClient
from .reservation import NOT_RESERVED, PlainReservation
from .slots import NO_GENERATION, Slot


def _settings(client: Any) -> tuple[object, object]:
    return client._chosen, vars(client).get("on_connection_failure")


class _Extras:
    """Gives lent clients what a subclass of :class:`~mcpool_wsgi.Client` has of its own."""

    __slots__ = ()

    _slot: Slot
    _use: Callable[[], Any]
    _shown_client: Callable[[], Any]

    # A subclass may have parameters of its own.
    get: Any = BorrowedCommands.get
    set: Any = BorrowedCommands.set
    get_multi: Any = BorrowedCommands.get_multi

    def _run(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        client = self._use()
        result = self._call(client, getattr(client, name), args, kwargs)
        return self if result is client else result  # nobody gets the client itself

    def _call(
        self,
        client: Any,
        command: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        before = _settings(client)
        try:
            return command(*args, **kwargs)
        finally:
            # A method of the subclass may set behaviors, and the next reservation must not have
            # them. So this client is discarded at the release.
            slot = getattr(self, "_slot", None)
            if _settings(client) != before and slot is not None and slot.client is client:
                slot.generation = NO_GENERATION

    def _lacks(self, name: str) -> bool:
        """Whether it is known, without the client, that there is no such attribute."""
        return False

    def hash(self, *args: Any, **kwargs: Any) -> Any:
        return self._shown_client().hash(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # Not what is a Client's own: observe() would be told of the next reservations, too.
        if name.startswith("_") or hasattr(Client, name) or self._lacks(name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = getattr(self._use(), name)
        if not callable(value) or isinstance(value, type):  # an error of its own, for example
            return value

        @functools.wraps(value)
        def method(*args: Any, **kwargs: Any) -> Any:  # asks again who has the client
            return self._run(name, args, kwargs)

        del method.__wrapped__  # it would reach the client after the release
        return method


class _LentSubclass(_Extras, LentClient):
    __slots__ = ()


class _LazySubclass(_Extras, LazyClient):
    __slots__ = ()

    def _lacks(self, name: str) -> bool:
        # No client is reserved to answer this, and no code of its class runs.
        if self._client is not NOT_RESERVED:
            return False
        master = self._pool.master
        kind = type(master)
        return not (hasattr(kind, name) or name in vars(master) or hasattr(kind, "__getattr__"))


def _not_lazy() -> NoReturn:
    raise TypeError("lazy reservations need clients that are mcpool_wsgi.Client")


def reservation_classes(master: Any) -> tuple[type[Any], Callable[[], Any]]:
    """The class of reservations of clones of *master*, and the one of lazy reservations."""
    if master is None or type(master) is Client:
        return LentClient, LazyClient
    if isinstance(master, Client):
        return _LentSubclass, _LazySubclass
    return PlainReservation, _not_lazy
