"""
Time-outs
=========

What a reservation says if no client came free in time: who holds the clients, the longest first.
The first time-out of many also logs it.
"""

from __future__ import annotations

import logging
from time import monotonic

from ..errors import PoolTimeout
from .holders import Holder, find_holders
from .slots import Slot

logger: logging.Logger = logging.getLogger("mcpool_wsgi.pool")

HOLDERS_LOGGED = 12  # by the first time-out of many
HOLDERS_KEPT = 1.0  # seconds for which time-outs tell of the same holders


class Timeouts:
    """The time-outs of a queue.

    :param name: of the pool.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._holders: list[Holder] = []
        self._holders_until = 0.0

    def error(self, slots: list[Slot], size: float, timeout: float, is_first: bool) -> PoolTimeout:
        """The error of a reservation that got no client in time.

        :param slots: those that are reserved, of *size* slots.
        :param timeout: seconds that it may wait.
        :param is_first: whether to log it.
        """
        if not size:
            return PoolTimeout(f"{self._name} has no slots: fill(mc, n_slots) makes some")
        holders = self._find_holders(slots, is_first)
        if is_first:
            logger.warning(
                "%s: no client came free within %.3g s; %d of %d are in use",
                self._name,
                timeout,
                len(slots),
                size,
            )
            for holder in holders[:HOLDERS_LOGGED]:
                logger.warning("%s: a client is held for %s", self._name, holder)
        longest = f"; the longest for {holders[0]}" if holders else ""
        return PoolTimeout(
            f"no client of {self._name} came free within {timeout:.3g} s: {len(slots)} of"
            f" {size} are in use{longest}"
        )

    def _find_holders(self, slots: list[Slot], is_first: bool) -> list[Holder]:
        """The holders of *slots*. There are none while another thread looks for them."""
        # The search takes milliseconds, and in an outage there may be thousands of time-outs.
        now = monotonic()
        if is_first or now >= self._holders_until:
            self._holders_until = now + HOLDERS_KEPT
            self._holders = []  # those from before this look are no holders any more
            self._holders = find_holders(slots)
        return self._holders
