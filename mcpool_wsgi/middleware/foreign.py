"""
Foreign reservations
====================

The reservations of other people's pools: pylibmc's, the blog's list, or your own.
"""

from __future__ import annotations

import weakref
from contextlib import AbstractContextManager
from typing import Any


class ForeignReservation:
    """A reservation of somebody else's pool. It ends once.

    :param reservation: the context manager that the pool gave.
    """

    __slots__ = ("__weakref__", "_end", "_reservation")

    def __init__(self, reservation: AbstractContextManager[Any]) -> None:
        self._reservation = reservation
        self._end: weakref.finalize[Any, Any] | None = None

    def __enter__(self) -> Any:
        client = self._reservation.__enter__()
        # Without release() it ends when the environ is freed.
        self._end = weakref.finalize(self, self._reservation.__exit__, None, None, None)
        self._end.atexit = False
        return client

    def __exit__(self, *exc: object) -> None:
        if self._end is not None:
            self._end()  # only the first call does something

    def release(self) -> None:
        self.__exit__()
