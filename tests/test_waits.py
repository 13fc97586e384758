"""Waits for a slot: how long they last, in which order they end, and what is counted."""

from __future__ import annotations

import contextlib
import queue
import threading
import time

import pytest
from harness import eventually, use, waiting

from mcpool_wsgi import Client, ClientPool, PoolTimeout
from mcpool_wsgi.pool import statistics


def test_filling_wakes_who_waits(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=60)
    with pool.reserve(), waiting(pool, lambda: use(pool)):
        pool.fill(mc, 1)


def test_exhausted_pool_raises_queue_empty_without_block(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    with pool.reserve(), pytest.raises(queue.Empty), pool.reserve(block=False):
        pass
    with pool.reserve(block=False):
        pass


def test_wait_ends_at_its_timeout(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=0.05)
    with pool.reserve():
        began = time.monotonic()
        with pytest.raises(PoolTimeout, match=r"0\.05 s: 1 of 1 are in use; the longest for"):
            pool.reserve().__enter__()
        assert time.monotonic() - began >= 0.05
        with pytest.raises(PoolTimeout, match=r"0\.01 s"):
            pool.reserve(timeout=0.01).__enter__()
    stats = pool.stats()
    assert (stats.waits, stats.timeouts, stats.waiting) == (2, 2, 0)
    assert stats.seconds_waited >= stats.longest_wait >= 0.05
    use(pool)


def test_reservation_may_have_no_time_to_wait(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=60)
    with pool.reserve(timeout=0), pytest.raises(PoolTimeout):
        pool.reserve(timeout=0).__enter__()


@pytest.mark.parametrize("steps", [[60.0, 60.0], [120.0], [3600.0]])
def test_longest_recent_wait_is_forgotten_within_two_minutes(
    mc: Client, monkeypatch: pytest.MonkeyPatch, steps: list[float]
) -> None:
    now = 1000.0
    monkeypatch.setattr(statistics, "monotonic", lambda: now)
    pool = ClientPool(mc, 1, timeout=0.01)
    with pool.reserve(), contextlib.suppress(PoolTimeout), pool.reserve():
        pass
    longest = pool.stats().longest_wait
    assert longest > 0
    for step in steps:
        assert pool.stats().longest_recent_wait == longest
        now += step
    assert pool.stats().longest_recent_wait == 0
    assert pool.stats().longest_wait == longest


def test_waiters_are_served_in_the_order_they_came(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    served: list[int] = []

    def wait(number: int) -> None:
        with pool.reserve():
            served.append(number)

    with pool.reserve():
        threads = [threading.Thread(target=wait, args=(number,)) for number in range(20)]
        for number, thread in enumerate(threads, 1):
            thread.start()
            eventually(lambda: pool.stats().waiting == number)  # noqa: B023
    for thread in threads:
        thread.join(10)
    assert served == list(range(20))
    assert pool.stats().waits == 20


def test_timed_out_wait_loses_no_slot_and_no_place(mc: Client) -> None:
    pool = ClientPool(mc, 2, timeout=0)
    with pool.reserve(), pool.reserve():
        for _ in range(50):
            with pytest.raises(PoolTimeout):
                pool.reserve().__enter__()
        assert pool.stats().waiting == 0
    with pool.reserve(), pool.reserve():
        pass
    assert (pool.stats().in_use, pool.stats().idle, pool.stats().size) == (0, 2, 2)
