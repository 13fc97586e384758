"""
Third-party reservations
========================

The reservations of other people's pools: pylibmc's, the blog's list, or your own.
"""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager
from typing import Any, Callable

from ..pool import Pool, Reservation


def from_any_pool(reserve: Callable[[], Any]) -> Callable[[], Any]:
    """*reserve*, the method of a pool. What it returns has a ``release()`` in any case."""
    if getattr(reserve, "__func__", None) is Pool.reserve:
        return reserve

    def reserve_from_any_pool() -> Any:
        reservation = reserve()
        # A pool of somebody else may reserve clients of a pool of ours.
        if isinstance(reservation, Reservation):
            return reservation
        return ThirdPartyReservation(reservation)

    return reserve_from_any_pool


class ThirdPartyReservation:
    """A reservation of somebody else's pool. It ends once.

    :param reservation: the context manager that the pool gave.
    """

    __slots__ = ("__weakref__", "_end", "_finalizer")

    def __init__(self, reservation: AbstractContextManager[Any]) -> None:
        self._end = _End(reservation)
        # Without release() it ends when the environ is freed. Made before the reservation is
        # entered, because an interrupt between the two would lose the client.
        self._finalizer = weakref.finalize(self, self._end)
        self._finalizer.atexit = False

    def __enter__(self) -> Any:
        try:
            self._end.client = self._end.reservation.__enter__()
        except BaseException:
            if not hasattr(self._end, "client"):
                self._finalizer.detach()
            raise
        return self._end.client

    def __exit__(self, *exc: object) -> None:
        self._end()
        self._finalizer.detach()  # in an ordinary request it never runs

    def release(self) -> None:
        self.__exit__()


class _End:
    """Ends *reservation*, if it was entered. Only the first call does something."""

    __slots__ = ("client", "reservation")

    client: Any

    def __init__(self, reservation: AbstractContextManager[Any]) -> None:
        self.reservation: AbstractContextManager[Any] = reservation

    def __call__(self) -> None:
        try:
            del self.client  # succeeds once
        except AttributeError:
            return
        self.reservation.__exit__(None, None, None)
