"""
Observed reservations
=====================

How long reservations wait for their clients and how long they have them, told to those who
listen.

.. code-block:: python

    def listener(outcome, seconds):
        print(outcome, seconds)

    stop = pool.observe_reservations(listener)

===============  ================================================================
outcome          seconds
===============  ================================================================
``reserved``     until the reservation got a client
``timed out``    until it raised :exc:`~mcpool_wsgi.PoolTimeout`
``released``     from the moment at which it got the client to the release
===============  ================================================================

A listener is called in the thread of the reservation. If it raises an exception, that is logged.
An exception that a signal handler raises meanwhile reaches the caller. Listeners hear nothing of a
reservation that was made before they were added. They do not hear of the end of a reservation that
is dropped without a release, because that would run them in a finaliser.

The classes of this module are used only while somebody observes the pool. So a pool without
listeners pays nothing.
"""

from __future__ import annotations

import contextlib
import logging
from time import monotonic
from typing import Any, Callable

from ..client import is_of_signal_handler
from ..errors import PoolTimeout
from .lent_client import LazyClient

logger: logging.Logger = logging.getLogger("mcpool_wsgi.pool")

ReservationListener = Callable[[str, float], object]


class _Observed:
    """Comes before the class of a reservation, and measures it."""

    __slots__ = ()

    _told: list[ReservationListener]
    _reserved_at: float  # until the release

    def _reserve_now(self) -> Any:
        began = monotonic()
        try:
            entered = super()._reserve_now()  # type: ignore[misc]
        except PoolTimeout:
            self._tell("timed out", began)
            raise
        try:
            self._reserved_at = monotonic()  # type: ignore[misc]  # observed() makes the slot
            self._tell("reserved", began)
        except BaseException:  # a signal handler's
            # The release of a lazy client is still to come, unless it came while this waited.
            if not isinstance(self, LazyClient) or getattr(self, "_is_over", False):
                self.__exit__()
            raise
        return entered

    def __exit__(self, *exc: object) -> None:
        since = None
        with contextlib.suppress(AttributeError):
            reserved_at = self._reserved_at
            del self._reserved_at  # succeeds once
            since = reserved_at
        super().__exit__()  # type: ignore[misc]
        if since is not None:
            self._tell("released", since)

    def _tell(self, outcome: str, since: float) -> None:
        seconds = monotonic() - since
        for listener in tuple(self._told):
            try:
                listener(outcome, seconds)
            except Exception as error:
                if is_of_signal_handler(error):
                    raise
                logger.exception("a listener failed at a reservation that was %s", outcome)


def observed(kind: Any, listeners: list[ReservationListener]) -> Any:
    """*kind*, a class of reservations, that tells *listeners*."""
    if not isinstance(kind, type):  # it only raises
        return kind
    members: dict[str, Any] = {"__slots__": ("_reserved_at",), "_told": listeners}
    if not issubclass(kind, LazyClient):
        members["__enter__"] = _Observed._reserve_now
    return type(kind.__name__, (_Observed, kind), members)
