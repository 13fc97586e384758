"""
Leases
======

What ``pool.reserve()`` returns: one reservation, for the length of a ``with`` block.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol

from .forks import enter_child, same_process
from .lending import Lender
from .slots import Slot


class Pool(Protocol):
    """What a lease needs of a pool."""

    timeout: float

    @property
    def _lender(self) -> Lender: ...


class Lease:
    """One reservation: ``with`` takes a slot at its beginning and gives it back at its end.

    Giving back works once, from any thread; more often does no harm.
    """

    __slots__ = ("_lender", "_slot", "pool")

    pool: Pool
    _lender: Lender
    _slot: Slot

    def __enter__(self) -> Any:
        if not same_process:
            enter_child()
        self._lender = lender = self.pool._lender
        try:
            slot = None
            if not lender.waiters:
                try:  # noqa: SIM105  every request comes here
                    slot = self._slot = lender.idle.pop()
                except IndexError:
                    pass
            if slot is None:
                slot = self._slot = lender.obtain(self._wait_limit())
            while not slot.generation.current:
                if not slot.finalised:
                    lender.supply.fill(slot)
                else:  # see there; without it the one that waits comes
                    del self._slot, slot
                    slot = self._slot = lender.obtain(self._wait_limit())
        except BaseException:
            self.__exit__()
            raise
        slot.reservations += 1.0
        return slot.client

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        try:
            slot = self._slot
            del self._slot  # succeeds once
        except AttributeError:
            return
        lender = self._lender
        try:
            lender.idle.append(slot)
            if lender.waiters:
                lender.match()
        except BaseException:
            lender.match()  # whatever came between: nobody waits while a slot is idle
            raise

    def _wait_limit(self) -> float:
        """Seconds to wait for a slot."""
        return self.pool.timeout


class TimedLease(Lease):
    """A lease whose wait has a limit of its own."""

    __slots__ = ("timeout",)

    timeout: float

    def _wait_limit(self) -> float:
        return self.timeout
