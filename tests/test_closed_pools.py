"""Pools that are closed or dropped, and programs that end without that."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from harness import Connections, eventually, in_thread, no_collection, run_python, use

from mcpool_wsgi import Client, ClientPool, PoolClosed, ThreadMappedPool


def test_close_ends_idle_connections_now_and_reserved_ones_later(
    either_pool: Any, connections: Connections
) -> None:
    with either_pool.reserve() as lent:
        lent.get("key")
        use(either_pool)
        assert connections.count() == 2
        either_pool.close()
        eventually(lambda: connections.count() == 1)
        assert lent.set("still", "works")
        assert (either_pool.stats().in_use, either_pool.stats().idle) == (1, 0)
    del lent
    eventually(lambda: connections.count() == 0)
    assert (either_pool.stats().in_use, either_pool.stats().size) == (0, 0)


def test_closed_pool_refuses_reservations(either_pool: Any) -> None:
    with either_pool as same:
        assert same is either_pool
        assert not either_pool.closed
        use(either_pool)
    either_pool.close()
    assert either_pool.closed
    in_thread(lambda: eventually(lambda: either_pool.closed))
    with pytest.raises(PoolClosed, match="closed"):
        either_pool.reserve().__enter__()
    with pytest.raises(PoolClosed):
        in_thread(lambda: use(either_pool))


def test_close_tells_who_waits(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    told = []

    def wait() -> None:
        try:
            use(pool)
        except PoolClosed:
            told.append(True)

    with pool.reserve():
        threads = [threading.Thread(target=wait) for _ in range(5)]
        for thread in threads:
            thread.start()
        eventually(lambda: pool.stats().waiting == 5)
        pool.close()
        for thread in threads:
            thread.join(10)
    assert told == [True] * 5
    assert pool.stats().waiting == 0


def test_close_under_load_leaves_no_connection(address: str, connections: Connections) -> None:
    for _ in range(20):
        pool = ClientPool(Client([address]), 4)

        def work() -> None:
            with pytest.raises(PoolClosed):  # noqa: PT012
                while True:
                    use(pool)  # noqa: B023

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        eventually(lambda: pool.stats().reservations > 20)  # noqa: B023
        pool.close()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
        assert (pool.stats().in_use, pool.stats().size) == (0, 0)
    eventually(lambda: connections.count() == 0)


@pytest.mark.parametrize("kind", [ClientPool, ThreadMappedPool])
def test_dropped_pool_closes_its_connections(
    kind: Any, address: str, connections: Connections
) -> None:
    with no_collection():
        pool = kind.from_servers([address], 4)
        use(pool)
        assert connections.count() == 1
        del pool
        eventually(lambda: connections.count() == 0)


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["ClientPool(mc, 4)", "ThreadMappedPool(mc)"])
def test_interpreter_that_exits_without_close_prints_nothing(address: str, pool: str) -> None:
    script = f"""
import threading
from mcpool_wsgi import *
mc = Client([{address!r}])
mc.get("a")
pool = {pool}
with pool.reserve() as a, pool.reserve() as b:
    a.get("a"), b.get("b")
lent = pool.reserve().__enter__()
lent.get("a")
threading.Thread(target=lambda: pool.reserve().__enter__().get("a")).start()
"""
    done = run_python(script)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_closed_pool_makes_nothing_for_those_that_it_refuses(mc: Client) -> None:
    pool = ClientPool(mc, 2)
    use(pool)
    pool.close()
    for _ in range(3):
        with pytest.raises(PoolClosed):
            pool.reserve(block=False).__enter__()
    assert pool.stats().clients_made == 1
