"""
Slots
=====

A slot is a place for one client. The clients of one :class:`Generation` are clones of one
master. They are renewed together.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any, Callable, Protocol

from .. import forks
from ..client import discard


class Generation:
    """The clients made from one master since one moment."""

    __slots__ = ("born", "current", "master", "reason")

    def __init__(self, master: Any, reason: str) -> None:
        self.master: Any = master
        self.reason: str = reason  # why it replaced the one before
        self.born: float = monotonic()
        self.current: bool = True


#: The generation of a slot that has no client.
NO_GENERATION: Generation = Generation(None, "")
NO_GENERATION.current = False
#: That of a slot whose client was closed, and will be replaced.
ENDED_GENERATION: Generation = Generation(None, "")
ENDED_GENERATION.current = False


class HasSlot:
    """Base of reservations: their ``_slot`` is a slot. ``find_holders()`` looks for them."""

    __slots__ = ()


class HasReservations:
    """Base of what stands for reservations in an environ."""

    __slots__ = ()

    def reservations(self) -> list[Any]:
        """They, and perhaps other objects."""
        raise NotImplementedError


class QueueOfSlot(Protocol):
    """What a slot needs of its queue."""

    def replace_slot(self, number: int, lost: Slot | None = None) -> None: ...


class Slot:
    """A place for one client. The client is made when it is needed.

    :param number: the slot's number in its queue.
    :param find_queue: a weak reference to the queue, so that a pool that nobody uses any
        more is freed at once.
    :param ended: gets the number of the slot's reservations when the slot is freed.
    """

    __slots__ = (
        "__weakref__",
        "_ended",
        "_find_queue",
        "client",
        "generation",
        "number",
        "process",
        "replaced",
        "reservations",
        "since",
        "thread",
    )

    def __init__(
        self, number: int, find_queue: Callable[[], QueueOfSlot | None], ended: deque[float]
    ) -> None:
        self.number: int = number
        self.process: forks.Process = forks.current  # the one that made the client
        self.client: Any = None
        self.generation: Generation = NO_GENERATION
        # When it was reserved, in seconds of monotonic(), or 0.0, and by which thread.
        self.since: float = 0.0
        self.thread: int = 0
        # Only the holder counts, so no count is lost. A float, because adding to one is faster.
        self.reservations: float = 0.0
        # Garbage in a circle is finalised in any order. So a slot that has been replaced may still
        # be released. The next reservation that takes it sees this, and takes another one.
        self.replaced: bool = False
        self._ended = ended
        self._find_queue = find_queue

    def drop_old_client(self) -> None:
        """Close the client if it is not of the current generation."""
        if not self.generation.current:
            discard(self.client)
            self.client = None
            if self.generation is not NO_GENERATION:
                self.generation = ENDED_GENERATION  # frees the old one, with its master, here

    def __del__(self, keep_if_foreign: Callable[..., bool] = forks.keep_if_foreign) -> None:
        """Replace a lost slot: an interrupt came, or a reservation was dropped."""
        try:
            find_queue = self._find_queue
        except AttributeError:  # interrupted while it was made
            return
        self.replaced = True
        self.generation = NO_GENERATION
        if keep_if_foreign(self.client, self.process):
            if getattr(self.client, "_child_client", None) is not None:
                self.client._child_client = None  # its connection would stay open as well
        else:
            self._ended.append(self.reservations)
            queue = find_queue()
            if queue is not None:
                queue.replace_slot(self.number, self)
