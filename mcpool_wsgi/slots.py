"""
Slots
=====

Room for one client each. Clients of one :class:`Generation` are clones of one master,
and are replaced together.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import Any, Callable, Protocol

from . import forks


class Generation:
    """The clients made from one master since one moment."""

    __slots__ = ("born", "current", "master", "reason", "renewal_interval")

    def __init__(self, master: Any, reason: str) -> None:
        self.master: Any = master
        self.reason: str = reason  # for which it replaced the one before
        self.born: float = monotonic()
        self.current: bool = True
        # Seconds that pass before clients are renewed after a failure.
        self.renewal_interval: float = getattr(master, "renewal_interval", 0.0)


#: That of a slot that has had no client, or whose client somebody took.
NO_GENERATION: Generation = Generation(None, "")
NO_GENERATION.current = False


class Lender(Protocol):
    """What a slot needs of its lender."""

    def replace(self, slot: Slot) -> None: ...


class Slot:
    """Room for one client, and the client once somebody needed it.

    :param lender: a weak reference, so that a pool that nobody uses any more is freed at once.
    :param ended: where the number of reservations goes in the end.
    """

    __slots__ = (
        "__weakref__",
        "_ended",
        "_lender",
        "client",
        "finalised",
        "generation",
        "process",
        "reservations",
    )

    def __init__(self, lender: Callable[[], Lender | None], ended: deque[float]) -> None:
        # The one that the client's connections belong to.
        self.process: forks.Process = forks.current
        self.client: Any = None
        # Garbage in a circle is finalised in any order, so that a slot that has been replaced may
        # yet be given back. It serves as long as its client does: so long the other one waits.
        self.finalised: bool = False
        self.generation: Generation = NO_GENERATION
        # Counted by the holder alone, so that none is lost; a float, because adding to one is
        # faster than to an int.
        self.reservations: float = 0.0
        self._ended = ended
        self._lender = lender

    def __del__(self, spare: Callable[..., bool] = forks.spare) -> None:
        """Here ends what no hand holds: an interrupt came between, or a lease was dropped."""
        try:
            find_lender = self._lender
        except AttributeError:  # interrupted in the making
            return
        self.finalised = True
        if not spare(self.client, self.process):
            self._ended.append(self.reservations)
            lender = find_lender()
            if lender is not None:
                lender.replace(self)

    def give_up_client(self) -> Any:
        client, self.client = self.client, None
        self.generation = NO_GENERATION
        return client
