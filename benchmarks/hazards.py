"""
Hazards
=======

What goes wrong with pylibmc clients as they are commonly shared, and what becomes of
it with this package: the share of reads that return another key's value, or fail.

.. code-block:: console

    $ python benchmarks/hazards.py

Each hazard runs in a process of its own, because some of them end it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from typing import Any, Callable

import pylibmc

from mcpool_wsgi import Client, ClientPool
from mcpool_wsgi.devserver import memcached

KEYS = 100
READS = 3000  # by each thread or process


def right(mc: Any, number: int) -> bool:
    try:
        return bool(mc.get(f"k{number % KEYS}") == number % KEYS)
    except Exception:
        return False


def wrong_reads(reserve: Callable[[], Any], reads: int = READS) -> int:
    wrong = 0
    for number in range(reads):
        with reserve() as mc:
            wrong += not right(mc, number)
    return wrong


def in_eight_threads(reserve: Callable[[], Any]) -> float:
    wrong = [0] * 8

    def work(number: int) -> None:
        wrong[number] = wrong_reads(reserve)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(wrong) / (8 * READS)


def after_a_bad_key(reserve: Callable[[], Any]) -> float:
    with reserve() as mc, contextlib.suppress(pylibmc.Error, ValueError):
        mc.set("a b", "value")
    return wrong_reads(reserve) / READS


def in_four_children_and_the_parent(reserve: Callable[[], Any]) -> float:
    wrong_reads(reserve, 1)
    receivers = []
    for _ in range(4):
        reading, writing = os.pipe()
        if os.fork() == 0:
            os.write(writing, str(wrong_reads(reserve)).encode())
            os._exit(0)
        os.close(writing)
        receivers.append(reading)
    wrong = wrong_reads(reserve)
    for reading in receivers:
        with open(reading, "rb") as pipe:
            wrong += int(pipe.read() or READS)
    return wrong / (5 * READS)


def shared(address: str) -> Callable[[], Any]:
    """One client for everybody."""
    mc = pylibmc.Client([address], behaviors={"_poll_timeout": 200})
    return lambda: contextlib.nullcontext(mc)


def pylibmc_pool(address: str) -> Callable[[], Any]:
    pool = pylibmc.ClientPool(pylibmc.Client([address], behaviors={"_poll_timeout": 200}), 1)
    return lambda: pool.reserve(block=True)


def our_pool(address: str) -> Callable[[], Any]:
    return ClientPool(Client([address]), 4).reserve


HAZARDS: dict[str, tuple[Callable[[Callable[[], Any]], float], Callable[[str], Any]]] = {
    "one client used by eight threads": (in_eight_threads, shared),
    "a key with a space in it": (after_a_bad_key, pylibmc_pool),
    "a fork with an open client": (in_four_children_and_the_parent, pylibmc_pool),
}


def measured(hazard: str, ours: bool, address: str) -> str:
    """The share of wrong reads, or how the process ended."""
    work, theirs = HAZARDS[hazard]
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()

    def run() -> None:
        pylibmc.Client([address]).set_multi({f"k{number}": number for number in range(KEYS)})
        results.put(work((our_pool if ours else theirs)(address)))

    process = context.Process(target=run)
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
        return "hangs"
    return f"{results.get():.0%}" if process.exitcode == 0 else "crashes"


def main() -> None:
    print(f"{'wrong reads':40}{'pylibmc':>10}{'mcpool-wsgi':>14}")
    with memcached() as server:
        for hazard in HAZARDS:
            figures = [measured(hazard, ours, server.address) for ours in (False, True)]
            print(f"{hazard:40}{figures[0]:>10}{figures[1]:>14}", flush=True)


if __name__ == "__main__":
    main()
