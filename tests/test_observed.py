"""What listeners are told of reservations."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pylibmc
import pytest
from apps import request
from forking import FORKS, succeeds
from harness import eventually, in_thread, signal_handler, use, waiting

from mcpool_wsgi import (
    Client,
    ClientPool,
    LentClient,
    MemcachedPoolMiddleware,
    PooledClient,
    PoolTimeout,
    ThreadMappedPool,
)
from mcpool_wsgi.pool import Reservation

Told = list[tuple[str, float]]


@pytest.fixture
def pool(mc: Client) -> ClientPool:
    return ClientPool(mc, 1, timeout=0)


@pytest.fixture
def told(pool: ClientPool) -> Iterator[Told]:
    seen: Told = []
    stop = pool.observe_reservations(lambda *what: seen.append(what))
    yield seen
    stop()


def outcomes(told: Told) -> list[str]:
    return [outcome for outcome, _ in told]


def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    environ["mc.client"].get("key")
    return [b""]


def test_reservation_is_told_when_it_begins_and_when_it_ends(pool: ClientPool, told: Told) -> None:
    with pool.reserve() as mc:
        assert outcomes(told) == ["reserved"]
        assert isinstance(mc, LentClient)
        assert type(mc).__name__ == "LentClient"
    assert outcomes(told) == ["reserved", "released"]
    mc.release()
    mc.release()
    assert outcomes(told) == ["reserved", "released"]


def test_release_by_two_threads_at_once_is_told_once(
    pool: ClientPool, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = Reservation.__exit__

    def release_after_another_thread(self: Reservation, *exc: Any) -> None:
        monkeypatch.setattr(Reservation, "__exit__", release)
        in_thread(mc.release)
        release(self, *exc)

    mc = pool.reserve().__enter__()
    monkeypatch.setattr(Reservation, "__exit__", release_after_another_thread)
    mc.release()
    assert outcomes(told) == ["reserved", "released"]


def test_seconds_are_those_of_the_wait_and_of_the_use(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    told: Told = []
    pool.observe_reservations(lambda *what: told.append(what))
    first = pool.reserve()
    first.__enter__()

    with waiting(pool, lambda: use(pool)):
        (holder,) = pool.holders()
        first.release()
    seconds = {
        outcome: [s for told_outcome, s in told if told_outcome == outcome] for outcome, _ in told
    }
    waited = pool.stats().seconds_waited
    assert seconds["reserved"][0] < waited <= max(seconds["reserved"])
    assert max(seconds["released"]) > holder.seconds


def test_time_out_is_told(pool: ClientPool, told: Told) -> None:
    with pool.reserve(), pytest.raises(PoolTimeout), pool.reserve(timeout=0.01):
        pass
    assert outcomes(told) == ["reserved", "timed out", "released"]
    assert told[1][1] >= 0.01


def test_lazy_client_is_told_from_its_first_command_on(pool: ClientPool, told: Told) -> None:
    unused = pool.reserve(lazy=True)
    with unused:
        pass
    assert told == []
    mc = pool.reserve(lazy=True)
    mc.get("key")
    mc.get("key")
    mc.release()
    assert outcomes(told) == ["reserved", "released"]


@pytest.mark.parametrize("lazy", [False, True])
def test_request_is_one_reservation(pool: ClientPool, told: Told, lazy: bool) -> None:
    request(MemcachedPoolMiddleware(app, pool, lazy=lazy)).close()
    assert outcomes(told) == ["reserved", "released"]


def test_each_command_of_a_pooled_client_is_one_reservation(pool: ClientPool, told: Told) -> None:
    cache = PooledClient(pool)
    cache.set("key", 1)
    cache.get("key")
    assert outcomes(told) == ["reserved", "released"] * 2


class Subclass(Client):
    def twice(self, key: str) -> list[Any]:
        return [self.get(key), self.get(key)]


@pytest.mark.parametrize("client_class", [Client, Subclass, pylibmc.Client])
def test_all_kinds_of_clients_and_pools_tell(address: str, client_class: Any) -> None:
    for pool in (
        ClientPool(client_class([address]), 1),
        ThreadMappedPool(client_class([address])),
    ):
        told: Told = []
        stop = pool.observe_reservations(lambda *what, told=told: told.append(what))
        with pool.reserve() as mc:
            mc.get("key")
            if client_class is Subclass:
                assert mc.twice("key") == [None, None]  # type: ignore[attr-defined]
        pool.fill(client_class([address]), 1)
        with pool.reserve() as mc:
            mc.get("key")
        assert outcomes(told) == ["reserved", "released"] * 2
        stop()
        stop()
        with pool.reserve() as mc:
            mc.get("key")
        assert len(told) == 4


def test_pool_that_nobody_observes_reserves_with_the_plain_class(pool: ClientPool) -> None:
    plain = type(pool.reserve())
    stop = pool.observe_reservations(print)
    assert type(pool.reserve()) is not plain
    stop()
    assert type(pool.reserve()) is plain is LentClient


def test_listener_that_raises_harms_nobody(
    pool: ClientPool, caplog: pytest.LogCaptureFixture
) -> None:
    told: Told = []
    pool.observe_reservations(lambda outcome, seconds: 1 // 0)
    pool.observe_reservations(lambda *what: told.append(what))
    with pool.reserve() as mc:
        assert mc.set("key", 1)
    assert outcomes(told) == ["reserved", "released"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    with pytest.raises(TypeError, match="not 5"):
        pool.observe_reservations(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [TimeoutError, KeyboardInterrupt])
@pytest.mark.parametrize("told_at", ["reserved", "released", "timed out"])
def test_error_of_a_signal_handler_in_a_listener_reaches_the_caller(
    pool: ClientPool,
    told: Told,
    caplog: pytest.LogCaptureFixture,
    told_at: str,
    error: type[BaseException],
) -> None:
    def listener(outcome: str, seconds: float) -> None:
        if outcome == told_at:
            signal.raise_signal(signal.SIGUSR1)

    def handler(*signal: Any) -> None:
        raise error("too late")

    stop = pool.observe_reservations(listener)
    late = pytest.raises(error, match="too late")
    with signal_handler(signal.SIGUSR1, handler), late as held, pool.reserve():  # noqa: SIM117
        with contextlib.suppress(PoolTimeout), pool.reserve():
            pass
    stop()
    assert "a listener failed" not in caplog.text
    assert held.tb is not None
    assert pool.stats().in_use == 0
    # Another listener heard of the end of whatever had begun.
    assert outcomes(told).count("reserved") == outcomes(told).count("released")


@pytest.mark.parametrize("is_over", [False, True])
def test_lazy_client_can_be_used_after_an_interrupt_in_a_listener(
    pool: ClientPool, is_over: bool
) -> None:
    """As after an interrupt anywhere else in its first command, if its release has not come."""

    def listener(outcome: str, seconds: float) -> None:
        if outcome == "reserved":
            stop()
            signal.raise_signal(signal.SIGUSR1)

    def handler(*signal: Any) -> None:
        raise TimeoutError("too late")

    def end() -> None:
        eventually(lambda: pool.stats().waiting == 1)
        lazy.release()
        holder.release()

    holder = pool.reserve()
    stop = pool.observe_reservations(listener)
    lazy = pool.reserve(lazy=True, timeout=10)
    other = threading.Thread(target=end)
    if is_over:  # the release comes while the first command waits
        holder.__enter__()
        other.start()
    with signal_handler(signal.SIGUSR1, handler), pytest.raises(TimeoutError, match="too late"):
        lazy.get("key")
    if is_over:
        other.join()
    else:
        assert lazy.set("key", 1)
        lazy.release()
    assert lazy.is_released
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


@pytest.mark.servers
@pytest.mark.parametrize("fork", FORKS)
def test_child_tells_its_own_listeners(pool: ClientPool, told: Told, fork: Any) -> None:
    with pool.reserve() as mc:
        mc.get("key")

    def work() -> None:
        with pool.reserve() as mc:
            mc.get("key")
        assert outcomes(told) == ["reserved", "released"] * 2

    succeeds(fork(work))
    assert len(told) == 2
