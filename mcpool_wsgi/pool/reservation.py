"""
Reservation
===========

One reservation of a slot: how it gets the slot, and how it puts it back once. A
:class:`~mcpool_wsgi.pool.lent_client.LentClient` is a reservation and the client in one.
"""

from __future__ import annotations

from _thread import get_ident
from time import monotonic
from typing import Any, NoReturn, Protocol

from ..errors import ClientReleased
from ..forks import enter_child, same_process
from . import greenlets
from .slot_queue import SlotQueue
from .slots import HasSlot, Slot


class PoolOfReservation(Protocol):
    """What a reservation needs of its pool."""

    timeout: float

    @property
    def master(self) -> Any: ...
    @property
    def _queue(self) -> SlotQueue: ...


class _NoClient:
    """Stands where there is no client. To get or set an attribute of it raises."""

    def __init__(self, error: type[RuntimeError], text: str) -> None:
        self.__dict__["error"] = error(text)

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__dict__"):  # gevent and eventlet ask it of every object
            return object.__getattribute__(self, name)
        error = object.__getattribute__(self, "error")
        raise type(error)(*error.args)

    def __setattr__(self, name: str, value: object) -> None:
        getattr(self, name)


NOT_RESERVED: Any = _NoClient(
    RuntimeError, "this client is not reserved yet: use it inside with pool.reserve() as mc"
)
RELEASED: Any = _NoClient(
    ClientReleased,
    "this client was released, early or at the end of its request or its with block: reserve"
    " another one, with pool.reserve() as mc, where you need it",
)


class Reservation(HasSlot):
    """One reservation. It ends once, however often and from whichever thread it is released."""

    # There is no __init__: calling one costs a fifth of a reservation. See Pool.reserve().
    __slots__ = ("_client", "_is_over", "_pool", "_queue", "_server_thread", "_slot", "_timeout")

    _client: Any
    _pool: PoolOfReservation
    _queue: Any  # the SlotQueue to which the slot is released; None from then on
    _slot: Slot  # from the reservation to the release
    _is_over: bool  # set by a release that found no slot
    # Set if one thread serves all requests: nobody can release its clients while it waits.
    _server_thread: int
    _timeout: float  # seconds to wait for a slot, if it is not the pool's timeout

    def __enter__(self) -> Any:
        if not same_process:
            enter_child()
        if self._client is not NOT_RESERVED:
            self._raise_not_again()
        self._queue = queue = self._pool._queue
        try:
            if queue.waiters:
                slot = self._slot = queue.wait_for_slot(self._wait_limit())
            else:
                try:
                    slot = self._slot = queue.idle.pop()
                except IndexError:
                    slot = self._slot = queue.wait_for_slot(self._wait_limit())
            while not slot.generation.current:
                if not slot.replaced:
                    queue.generations.fill(slot)
                else:  # another slot has its number
                    del self._slot, slot
                    slot = self._slot = queue.wait_for_slot(self._wait_limit())
            slot.reservations += 1.0
            slot.thread = get_ident()
            slot.since = monotonic()
            self._client = slot.client
        except BaseException:
            self._client = NOT_RESERVED
            self._put_slot_back()
            raise
        return self

    _reserve_now = __enter__  # a lazy client calls it later, and observed() measures it

    # Not *exc, because Python would make a tuple for each release.
    def __exit__(self, exc_type: object = None, exc: object = None, tb: object = None) -> None:
        try:
            slot = self._slot
            del self._slot  # succeeds once
        except AttributeError:
            self._is_over = True
            self._client = RELEASED
            self._put_slot_back()  # another thread may just have got one
            return
        # Now, before another reservation can have the slot's client.
        self._client = RELEASED
        queue = self._queue
        self._queue = None  # the queue of a thread that has ended has its connections
        slot.since = 0.0  # until the next reservation has it completely, nobody holds it
        if not slot.generation.current:
            try:
                slot.drop_old_client()
            except BaseException:  # an interrupt, whose traceback would hold the slot
                queue.release(slot)
                raise
        try:
            queue.idle.append(slot)
            if queue.waiters:
                queue.serve_waiters()
        except BaseException:
            queue.serve_waiters()  # whatever came between: nobody waits while a slot is idle
            raise

    def release(self) -> None:
        """Release the client. A second call does nothing."""
        self.__exit__()

    @property
    def is_released(self) -> bool:
        """Whether it is over."""
        return self._client is RELEASED

    def _wait_limit(self) -> float:
        # With greenlets, others can release theirs while this one waits.
        one_thread = hasattr(self, "_server_thread") and not greenlets.are_used()
        if one_thread and self._queue.has_client(self._server_thread):
            return 0.0
        return getattr(self, "_timeout", self._pool.timeout)

    def _put_slot_back(self) -> None:
        try:
            slot = self._slot
            del self._slot
        except AttributeError:
            return
        self._queue.release(slot)

    def _raise_not_again(self) -> None:
        if self._client is RELEASED:
            self._client.clone()  # raises
        raise RuntimeError("this client is reserved already: call pool.reserve() once more")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} is one reservation in one process, so it is neither copied"
            " nor pickled"
        )

    def __repr__(self) -> str:
        state = "reserved"
        if self._client is NOT_RESERVED:
            state = "not reserved yet"
        elif self._client is RELEASED:
            state = "released"
        return f"<{type(self).__name__} of {self._pool!r}, {state}>"


class PlainReservation(Reservation):
    """A reservation that gives the client of the slot itself.

    Pools of clients that are not :class:`~mcpool_wsgi.Client` reserve with it.
    """

    __slots__ = ()

    def __enter__(self) -> Any:
        super().__enter__()
        return self._client

    _reserve_now = __enter__
