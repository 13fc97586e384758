"""When memcached dies, hangs and comes back: how clients fail meanwhile, how soon they work."""

from __future__ import annotations

import contextlib
import random
import signal
import statistics
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hostile
import pylibmc
import pytest
from forking import in_child, succeeds
from harness import (
    DEADLINE,
    clock,
    eventually,
    in_spite_of_errors,
    in_threads,
    open_sockets,
    skip_if_not_spoken,
)
from mortal import Mortal

from mcpool_wsgi import Client, ClientPool, PoolTimeout, ThreadMappedPool
from mcpool_wsgi.client.failures import ServerResting
from mcpool_wsgi.devserver import memcached
from mcpool_wsgi.pool import generations

pytestmark = pytest.mark.servers


def clients_connected(pool: Any, number: int) -> None:
    """Have *number* clients connected, all idle."""
    with ExitStack() as reservations:
        for mc in [reservations.enter_context(pool.reserve()) for _ in range(number)]:
            mc.set("key", "value")


def aged(pool: Any) -> Any:
    """*pool*, as if its clients' generation had been there for an hour."""
    pool._generations.current.born -= 3600
    return pool


def errors_until_all_work(pool: Any, number: int) -> int:
    """Use the clients one after the other until each has worked; how many errors there were."""
    errors = 0
    with ExitStack() as reservations:
        for _ in range(number):
            with contextlib.suppress(pylibmc.Error):
                reservations.enter_context(pool.reserve()).get("key")
    for _ in range(5 * number):
        with pool.reserve() as mc:
            try:
                mc.get("key")
            except pylibmc.Error:
                errors += 1
    return errors


def test_restart_is_paid_for_once(mortal: Mortal) -> None:
    """Every client of pylibmc's pool fails until its own retry timeout has passed."""
    failures = {}
    for pool in (
        pylibmc.ClientPool(pylibmc.Client([mortal.address]), 8),
        aged(ClientPool(Client([mortal.address]), 8)),
    ):
        clients_connected(pool, 8)
        mortal.restart()
        failures[type(pool)] = errors_until_all_work(pool, 8)
    if pylibmc.libmemcached_version == "1.0.16":  # later ones try again at once
        assert failures[pylibmc.ClientPool] > 20
    assert failures[ClientPool] <= 1


def test_failure_renews_the_generation(mortal: Mortal) -> None:
    for pool in (
        aged(ClientPool(Client([mortal.address]), 4)),
        aged(ThreadMappedPool(Client([mortal.address]))),
    ):
        clients_connected(pool, 3)
        made = pool.stats().clients_made
        mortal.restart()
        with pool.reserve() as mc:
            for _ in range(2):  # the first get of a dead connection is a silent miss
                with contextlib.suppress(pylibmc.Error):
                    mc.get("key")
        clients_connected(pool, 3)
        assert pool.stats().clients_made == made + 3
        assert pool.stats().clients_renewed == {"failure": 3}
        assert pool.stats().size == 3


def test_generation_is_renewed_once_per_retry_interval(mortal: Mortal) -> None:
    pool = aged(ClientPool(Client([mortal.address], {"retry_timeout": 1800}), 1))
    clients_connected(pool, 1)
    mortal.kill()
    for _ in range(50):
        with pool.reserve() as mc, contextlib.suppress(pylibmc.Error):
            mc.get("key")
    assert pool.stats().clients_renewed == {"failure": 1}  # the next one is younger than that
    mortal.start()


def test_pool_of_32_fails_fast_and_recovers_together(mortal: Mortal, record_property: Any) -> None:
    pool = aged(ClientPool(Client([mortal.address]), 32))
    clients_connected(pool, 32)
    stop, outage = threading.Event(), threading.Event()
    durations: list[float] = []
    last_error = [0.0] * 32

    def work(number: int) -> None:
        while not stop.is_set():
            with pool.reserve() as mc:
                began = time.perf_counter()
                try:
                    mc.get("key")
                except pylibmc.Error:
                    last_error[number] = time.monotonic()
                    if outage.is_set():
                        durations.append(time.perf_counter() - began)
            stop.wait(0.001)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    mortal.kill()
    outage.set()
    eventually(lambda: len(durations) > 20_000)
    mortal.start()
    outage.clear()
    back = time.monotonic()
    eventually(lambda: time.monotonic() - max(back, *last_error) > 1.5)
    stop.set()
    for thread in threads:
        thread.join(DEADLINE)
    recovery = max(0, max(last_error) - back)
    median = statistics.median(durations)
    record_property("seconds to recover", recovery)
    record_property("median seconds of a failing request", median)
    print(f"recovered after {recovery:.2f} s; failing requests took {median * 1e6:.0f} µs")
    assert recovery < 1.5
    assert median < 0.005
    stats = pool.stats()
    assert (stats.in_use, stats.waiting) == (0, 0)
    assert stats.size <= 32


def test_chaos_gives_no_wrong_value(mortal: Mortal, record_property: Any) -> None:
    """memcached is killed, restarted, stopped and continued under load, at random."""
    dice = random.Random(20090920)
    pool = ClientPool(Client([mortal.address]), 4, timeout=5)
    stop = threading.Event()
    wrong: list[object] = []
    counts = dict.fromkeys(["reads", "misses", "errors", "timeouts"], 0)
    last_error = [0.0] * 8

    def work(number: int) -> None:
        written = 0
        while not stop.is_set():
            written += 1
            key = f"thread{number}-{written % 50}"
            try:
                with pool.reserve() as mc:
                    mc.set(key, (key, written))
                    value = mc.get(key)
                    many = mc.get_multi([key, f"{key}-missing"])
            except pylibmc.Error:
                counts["errors"] += 1
                last_error[number] = time.monotonic()
                stop.wait(0.0005)
            except PoolTimeout:
                counts["timeouts"] += 1
            else:
                counts["reads"] += 1
                # A set that timed out may still come through, before the latest one.
                for found in [value, *many.values()]:
                    if found is None:
                        counts["misses"] += 1
                    elif found[0] != key or found[1] > written:
                        wrong.append((key, written, found))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        reached = counts["reads"] + counts["errors"] + dice.randrange(200, 2000)
        eventually(lambda: counts["reads"] + counts["errors"] > reached)  # noqa: B023
        if dice.random() < 0.5:
            mortal.kill()
            stop.wait(dice.random())
            mortal.start()
        else:
            mortal.stop()
            stop.wait(dice.random())
            mortal.go_on()
    back = time.monotonic()
    eventually(lambda: time.monotonic() - max(back, *last_error) > 1.5)
    stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    recovery = max(0, max(last_error) - back)
    record_property("seconds to recover", recovery)
    print(f"chaos: {counts}, recovered after {recovery:.2f} s, {pool.stats()}")
    assert wrong == []
    assert counts["reads"] > 1000
    stats = pool.stats()
    assert (stats.in_use, stats.waiting, stats.timeouts) == (0, 0, counts["timeouts"])
    assert stats.slots == 4 == len(pool._queue.idle)
    in_threads([lambda: clients_connected(pool, 1)] * 4)


# -- A dead cache does not take the site down


def test_fail_soft_holds_where_pylibmc_is_instrumented(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a monitor, after this package was imported."""
    for name in ("get", "get_multi", "set_multi"):
        monkeypatch.setattr(pylibmc.Client, name, lambda *args: pytest.fail("not called by us"))
    mc = Client(["127.0.0.1:1"], fail_soft=True)
    assert mc.get("key", "default") == "default"
    assert mc.get_multi(["key"]) == {}
    assert mc.set_multi({"key": 1}) == ["key"]


def test_disconnect_all_of_a_client_whose_server_has_failed(mortal: Mortal) -> None:
    """It asks the server nothing, so it cannot fail. A notice of a failure may call it."""
    mc = Client([mortal.address])
    assert mc.set("key", "value")
    mc.on_connection_failure = mc.disconnect_all
    mortal.kill()
    with pytest.raises(pylibmc.Error):
        mc.get("key")
    assert open_sockets(mc) == []
    mc.on_connection_failure = None
    with pytest.raises(pylibmc.Error):
        mc.get("key")
    mc.disconnect_all()
    mortal.start()
    eventually(lambda: in_spite_of_errors(mc.set, "key", "value"))


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("behavior", ["remove_failed", "auto_eject"])
def test_single_server_is_never_left_out_for_ever(
    mortal: Mortal, behavior: str, later: bool
) -> None:
    """libmemcached would never try it again. Programs with one server or more have one setting."""
    mc = Client([mortal.address], {behavior: 1, "failure_limit": 1} if not later else {})
    mc.set_behaviors({behavior: 1, "failure_limit": 1} if later else {})
    assert mc.set("key", "value")
    mortal.kill()
    for _ in range(3):
        for _ in range(100):
            in_spite_of_errors(mc.get, "key")
        mc._rests_until = 0
    mortal.start()
    eventually(lambda: in_spite_of_errors(mc.set, "key", "value"))


@pytest.mark.parametrize("behavior", ["remove_failed", "auto_eject"])
def test_single_server_that_has_no_retry_timeout_is_never_left_out_for_ever(behavior: str) -> None:
    """libmemcached 1.0.18 takes a retry_timeout of 0, and a dead_timeout of 0 means for ever."""
    try:
        mc = Client(["/nowhere"], {behavior: 1, "retry_timeout": 0})
    except ValueError:
        pytest.skip("this libmemcached refuses it")
    assert mc.behaviors["dead_timeout"] == 1


@pytest.mark.parametrize("embedded", [True, None])
def test_behaviors_of_a_client_whose_server_hangs_are_set_at_once(
    embedded: bool | None, tmp_path: Path
) -> None:
    """libmemcached would wait until its quit can be sent, and all threads would wait with it."""
    with memcached(embedded=embedded, unix_socket=str(tmp_path / "socket")) as server:
        mc = Client([server.address])
        assert mc.set("key", "value")
        server.process.send_signal(signal.SIGSTOP)
        with pytest.raises(pylibmc.Error):
            mc.set_multi({f"key{number}": "x" * 500_000 for number in range(4)})
        begin = time.monotonic()
        mc.set_behaviors({"tcp_nodelay": False})
        assert time.monotonic() - begin < 0.2


@pytest.mark.parametrize("later", [{"ketama": True}, {"distribution": "consistent"}])
@pytest.mark.parametrize("behavior", ["remove_failed", "auto_eject"])
def test_keys_are_placed_anew_while_the_only_server_is_left_out(
    address: str, behavior: str, later: dict[str, Any]
) -> None:
    """libmemcached would look for a place in a table that it has not made."""

    def work() -> None:
        mc = Client([address], {behavior: 1})
        assert mc.set("key", "value")
        mc.disconnect_all()
        mc.set_behaviors(later)
        assert mc.get("key") == "value"
        assert mc.behaviors["auto_eject"] == 1

    succeeds(in_child(work))


@pytest.mark.parametrize("fail_soft", [False, True])
def test_connection_that_the_server_has_closed_costs_one_command(
    address: str, fail_soft: bool
) -> None:
    """memcached closes idle connections, with its option idle_timeout."""
    with hostile.proxy(address) as proxy:
        pool = ClientPool(Client([proxy.address], fail_soft=fail_soft), 1)
        with pool, pool.reserve() as mc:
            assert mc.set("key", "value")
            proxy.cut()
            assert [in_spite_of_errors(mc.set, "key", n) for n in range(4)].count(True) >= 3
            assert mc.get("key") == 3
        assert pool.stats().failures <= 1


def test_disconnect_all_does_not_make_a_rest_longer(mortal: Mortal) -> None:
    """libmemcached would say that the server rests, and each time the rest would begin anew."""
    mc = Client([mortal.address])
    assert mc.set("key", "value")
    mortal.kill()
    down = 0
    for number in range(200):
        if number % 20 == 10:
            mc.disconnect_all()
        try:
            mc.get("key")
        except ServerResting:
            pass
        except pylibmc.ServerDown:
            down += 1
        except pylibmc.Error:
            pass
    assert down == 0
    mortal.start()
    eventually(lambda: in_spite_of_errors(mc.set, "key", "value"))


@pytest.mark.parametrize("binary", [False, True])
def test_client_of_one_server_works_at_once_when_its_rest_ends(
    mortal: Mortal, embedded: bool, binary: bool
) -> None:
    """After five failures, libmemcached would begin a rest of its own, in whole seconds."""
    skip_if_not_spoken(binary, embedded)
    mc = Client([mortal.address], binary=binary)
    assert mc.set("key", "value")
    mortal.kill()
    for _ in range(7):
        in_spite_of_errors(mc.set, "key", "value")
        mc._rests_until = 0
    mortal.start()
    assert mc.set("key", "value")


def test_late_failure_of_a_client_that_was_renewed_meanwhile_renews_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with hostile.refusing() as address, ClientPool(Client([address]), 2) as pool:
        with pool.reserve() as late:
            # The clients are older than the interval between two renewals.
            clock(generations, monkeypatch)(3600)
            with pool.reserve() as mc, pytest.raises(pylibmc.Error):
                mc.set("key", "value")
            with pool.reserve():
                pass
            assert pool.stats().clients_renewed == {"failure": 1}
            with pytest.raises(pylibmc.Error):
                late.set("key", "value")
            with pool.reserve():
                pass
        assert pool.stats().clients_renewed == {"failure": 1}
