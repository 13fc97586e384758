"""Run by tests/test_metrics_of_workers.py in processes of their own: prometheus_client looks for
PROMETHEUS_MULTIPROC_DIR when it is imported.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sys
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
    reading, writing = os.pipe()

    def work() -> None:
        os.close(writing)
        pool.set_servers(["127.0.0.1:1"])
        with contextlib.suppress(pylibmc.Error):
            hit(pool)
        os.read(reading, 1)

    child = forking.in_child(work)
    os.close(reading)
    eventually(lambda: value("mcpool_up") == 0)
    hit(pool)
    eventually(lambda: value("mcpool_up") == 1)
    for _ in range(20):
        published = pool.times
        eventually(lambda before=published: pool.times > before)  # type: ignore[misc]
        assert value("mcpool_up") == 1
    os.close(writing)
    forking.succeeds(child)


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
    eventually(lambda: pool.times > 5)
    os.mkdir(directory)
    eventually(lambda: hits() == 1)


def main(what: str, address: str) -> None:
    if what != "in_child_by_c":  # CPython hangs if another thread runs during such a fork
        workers.INTERVAL = 0.001
    pools = [Asked.from_servers([address], 1, name="default")]
    collector = PoolCollector(pools)
    if what == "drops":
        drops(pools)
    elif what == "looks":
        looks(pools.pop())
    elif what == "fails":
        fails(pools.pop())
    else:
        forks(pools.pop(), getattr(forking, what))
    del collector


if __name__ == "__main__":
    main(*sys.argv[1:])
