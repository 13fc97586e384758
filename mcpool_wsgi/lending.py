"""
Lending
=======

Who has which client, and how it gets from one hand to the next.

A pool has *slots*; a slot has at most one client. A :class:`~mcpool_wsgi.leases.Lease` is one
reservation: it takes a slot from its :class:`Lender` and gives it back. Whoever
finds no idle slot queues as a :class:`Waiter` and is handed the next one.

Why no client is lost and none is in two hands
----------------------------------------------

There is no lock. Two deques, whose ``append``, ``pop`` and ``popleft`` are atomic,
carry everything:

1.  *One holder.* A slot is either in ``idle``, or in one waiter's hand-over, or
    in one lease, or on its way between them in one local variable. It moves by
    ``pop`` and ``popleft``, which give a thing to one thread only, and it leaves a
    lease by ``del``, which succeeds once, however many threads try.
2.  *No waiter sleeps while a slot is idle.* Who gives back puts the slot in
    ``idle`` and then looks for waiters. Who waits queues and then looks for idle
    slots. Whichever is second sees the other, and :meth:`Lender.match` brings
    the two together.
3.  *In order.* Waiters leave the queue from its head only, and nobody takes an
    idle slot past a queue that is not empty.
4.  *Nothing is lost to an exception*, be it an interrupt between any two
    bytecodes. A slot that no hand holds any more is freed by Python, and its
    finaliser puts a fresh one in its place, once nobody has its client either: so
    there are never more clients than slots, and never fewer slots than at first.
    Only an interrupt of that finaliser, which nobody can catch, has a price: a slot is
    missing for a minute, or one client is too many for as long as somebody holds on
    to one whose lease was dropped.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from time import monotonic
from typing import Any

from .errors import PoolClosed, PoolTimeout
from .slots import Slot
from .supply import Supply

FINALISERS_TAKE = 60.0  # seconds, at the very most


class Waiter:
    """One thread in the queue."""

    __slots__ = ("_slot", "_wakeup")

    def __init__(self) -> None:
        # Made here and not at import: where gevent has patched threading, this is gevent's lock.
        self._wakeup = threading.Lock()
        self._wakeup.acquire()
        self._slot: Slot | None = None

    def hand_over(self, slot: Slot | None) -> None:
        """Wake the thread, with *slot*. If it has gone, so does the slot: see Slot.__del__."""
        self._slot = slot
        self._wakeup.release()

    def wait(self, seconds: float) -> None:
        self._wakeup.acquire(timeout=seconds)

    def take(self) -> Slot | None:
        slot, self._slot = self._slot, None
        return slot


class Lender:
    """A stack of idle slots and a queue for them."""

    def __init__(self, supply: Supply) -> None:
        self.supply: Supply = supply
        self.idle: deque[Slot] = deque()
        self.waiters: deque[Waiter] = deque()
        self._reference = weakref.ref(self)
        self._size = 0
        self._missed_since = float("inf")  # when there began to be fewer slots than that
        # Clients that outlive their slot, each with the slot for when nobody has it any more.
        self._strays: dict[int, tuple[weakref.ref[Any], Slot]] = {}

    def add_slots(self, number: int) -> None:
        """Add so many slots without a client; they come last."""
        with self.supply.lock:
            for _ in range(number):
                self._put_last(self._new_slot())
                self._size += 1

    def _put_last(self, slot: Slot) -> None:
        self.idle.appendleft(slot)
        self.match()

    def _new_slot(self) -> Slot:
        return self.supply.enter(Slot(self._reference, self.supply.ended))

    def match(self) -> None:
        """Hand idle slots to waiters, the oldest first."""
        while self.waiters:
            try:
                slot = self.idle.pop()
            except IndexError:
                return
            try:
                waiter = self.waiters.popleft()
            except IndexError:
                # Back first, then look: somebody may have queued while it was in this hand.
                self.idle.append(slot)
                continue
            waiter.hand_over(slot)

    def obtain(self, timeout: float) -> Slot:
        """An idle slot, for which to queue *timeout* seconds at most; the slow way to get one.

        :raises PoolTimeout: none came in time.
        :raises PoolClosed: the pool is closed, or was closed meanwhile.
        """
        began = monotonic()
        waiter = Waiter()
        try:
            self.waiters.append(waiter)
            self.match()
            if not self.supply.closed:
                waiter.wait(timeout)
            slot = waiter.take()
            if slot is None:
                slot = self._last_chance(waiter)
        except BaseException:
            self._withdraw(waiter)
            slot = waiter.take()
            if slot is not None:
                self.give_back(slot)
            raise
        if self.supply.closed:
            raise PoolClosed("the pool is closed")
        self.supply.note_wait(monotonic() - began, timed_out=slot is None)
        if slot is None:
            slots = self.live_slots()
            if not slots:
                raise PoolTimeout("the pool has no slots: fill(mc, n_slots) makes some")
            raise PoolTimeout(f"no client came free within {timeout} s: {slots} of {slots} in use")
        return slot

    def _last_chance(self, waiter: Waiter) -> Slot | None:
        """What *waiter* gets, if an interrupt kept somebody from handing it over in time."""
        self._make_good()
        self.match()
        if self._withdraw(waiter):
            return None
        slot = waiter.take()
        if slot is None:
            with contextlib.suppress(IndexError):
                slot = self.idle.pop()
        return slot

    def _withdraw(self, waiter: Waiter) -> bool:
        """Take *waiter* off the queue; whether it was still there."""
        try:
            self.waiters.remove(waiter)
        except ValueError:
            return False
        return True

    def give_back(self, slot: Slot) -> None:
        self.idle.append(slot)
        self.match()

    def live_slots(self) -> int:
        """How many the whole pool has, with those that wait for somebody to let go of a client."""
        return len(self.supply.slots)

    def replace(self, slot: Slot) -> None:
        """Make room for another client where *slot* was."""
        if self.supply.closed:
            return
        self._missed_since = float("inf")  # it may have been this one
        fresh = self._new_slot()
        try:
            # Whoever still holds the client has its room, too.
            stray = weakref.ref(slot.client, self._vacate)
        except TypeError:  # there is no client, or none that takes weak references
            self._put_last(fresh)
        else:
            self._strays[id(stray)] = (stray, fresh)  # by id: clients may be equal

    def _vacate(self, stray: weakref.ref[Any]) -> None:
        _, slot = self._strays.pop(id(stray), (None, None))  # succeeds once
        if slot is not None:
            self._put_last(slot)

    def _make_good(self) -> None:
        """Replace slots that are missing, because an interrupt came into their finaliser.

        Not at once: a slot in a circle of garbage is missing before its finaliser has run.
        """
        for stray, _ in list(self._strays.values()):
            if stray() is None:
                self._vacate(stray)
        if self.supply.closed:
            return
        now = monotonic()
        with self.supply.lock:
            missing = self._size - self.live_slots()
            if missing <= 0:
                self._missed_since = float("inf")
            elif now - self._missed_since >= FINALISERS_TAKE:
                for _ in range(missing):
                    self._put_last(self._new_slot())
                self._missed_since = float("inf")
            else:
                self._missed_since = min(self._missed_since, now)

    def retire_idle(self) -> None:
        """End the connections of idle clients that are not of the current generation."""
        for _ in range(len(self.idle)):
            try:
                slot = self.idle.popleft()
            except IndexError:
                return
            if not slot.generation.current:
                slot.client = None  # its generation stays: the next client replaces one
            if not slot.finalised:
                self.give_back(slot)

    def close(self) -> None:
        """End the idle slots now and the lent ones when they come back; send the queue away."""
        self.supply.closed = True
        # The stack goes, with all that is on it. What a thread puts there at this moment goes
        # with it; what comes later finds a stack that keeps nothing.
        self.idle = _ClosedStack()
        while True:
            try:
                self.waiters.popleft().hand_over(None)
            except IndexError:
                return


class _ClosedStack(deque):  # type: ignore[type-arg]
    """Always empty: a slot that is put here is freed, and its connection closed."""

    def append(self, slot: Slot) -> None:
        pass

    appendleft = append


class ThreadLender(Lender):
    """The lender of one thread: nobody queues, there is always another slot."""

    def obtain(self, timeout: float) -> Slot:
        if self.supply.closed:
            raise PoolClosed("the pool is closed")
        return self._new_slot()

    def replace(self, slot: Slot) -> None:
        pass
