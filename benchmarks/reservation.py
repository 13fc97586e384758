"""
Reservation
===========

What it costs to reserve a client and to give it back, with nothing in between, when
nobody else wants one. Twelve slots; and, for this package's pool, ten thousand, all
of them with a client, to see whether the cost grows with the pool.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Callable

from contenders import CONTENDERS, LOCAL, NOWHERE, OURS, OURS_BY_THREAD, PYLIBMC_BY_THREAD, pools
from measure import Figures, Track, interleaved, timer

from mcpool_wsgi import Client, ClientPool

SLOTS, MANY_SLOTS = 12, 10_000
BY_THREAD = [OURS_BY_THREAD, PYLIBMC_BY_THREAD, LOCAL]
OURS_LARGE = f"{OURS}, {MANY_SLOTS:,} slots"


def run(quick: bool, track: Track) -> Figures:
    """Nanoseconds for one reservation, by pool."""
    rounds = 60 if quick else 400
    with pools(CONTENDERS, SLOTS) as made:

        def timers(by_thread: bool) -> dict[str, Callable[[], float]]:
            return {
                contender.name: timer(contender.statement, pool=made[contender.name])
                for contender in CONTENDERS
                if (contender.name in BY_THREAD) is by_thread
            }

        shared = timers(by_thread=False)
        shared[OURS_LARGE] = timer("with pool.reserve() as mc: pass", pool=large_pool())
        figures = interleaved(shared, track("cost of a reservation", rounds))
        per_thread = track("... with a client per thread", rounds)
        return {**figures, **interleaved(timers(by_thread=True), per_thread)}


def large_pool() -> ClientPool:
    pool = ClientPool(Client(NOWHERE), MANY_SLOTS)
    with ExitStack() as all_at_once:  # or there would be one client: they are made on demand
        for _ in range(MANY_SLOTS):
            all_at_once.enter_context(pool.reserve())
    return pool
