"""The last five minutes on the status page."""

from __future__ import annotations

import threading

import pytest
from harness import eventually, in_threads
from status_page import facts

from mcpool_wsgi import Client, ClientPool, PoolTimeout
from mcpool_wsgi.status import StatusApp, history

pytestmark = pytest.mark.slow


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(history, "monotonic", clock)
    return clock


def test_history_has_a_step_for_each_five_seconds(pool: ClientPool, clock: Clock) -> None:
    past = history.History(pool)
    with pool.reserve() as mc:
        mc.set("key", 1)
        for misses in (1, 0, 2):
            for _ in range(misses):
                mc.get("missing")
            mc.get_multi(["key", "a", "b"])
            clock.now += 5
    steps = past.look()["steps"]
    assert steps["commands"] == [3, 1, 3, 0]
    assert steps["hits"] == [1, 1, 1, 0]
    assert steps["misses"] == [3, 2, 4, 0]
    assert past.look()["total"]["commands"] == 7
    assert past.look()["total"]["hit_rate"] == 0.25
    clock.now += 58
    assert past.look()["last_minute"]["commands"] == 0
    assert past.look()["total"]["commands"] == 7


def test_history_forgets_after_five_minutes_and_stays_small(
    pool: ClientPool, clock: Clock
) -> None:
    past = history.History(pool)
    with pool.reserve() as mc:
        for _ in range(200):
            mc.get("key")
            clock.now += 5
        found = past.look()
        assert {len(numbers) for numbers in found["steps"].values()} == {60}
        assert found["total"]["commands"] == 59
        clock.now += 1e6  # nobody does anything for days
        assert past.look()["total"]["commands"] == 0
        mc.get("key")
    assert past.look()["steps"]["commands"] == [0] * 59 + [1]


def test_waits_are_spread_over_the_time_since_the_last_sample(mc: Client, clock: Clock) -> None:
    pool = ClientPool(mc, 1, timeout=0)
    past = history.History(pool)
    with pool.reserve():
        for _ in range(8):
            with pytest.raises(PoolTimeout):
                pool.reserve().__enter__()
        clock.now += 20
        assert past.look()["steps"]["timeouts"] == [2, 2, 2, 2, 0]
        assert past.look()["steps"]["waits"] == [2, 2, 2, 2, 0]
        for _ in range(1000):
            with pytest.raises(PoolTimeout):
                pool.reserve().__enter__()
    clock.now += 3000
    # 295 of 3000 seconds are left.
    assert past.look()["total"]["timeouts"] == 98
    assert past.look()["last_minute"]["timeouts"] == sum(past.look()["steps"]["timeouts"][-12:])


def test_no_step_has_more_timeouts_than_waits(mc: Client, clock: Clock) -> None:
    pool = ClientPool(mc, 1)
    past = history.History(pool)
    with pool.reserve():
        waiter = threading.Thread(target=lambda: pool.reserve().__enter__())
        waiter.start()
        eventually(lambda: pool.stats().waiting == 1)
        with pytest.raises(PoolTimeout):
            pool.reserve(timeout=0).__enter__()
    waiter.join(10)
    clock.now += 15
    assert past.look()["steps"]["waits"] == [0, 2, 0, 0]
    assert past.look()["steps"]["timeouts"] == [0, 1, 0, 0]


def test_first_command_of_a_step_takes_a_sample(mc: Client, clock: Clock) -> None:
    pool = ClientPool(mc, 1, timeout=0)
    past = history.History(pool)
    with pool.reserve() as client:
        with pytest.raises(PoolTimeout):
            pool.reserve().__enter__()
        clock.now += 5
        client.get("key")
    clock.now += 100
    assert sum(past.look()["steps"]["timeouts"][:2]) == 1


def test_history_begins_with_the_app(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=0)
    with pool.reserve() as client:
        client.get("key")
        with pytest.raises(PoolTimeout):
            pool.reserve().__enter__()
        found = facts(StatusApp(pool))["pools"][0]
    assert found["history"]["total"]["commands"] == 0
    assert found["history"]["total"]["timeouts"] == 0
    assert found["stats"]["timeouts"] == 1


def test_closing_connections_is_no_command(pool: ClientPool) -> None:
    app = StatusApp(pool)
    with pool.reserve() as client:
        client.get("key")
        client.disconnect_all()
    assert facts(app)["pools"][0]["history"]["total"]["commands"] == 1


def test_commands_of_many_threads_are_all_counted(mc: Client) -> None:
    pool = ClientPool(mc, 4)
    app = StatusApp(pool)

    def work() -> None:
        for _ in range(100):
            with pool.reserve() as client:
                client.get("key")

    in_threads([work] * 8)
    assert facts(app)["pools"][0]["history"]["total"]["misses"] == 800
