"""Run by tests/test_metrics_of_workers.py in processes of their own: prometheus_client looks for
PROMETHEUS_MULTIPROC_DIR when it is imported.
"""

from __future__ import annotations

import _thread
import contextlib
import gc
import os
import shutil
import sys
import threading
from typing import Any

import forking
import pylibmc
from harness import eventually
from prometheus_client import CollectorRegistry, multiprocess

from mcpool_wsgi import ClientPool, PoolStats
from mcpool_wsgi.metrics import POOL_NAME, PoolCollector, workers

HIT = {"db_operation_name": "get"}


class Asked(ClientPool):
    """Counts how often it is asked for its figures."""

    times = 0

    def stats(self) -> PoolStats:
        self.times += 1
        return super().stats()


def value(name: str, pool: str = "default", **labels: str) -> float | None:
    """What a scrape gets."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry.get_sample_value(name, {POOL_NAME: pool, **labels})


def hits() -> float | None:
    return value("mcpool_hits_total", **HIT)


def hit(pool: ClientPool) -> None:
    with pool.reserve() as mc:
        mc.set("key", 1)
        mc.get("key")


def forks(pool: ClientPool, fork: Any) -> None:
    """A child has figures of its own, and the sums have both."""
    hit(pool)
    eventually(lambda: hits() == 1)

    def work() -> None:
        hit(pool)
        hit(pool)
        eventually(lambda: hits() == 3)
        eventually(lambda: value("db_client_connection_max") == 2)

    child = fork(work)
    forking.succeeds(child)
    hit(pool)
    eventually(lambda: hits() == 4)
    assert value("db_client_connection_max") == 2
    multiprocess.mark_process_dead(child)  # type: ignore[no-untyped-call]
    assert value("db_client_connection_max") == 1


def looks(pool: Asked) -> None:
    """The last command of all processes counts, and not the last one of each."""
    has_failed, may_end = os.pipe(), os.pipe()
    is_over = threading.Event()

    def work() -> None:
        os.close(may_end[1])
        pool.set_servers(["127.0.0.1:1"])
        with contextlib.suppress(pylibmc.Error):
            hit(pool)
        publishes(pool)
        os.write(has_failed[1], b"x")
        os.read(may_end[0], 1)

    def go_on() -> None:
        while not is_over.is_set():
            hit(pool)

    busy = threading.Thread(target=go_on)
    busy.start()
    eventually(lambda: value("mcpool_up") == 1)
    child = forking.in_child(work)
    os.read(has_failed[0], 1)
    eventually(lambda: value("mcpool_up") == 1)
    is_over.set()
    busy.join()
    end = pool.times + 10
    while pool.times < end:
        assert value("mcpool_up") == 1
    os.close(may_end[1])
    forking.succeeds(child)


def publishes(pool: Asked) -> None:
    """The figures of *pool* are written."""
    before = pool.times
    eventually(lambda: pool.times > before + 1)


def drops(pools: list[Asked]) -> None:
    """The gauges of a pool end with it, and its counts stay."""
    hit(pools[0])
    eventually(lambda: hits() == 1)
    eventually(lambda: value("db_client_connection_max") == 1)
    pools.clear()
    gc.collect()
    eventually(lambda: value("db_client_connection_max") == 0)
    assert hits() == 1


def fails(pool: Asked) -> None:
    """The directory vanishes before the first command, and comes back."""
    directory = os.environ["PROMETHEUS_MULTIPROC_DIR"]
    shutil.rmtree(directory)
    hit(pool)
    for _ in range(3):
        publishes(pool)
    os.mkdir(directory)
    eventually(lambda: hits() == 1)


def has_no_thread(pool: Asked) -> None:
    """No thread can be started at the first command. A later one publishes all of them."""

    def fail(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    hit(ClientPool(pool.master, 1))  # the thread that limits the time of commands is another one
    threads: Any = _thread
    start, threads.start_new_thread = threads.start_new_thread, fail
    hit(pool)
    threads.start_new_thread = start
    with pool.reserve() as mc:
        mc.get("missing")
        mc.delete("missing")
    eventually(lambda: value("mcpool_misses_total", **HIT) == 1)
    assert hits() == 1


def main(what: str, address: str) -> None:
    if what == "looks":  # there are commands in each interval
        workers.INTERVAL = 0.05
    elif what != "in_child_by_c":  # CPython hangs if another thread runs during such a fork
        workers.INTERVAL = 0.001
    pools = [Asked.from_servers([address], 1, name="default")]
    collector = PoolCollector(pools)
    if what == "drops":
        drops(pools)
    elif what == "looks":
        looks(pools.pop())
    elif what == "fails":
        fails(pools.pop())
    elif what == "has_no_thread":
        has_no_thread(pools.pop())
    else:
        forks(pools.pop(), getattr(forking, what))
    del collector


if __name__ == "__main__":
    main(*sys.argv[1:])
