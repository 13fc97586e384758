"""
Scale
=====

Prints the tables of ``docs/how-to/scale.md``: how many connections a memcached has when many
processes with many threads use it, what the restart of one memcached does to 64 clients, and
what a proxy costs. The processes, threads, memcacheds and twemproxy are real. It takes some
three minutes, and with ``--quick`` less than one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from math import comb
from pathlib import Path
from typing import Any

from measure import interleaved, machine, one_core, timer
from restart import print_restarts

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware, PooledClient, get_client
from mcpool_wsgi.devserver import memcached

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import proxied
from harness import Connections

CONTEXT = multiprocessing.get_context("fork")
SHARE = 0.1  # of its time that a thread spends in memcached
MAY_WAIT = 0.01  # the share of the commands that may wait for a slot
#: How clients are reserved, and the share of the requests that use memcached.
WAYS = {"eager": 1.0, "lazy": 1.0, "lazy, 1 in 5": 0.2, "per command": 1.0, "proxy": 1.0}
COMMANDS = {"`get` of 100 bytes": "mc.get('key0')", "`get_multi` of 10 keys": "mc.get_multi(keys)"}


def share_that_waits(threads: int, slots: int) -> float:
    """The share of the commands that find all *slots* in use by other threads, on paper."""
    others = threads - 1
    return sum(
        comb(others, busy) * SHARE**busy * (1 - SHARE) ** (others - busy)
        for busy in range(slots, threads)
    )


def enough_slots(threads: int) -> int:
    return next(n for n in range(1, threads + 1) if share_that_waits(threads, n) < MAY_WAIT)


class Thread:
    """A thread of a server. It serves requests, one after the other."""

    def __init__(self, way: str, pool: ClientPool) -> None:
        self.pooled = PooledClient(pool) if way == "per command" else None
        self.app: Any = self.serve
        if self.pooled is None:
            self.app = MemcachedPoolMiddleware(self.serve, pool, lazy=way.startswith("lazy"))
        self.use_memcached = WAYS[way]
        # As if there had been one request, so that the first ones are not all at once.
        self.requests = self.commands = 1
        self.in_memcached, self.seconds = 0.0002, 0.0

    def run(self, seconds: float) -> None:
        start = time.monotonic()
        while self.seconds < seconds:
            response = self.app({"wsgi.multithread": True}, None)
            if self.pooled is None:
                response.close()
            self.seconds = time.monotonic() - start

    def serve(self, environ: Any, start_response: Any) -> list[bytes]:
        self.work()
        self.requests += 1
        if random.random() < self.use_memcached:
            mc = self.pooled or get_client(environ)
            before = time.monotonic()
            mc.get("key")
            self.in_memcached += time.monotonic() - before
            self.commands += 1
        self.work()
        return []

    def work(self) -> None:
        """Half of what a request does besides its command: that takes nine times as long."""
        command = self.in_memcached / self.commands
        lag = self.requests * command / SHARE - self.seconds
        if lag > 0:
            time.sleep(random.expovariate(2 / lag))


def use(way: str, address: str, threads: int, seconds: float, done: Any, barrier: Any) -> None:
    """A process of a server."""
    random.seed()  # the parent's state is the same in all processes
    slots = enough_slots(threads) if way == "per command" else threads
    pool = ClientPool(Client([address]), slots, timeout=30)
    served = [Thread(way, pool) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(lambda thread: thread.run(seconds), served))
    inside = sum(each.in_memcached for each in served) / sum(each.seconds for each in served)
    stats = pool.stats()
    done.put((inside, stats.waits / stats.reservations))
    barrier.wait()  # now the connections are counted
    barrier.wait()


def measured(way: str, processes: int, threads: int, seconds: float) -> tuple[int, float, float]:
    """The connections at memcached, the share of time in memcached, the share that waited."""
    with ExitStack() as running:
        address = running.enter_context(memcached(embedded=False)).address
        connections = Connections(address)
        if way == "proxy":
            directory = Path(running.enter_context(tempfile.TemporaryDirectory()))
            address = running.enter_context(proxied.proxy(directory, [address]))
        done, barrier = CONTEXT.Queue(), CONTEXT.Barrier(processes + 1)
        arguments = (way, address, threads, seconds, done, barrier)
        users = [
            CONTEXT.Process(target=use, args=arguments, daemon=True) for _ in range(processes)
        ]
        for user in users:
            user.start()
        barrier.wait(seconds + 60)
        count = connections.count()
        barrier.wait()
        inside, waits = map(statistics.mean, zip(*(done.get() for _ in users)))
        for user in users:
            user.join()
            assert user.exitcode == 0, f"a process ended with {user.exitcode}"
    return count, inside, waits


def print_connections(sizes: list[tuple[int, int]], seconds: float) -> None:
    print("| processes x threads | way | on paper | measured | in memcached | waited |")
    print("|---|---|---|---|---|---|")
    for processes, threads in sizes:
        slots = enough_slots(threads)
        for way in WAYS:
            most = processes * threads
            paper = {"per command": f"{processes} x {slots} = {processes * slots}", "proxy": "1"}
            shown = paper.get(way, f"{most}" if way == "eager" else f"at most {most}")
            count, inside, waits = measured(way, processes, threads, seconds)
            print(f"| {processes} x {threads} | {way} | {shown} | {count} |", end=" ")
            print(f"{inside:.1%} | {waits:.1%} |", flush=True)


def print_slots() -> None:
    print("| threads | slots | wait, on paper |\n|---|---|---|")
    for threads in (4, 8, 10, 16, 32, 64):
        slots = enough_slots(threads)
        print(f"| {threads} | {slots} | {share_that_waits(threads, slots):.1%} |")


def print_costs(rounds: int) -> None:
    with ExitStack() as running:
        running.enter_context(one_core())
        directory = Path(running.enter_context(tempfile.TemporaryDirectory()))
        address = running.enter_context(memcached(embedded=False)).address
        proxy = running.enter_context(proxied.proxy(directory, [address]))
        clients = {"direct": Client([address]), "proxy": Client([proxy])}
        keys = [f"key{number}" for number in range(10)]
        clients["direct"].set_multi(dict.fromkeys(keys, b"v" * 100))
        print("| command | direct | through the proxy | ratio |\n|---|---|---|---|")
        for row, statement in COMMANDS.items():
            timers = {name: timer(statement, mc=mc, keys=keys) for name, mc in clients.items()}
            figures = interleaved(timers, rounds)
            direct, through = (statistics.median(figures[name]) / 1000 for name in clients)
            print(f"| {row} | {direct:.3g} µs | {through:.3g} µs | {through / direct:.2g} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything")
    quick = parser.parse_args().quick
    print(machine(), end="\n\n")
    print_slots()
    print()
    print_connections([(2, 8)] if quick else [(4, 8), (8, 8), (4, 16)], 1.0 if quick else 4.0)
    print()
    print_restarts(old=2.0 if quick else 12.0)
    print()
    print_costs(20 if quick else 200)


if __name__ == "__main__":
    main()
