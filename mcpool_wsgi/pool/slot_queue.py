"""
Slot queue
==========

Who has which client. A pool has *slots*, and a slot has at most one client. A
:class:`SlotQueue` is the stack of idle slots and the queue of waiters. A reservation takes
a slot from it and puts it back. If no slot is idle, the caller waits.

Why no slot is lost and none is used twice
------------------------------------------

There is no lock on this path. Two deques carry everything. Their ``append``, ``pop`` and
``popleft`` are atomic.

1.  *One holder.* A slot is in ``idle``, or assigned to one waiter, or in one reservation, or
    in one local variable on its way between them. ``pop`` and ``popleft`` give it to one
    thread only. A reservation gives it up by ``del``, which succeeds once, however many
    threads try.
2.  *No waiter sleeps while a slot is idle.* A release puts the slot into ``idle`` and then
    looks for waiters. A waiter queues and then looks for idle slots. The second of the
    two sees the first. :meth:`SlotQueue.serve_waiters` then brings the two together.
3.  *In order.* Waiters leave the queue at its head only. Nobody takes an idle slot while
    the queue is not empty.
4.  *Nothing is lost to an exception*, not even to an interrupt between two bytecodes. Each
    slot has a number, and a table holds a weak reference to the slot of each number. A slot
    that nothing holds any more is freed by Python. Its finaliser puts a new slot of the same
    number in its place. If an interrupt ends the finaliser, the table still shows that the
    slot is gone. The next waiter replaces it, before it waits and before it times out. Both
    ask the table under a lock, so a number is replaced once.

Two promises are limited. If an interrupt comes while a thread assigns a slot, the waiter may
sleep on. It then takes an idle slot when its timeout ends. And if a program drops a
reservation and keeps its plain client, the pool no longer counts that client. Then there can
be one client more than slots. A lent client of this package cannot reach a connection after its
slot was replaced.
"""

from __future__ import annotations

import contextlib
import math
import threading
import weakref
from collections import deque
from time import monotonic

from ..client import discard
from ..errors import PoolClosed
from .generations import Generations
from .slots import Slot
from .statistics import Statistics
from .timeouts import Timeouts


class Waiter:
    """A position in the queue, for a thread that waits for a slot."""

    __slots__ = ("_slot", "_wakeup")

    def __init__(self) -> None:
        # Made here and not at import: where gevent has patched threading, this is gevent's lock.
        self._wakeup = threading.Lock()
        self._wakeup.acquire()
        self._slot: Slot | None = None

    def assign(self, slot: Slot | None) -> None:
        """Give *slot* to the thread and wake it. None says that the pool is closed."""
        self._slot = slot
        self._wakeup.release()

    def wait(self, seconds: float) -> None:
        self._wakeup.acquire(timeout=seconds)

    def take(self) -> Slot | None:
        """The slot that was assigned."""
        slot, self._slot = self._slot, None
        return slot


class SlotQueue:
    """A stack of idle slots and a queue of waiters.

    :param name: of the pool.
    :param size: how many slots there may be. They are made when they are needed.
    """

    def __init__(
        self, generations: Generations, statistics: Statistics, name: str, size: float = math.inf
    ) -> None:
        self.name: str = name
        self.generations: Generations = generations
        self.idle: deque[Slot] = deque()
        self.waiters: deque[Waiter] = deque()
        self.size: float = size
        self.closed: bool = False
        self._statistics = statistics
        self._timeouts = Timeouts(name)
        self._slots: dict[int, weakref.ref[Slot]] = {}
        self._find_self = weakref.ref(self)
        # For making slots only. Reentrant, because a finaliser may run at any moment.
        self._lock = threading.RLock()

    # -- Slots

    def slots(self) -> list[Slot]:
        """The slots that were made and still exist."""
        return [slot for slot in (find() for find in list(self._slots.values())) if slot]

    def in_use(self) -> list[Slot]:
        """The slots that are reserved."""
        idle = set(self.idle.copy())
        return [slot for slot in self.slots() if slot not in idle]

    def has_client(self, thread: int) -> bool:
        """Whether *thread* has reserved one of the slots that are in use."""
        return any(slot.since and slot.thread == thread for slot in self.in_use())

    def take_slot(self) -> Slot | None:
        """An idle slot, or a new one, or None."""
        try:
            return self.idle.pop()
        except IndexError:
            return self._new_slot()

    def _new_slot(self) -> Slot | None:
        with self._lock:
            number = len(self._slots)
            if number >= self.size or self.closed:
                return None
            return self._make_slot(number)

    def _make_slot(self, number: int) -> Slot:
        slot = Slot(number, self._find_self, self._statistics.ended)
        self._slots[number] = weakref.ref(slot)
        return slot

    def replace_slot(self, number: int, lost: Slot | None = None) -> None:
        """Put a new slot in the place of the one with this *number*, which is *lost* or gone."""
        with self._lock:
            find = self._slots.get(number)
            if find is None or self.closed or find() not in (None, lost):
                return
            self.idle.appendleft(self._make_slot(number))
        self.serve_waiters()

    def _replace_lost_slots(self) -> None:
        for number, find in list(self._slots.items()):
            if find() is None:
                self.replace_slot(number)

    # -- Waiters

    def serve_waiters(self) -> None:
        """Assign idle slots to waiters, the oldest first."""
        while self.waiters:
            slot = self.take_slot()
            if slot is None:
                return
            try:
                waiter = self.waiters.popleft()
            except IndexError:
                # Put it back first, then look again: a waiter may have queued meanwhile.
                self.idle.append(slot)
                continue
            waiter.assign(slot)

    def wait_for_slot(self, timeout: float) -> Slot:
        """Wait for a slot, for *timeout* seconds at most, and return it.

        :raises PoolTimeout: no slot came free in time.
        :raises PoolClosed: the pool is closed, or was closed meanwhile.
        """
        if not self.waiters:
            slot = self.take_slot()
            if slot is not None:
                return slot
        began = monotonic()
        self._replace_lost_slots()
        waiter = Waiter()
        try:
            self.waiters.append(waiter)
            self.serve_waiters()
            if not self.closed:
                waiter.wait(timeout)
            slot = waiter.take()
            if slot is None:
                slot = self._last_chance(waiter)
        except BaseException:
            self._withdraw(waiter)
            slot = waiter.take()
            if slot is not None:
                self.release(slot)
            raise
        if self.closed:
            raise PoolClosed(f"{self.name} is closed") from None
        is_first = self._statistics.note_wait(monotonic() - began, timed_out=slot is None)
        if slot is not None:
            return slot
        raise self._timeouts.error(self.in_use(), self.size, timeout, is_first) from None

    def _last_chance(self, waiter: Waiter) -> Slot | None:
        """The slot of *waiter*, if an interrupt kept another thread from assigning it."""
        self._replace_lost_slots()
        self.serve_waiters()
        if self._withdraw(waiter):
            return None
        slot = waiter.take()
        if slot is None:
            with contextlib.suppress(IndexError):
                slot = self.idle.pop()
        return slot

    def _withdraw(self, waiter: Waiter) -> bool:
        """Take *waiter* off the queue. Return whether it was still there."""
        try:
            self.waiters.remove(waiter)
        except ValueError:
            return False
        return True

    def release(self, slot: Slot) -> None:
        """Put *slot* back."""
        slot.since = 0.0
        self.idle.append(slot)
        self.serve_waiters()

    # -- All slots at once

    def grow(self, number: int) -> None:
        """Allow so many more slots."""
        with self._lock:
            self.size += number
        self.serve_waiters()

    def drop_old_clients(self) -> None:
        """Close the connections of idle clients that are not of the current generation."""
        for _ in range(len(self.idle)):
            try:
                slot = self.idle.popleft()
            except IndexError:
                return
            try:
                slot.drop_old_client()
            finally:  # an interrupt's traceback would hold the slot
                self.release(slot)

    def close(self) -> None:
        """Close idle clients now and reserved ones at their release. Wake all waiters."""
        self.closed = True
        # A slot that another thread puts into the old stack at this moment is freed with it.
        idle, self.idle = self.idle, _ClosedStack()
        with contextlib.suppress(IndexError):
            while True:
                self.waiters.popleft().assign(None)
        with contextlib.suppress(IndexError):
            while True:
                self.idle.append(idle.pop())


class _ClosedStack(deque):  # type: ignore[type-arg]
    """Always empty: a slot that is put here is freed, and its connection closed."""

    def append(self, slot: Slot) -> None:
        discard(slot.client)

    appendleft = append
