"""
Statistics
==========

What ``pool.stats()`` returns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PoolStats:
    """A pool at one moment, and what has happened since it was made or the process forked.

    Exact while nobody is reserving or giving back.
    """

    #: The most clients that there may be at once; None where there is no limit.
    slots: int | None
    #: Clients that there are.
    size: int
    #: Clients that wait for somebody to reserve them.
    idle: int
    #: Clients that somebody has.
    in_use: int
    #: Threads that wait for a client.
    waiting: int
    #: Reservations that got a client.
    reservations: int
    #: Reservations that had to wait for one, those that timed out included.
    waits: int
    #: Seconds that all of them waited together.
    seconds_waited: float
    #: Seconds that the longest of them waited.
    longest_wait: float
    #: Reservations that ended in a :exc:`~mcpool_wsgi.PoolTimeout`.
    timeouts: int
    #: Commands that failed because memcached could not be reached, with ``fail_soft`` as well.
    #: The first read after a connection broke is not among them: libmemcached says it is a miss.
    failures: int
    #: Clients that were made, as replacements or as the first of their slot.
    clients_made: int
    #: How many of them replaced another, by reason: ``failure`` of its generation, other
    #: ``servers``, or another master from ``fill``.
    clients_renewed: Mapping[str, int]
