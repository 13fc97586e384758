"""
Contention
==========

64 threads, 8 clients: every thread reserves a client, works for 50 µs, which here as with
memcached means waiting without the interpreter's lock, gives it back, and wants
the next one at once. How long do they wait for a client, and does each get its turn?

Pools that raise an error instead of waiting are left out. Where a pool leaves threads
without a turn, the longest wait is as long as the round.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Callable

from contenders import CONTENDERS, pools
from measure import Track, interleaved

THREADS, SLOTS = 64, 8
WORK = 50e-6  # seconds


@dataclass(frozen=True)
class Run:
    """One pool's figures, of one round."""

    #: Reservations per second.
    throughput: float
    #: Jain's index of the threads' turns: 1 if all had as many, 1/n if one had all.
    fairness: float
    #: How long each wait was, in seconds, ascending.
    waits: list[float]

    @property
    def longest(self) -> float:
        return self.waits[-1]


def run(quick: bool, track: Track) -> dict[str, list[Run]]:
    contenders = [contender for contender in CONTENDERS if contender.wait is not None]
    seconds, rounds = (1.0, 3) if quick else (2.0, 7)
    with pools(contenders, SLOTS) as made:

        def closed_loop_on(wait: Callable[[Any], Any], pool: Any) -> Callable[[], Run]:
            return lambda: closed_loop(lambda: wait(pool), seconds)

        loops = {
            contender.name: closed_loop_on(contender.wait, made[contender.name])
            for contender in contenders
            if contender.wait is not None
        }
        return interleaved(loops, track(f"{THREADS} threads, {SLOTS} clients", rounds))


def closed_loop(wait: Callable[[], AbstractContextManager[Any]], seconds: float) -> Run:
    turns: list[list[float]] = [[] for _ in range(THREADS)]
    ready = threading.Barrier(THREADS + 1)
    clock = time.perf_counter

    def work(waits: list[float]) -> None:
        ready.wait()
        end = clock() + seconds
        while (began := clock()) < end:
            with wait():
                waits.append(clock() - began)
                time.sleep(WORK)

    threads = [threading.Thread(target=work, args=(waits,), daemon=True) for waits in turns]
    for thread in threads:
        thread.start()
    ready.wait()
    began = clock()
    for thread in threads:
        thread.join()
    elapsed = clock() - began
    counts = [len(waits) for waits in turns]
    return Run(
        throughput=sum(counts) / elapsed,
        fairness=jain(counts),
        waits=sorted(wait for waits in turns for wait in waits),
    )


def jain(counts: Iterable[float]) -> float:
    counts = list(counts)
    return sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts))


def percentile(ascending: list[float], share: float) -> float:
    """The value that *share* of them do not exceed."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]
