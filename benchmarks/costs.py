"""
Costs
=====

What is measured. Each function returns figures by contender, this package's first.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from statistics import quantiles
from typing import TYPE_CHECKING, Any, Callable

import contenders
import pylibmc
from cachelib import MemcachedCache
from contenders import BLOG, OURS, POOLS, PYLIBMC, bare, reserving, streaming
from measure import Figures, interleaved, one_core, timer
from pymemcache import PooledClient

import mcpool_wsgi
from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware
from mcpool_wsgi.devserver import memcached
from mcpool_wsgi.metrics import PoolCollector

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

BARE = "the bare app"
OUR_CLIENT = "mcpool_wsgi.Client"
LENT = "a client lent by mcpool_wsgi.ClientPool"
WATCHED = "the same, with Prometheus"
PLAIN = "pylibmc.Client"
CACHELIB = "cachelib.MemcachedCache"
POOLED = "pymemcache.PooledClient"
OUR_POOLED = "mcpool_wsgi.PooledClient"
EAGER, LAZY = "a client for each request", "lazy=True"
PER_COMMAND, PER_REQUEST = "PooledClient, 16 slots", "a client per request"
SLOTS = 12
TURNS = 4  # of processes that are measured by turns

# Of the commands. All of pylibmc's clients and this package's get the same behaviors, because
# some of them change the time of a command.
KEYS = [f"key{number}" for number in range(100)]
VALUE = b"v" * 100
NAMES: dict[str, Any] = {"value": VALUE, "ten": KEYS[:10], "hundred": KEYS}
LIMITS = {"_poll_timeout": 500, "receive_timeout": 500_000, "send_timeout": 500_000}
BEHAVIORS = {"tcp_nodelay": True, **LIMITS}

# Of the waits.
THREADS, CLIENTS = 64, 8
ROUND, WORK = 1.5, 50e-6  # seconds
BUSY = 0.1  # the part of its time that a thread spends in memcached


def reservations(rounds: int) -> Figures:
    """Nanoseconds to reserve a client and release it while nobody waits."""
    statement = "with pool.reserve() as mc: pass"
    timers = {name: timer(statement, pool=make(SLOTS)) for name, make in POOLS.items()}
    by_thread = {name: timers.pop(name) for name in contenders.BY_THREAD}
    return {**interleaved(timers, rounds), **interleaved(by_thread, rounds)}


def requests(rounds: int) -> Figures:
    """Nanoseconds that a request takes beyond the bare app's, within each round."""
    apps = {name: reserving(POOLS[name](SLOTS)) for name in (BLOG, PYLIBMC)}
    ours = MemcachedPoolMiddleware(bare, POOLS[OURS](SLOTS))
    figures = timed_apps({OURS: ours, **apps, BARE: bare}, rounds)
    floor = figures.pop(BARE)
    return {name: [a - b for a, b in zip(each, floor)] for name, each in figures.items()}


def chunks(rounds: int) -> Figures:
    """Nanoseconds of a response of 100 chunks."""
    ours = MemcachedPoolMiddleware(streaming, POOLS[OURS](SLOTS))
    return timed_apps({OURS: ours, BARE: streaming}, rounds)


def unused(rounds: int) -> Figures:
    """Nanoseconds, beyond the bare app's, of a request that uses no memcached."""
    # The two share code, so each is measured in processes of its own, by turns.
    spawn = multiprocessing.get_context("spawn")
    figures: Figures = {LAZY: [], EAGER: []}
    for name in (LAZY, EAGER) * TURNS:
        with ProcessPoolExecutor(1, spawn) as process:
            figures[name] += process.submit(unused_by, name, rounds // TURNS).result()
    return figures


def unused_by(name: str, rounds: int) -> list[float]:
    app = MemcachedPoolMiddleware(bare, POOLS[OURS](SLOTS), lazy=name == LAZY)
    figures = timed_apps({name: app, BARE: bare}, rounds)
    return [a - b for a, b in zip(figures[name], figures[BARE])]


def timed_apps(apps: dict[str, WSGIApplication], rounds: int) -> Figures:
    request = contenders.request
    timers = {name: timer("request(app)", request=request, app=app) for name, app in apps.items()}
    return interleaved(timers, rounds)


def command(statement: str, *names: str) -> Callable[[int], Figures]:
    """A function that measures nanoseconds of a command, on one core with its memcached.

    Pools among the contenders reserve a client for each command.
    """

    def measure(rounds: int) -> Figures:
        with one_core(), memcached(embedded=False) as server, ExitStack() as stack:
            plain = pylibmc.Client([server.address], behaviors=BEHAVIORS)
            ours = Client([server.address], BEHAVIORS)
            plain.set_multi(dict.fromkeys(["key", *KEYS], VALUE))
            watched = ClientPool(ours, SLOTS)
            PoolCollector([watched])
            clients = {
                OUR_CLIENT: ours,
                LENT: stack.enter_context(ClientPool(ours, SLOTS).reserve()),
                WATCHED: stack.enter_context(watched.reserve()),
                OURS: ClientPool(ours, SLOTS),
                PLAIN: plain,
                PYLIBMC: pylibmc.ClientPool(plain, SLOTS),
                CACHELIB: MemcachedCache([server.address], pool_size=SLOTS),
                POOLED: PooledClient(server.address, max_pool_size=SLOTS),
                OUR_POOLED: mcpool_wsgi.PooledClient(ClientPool(ours, SLOTS)),
            }
            timers = {}
            for name in names:
                reserve = "with pool.reserve(block=True) as mc: " if name in POOLS else ""
                mc = pool = clients[name]
                timers[name] = timer(reserve + statement, mc=mc, pool=pool, **NAMES)
            return interleaved(timers, rounds)

    return measure


def connections(rounds: int) -> Figures:
    """Connections that a new pool opens for as many requests as it has slots, one at a time."""
    with memcached(embedded=False) as server:
        observer = pylibmc.Client([server.address])

        def opened() -> int:
            ((_, stats),) = observer.get_stats()
            return int(stats["total_connections"])  # memcached notices late that one was closed

        def opened_by(package: Any) -> int:
            pool = package.ClientPool(package.Client([server.address]), SLOTS)
            before = opened()
            for _ in range(SLOTS):
                with pool.reserve() as mc:
                    mc.get("key")
            return opened() - before

        packages = {OURS: mcpool_wsgi, PYLIBMC: pylibmc}
        pools = {name: functools.partial(opened_by, each) for name, each in packages.items()}
        return interleaved(pools, rounds)


def connections_of_threads(rounds: int) -> Figures:
    """Connections that memcached has while 64 threads spend a tenth of their time in it."""
    return {name: [count for count, _ in each] for name, each in shared(rounds).items()}


def slowest_gets(rounds: int) -> Figures:
    """Nanoseconds that 99 % of their gets do not exceed, the wait for a client included."""
    return {name: [p99 for _, p99 in each] for name, each in shared(rounds).items()}


@functools.cache  # two tables show the same rounds
def shared(rounds: int) -> dict[str, list[tuple[float, float]]]:
    def run(name: str) -> tuple[float, float]:
        with memcached(embedded=False) as server:
            client = Client([server.address])
            if name == PER_COMMAND:
                cache = mcpool_wsgi.PooledClient(ClientPool(client, 16))
                get = cache.get
                gets = part_time(lambda: nullcontext(get))
            else:
                pool = ClientPool(client, THREADS)
                gets = part_time(lambda: reserved(pool))
            ((_, stats),) = client.get_stats()
            return int(stats["curr_connections"]) - IDLE_CONNECTIONS, quantiles(gets, n=100)[-1]

    names = (PER_COMMAND, PER_REQUEST)
    return interleaved({name: functools.partial(run, name) for name in names}, rounds)


#: Those of a memcached that nobody else uses: its own, and the one that asks.
IDLE_CONNECTIONS = 2


@contextmanager
def reserved(pool: ClientPool) -> Iterator[Callable[[str], Any]]:
    with pool.reserve() as mc:
        yield mc.get


def part_time(request: Callable[[], AbstractContextManager[Callable[[str], Any]]]) -> list[float]:
    """Requests in each thread that do one get, and something else for most of their time."""
    clock = time.perf_counter
    ready = threading.Barrier(THREADS)

    def work(number: int) -> list[float]:
        took = []
        ready.wait()
        time.sleep(WORK * number)
        end = clock() + ROUND
        while clock() < end:
            with request() as get:
                began = clock()
                get("key")
                seconds = clock() - began
                took.append(seconds * 1e9)
                time.sleep(seconds * (1 - BUSY) / BUSY)
        return took

    with ThreadPoolExecutor(THREADS) as threads:
        return list(itertools.chain.from_iterable(threads.map(work, range(THREADS))))


def longest_waits(rounds: int) -> Figures:
    """Nanoseconds of the longest wait of each round."""
    return {name: [each[-1] for each in waited] for name, waited in waits(rounds).items()}


@functools.cache  # the table and the plot show the same rounds
def waits(rounds: int) -> dict[str, list[list[float]]]:
    """All waits of each round, in nanoseconds and ascending, by pool."""
    pools = {name: POOLS[name](CLIENTS) for name in (OURS, PYLIBMC)}
    loops = {name: functools.partial(closed_loop, pool) for name, pool in pools.items()}
    return interleaved(loops, rounds)


def closed_loop(pool: Any) -> list[float]:
    """Each thread reserves a client, works, releases it, and at once wants the next."""
    ready = threading.Barrier(THREADS)
    clock = time.perf_counter

    def work(_: int) -> list[float]:
        waits = []
        ready.wait()
        end = clock() + ROUND
        while (began := clock()) < end:
            with pool.reserve(block=True):
                waits.append((clock() - began) * 1e9)
                time.sleep(WORK)  # like a command, this waits without the interpreter's lock
        return waits

    with ThreadPoolExecutor(THREADS) as threads:
        return sorted(itertools.chain.from_iterable(threads.map(work, range(THREADS))))
