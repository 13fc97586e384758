"""Lent clients that are reserved at their first command."""

from __future__ import annotations

import json
import os
import pickle
import sys
import threading
from typing import Any

import pylibmc
import pytest
from forking import FORKS, succeeds
from harness import DEADLINE, eventually, in_threads, waiting
from interrupts import interrupted_everywhere, tracing

from mcpool_wsgi import Client, ClientPool, ClientReleased, PoolTimeout


def test_lazy_client_is_reserved_at_its_first_command(either_pool: Any) -> None:
    lent = either_pool.reserve(lazy=True)
    with lent as same:
        assert same is lent
        assert either_pool.stats().in_use == 0
        assert lent.set("key", "value")
        assert either_pool.stats().in_use == 1
        assert lent.get("key") == "value"
    assert either_pool.stats().in_use == 0
    assert either_pool.stats().reservations == 1
    with pytest.raises(ClientReleased):
        lent.get("key")
    unused = either_pool.reserve(lazy=True)
    unused.release()
    with pytest.raises(ClientReleased):
        unused.get("key")
    assert either_pool.stats().reservations == 1


def test_lazy_client_shows_its_options_without_a_slot(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    lent = pool.reserve(lazy=True)
    with pool.reserve():  # all slots are in use
        shown = (lent.addresses, lent.binary, lent.behaviors, lent.hash("key"))
    assert shown == (mc.addresses, mc.binary, mc.behaviors, mc.hash("key"))
    assert pool.stats().reservations == 1
    lent.set_behaviors({"connect_timeout": 123})  # of this reservation alone
    assert lent.behaviors["connect_timeout"] == 123
    lent.release()
    for show in (lambda: lent.addresses, lambda: lent.binary, lambda: lent.behaviors):
        with pytest.raises(ClientReleased):
            show()


class Shouting(Client):
    """A client with attributes of its own."""

    volume = 11

    def __getattr__(self, name: str) -> Any:
        if name != "noise":
            raise AttributeError(name)
        return self.get(name)


@pytest.mark.parametrize("options", [{"allow_pickle": False}, {"serializer": json}])
def test_lazy_client_takes_no_slot_to_say_that_it_lacks_an_attribute(
    address: str, options: dict[str, Any]
) -> None:
    pool = ClientPool(Client([address], **options), 1, timeout=0)
    lazy = pool.reserve(lazy=True)
    with pool.reserve():
        assert not hasattr(lazy, "noise")
    lazy.release()
    assert pool.stats().reservations == 1


def test_lazy_client_has_the_attributes_of_a_subclass(address: str) -> None:
    pool = ClientPool(Shouting([address]), 1)
    for name, value in {"volume": 11, "noise": "loud"}.items():
        Client([address]).set("noise", "loud")
        lazy: Any = pool.reserve(lazy=True)
        assert getattr(lazy, name) == value
        lazy.release()


def test_lazy_client_of_a_pool_that_is_not_filled_shows_no_options() -> None:
    lent = ClientPool(timeout=0).reserve(lazy=True)
    for show in (lambda: lent.addresses, lambda: lent.behaviors, lambda: lent.hash("key")):
        with pytest.raises(PoolTimeout, match=r"fill\(mc, n_slots\)"):
            show()


def test_lazy_client_in_several_threads_takes_one_slot(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=60)
    lent = pool.reserve(lazy=True)
    threads = [threading.Thread(target=lent.get, args=("key",), daemon=True) for _ in range(4)]

    def is_in_the_pool(thread: threading.Thread) -> bool:
        code = sys._current_frames()[thread.ident or 0].f_code
        return os.path.basename(os.path.dirname(code.co_filename)) == "pool"

    with pool.reserve():
        for thread in threads:
            thread.start()
        eventually(lambda: pool.stats().waiting and all(map(is_in_the_pool, threads)))
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert pool.stats().waits == pool.stats().in_use == 1
    lent.release()
    assert pool.stats().in_use == 0


@pytest.mark.slow
def test_waits_of_several_threads_for_one_lazy_client_do_not_add_up(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=1)
    lent = pool.reserve(lazy=True)
    meeting = threading.Barrier(3)

    def ask() -> None:
        meeting.wait(DEADLINE)
        with pytest.raises(PoolTimeout):
            lent.get("key")

    with pool.reserve():
        in_threads([ask] * 3)
    assert pool.stats().timeouts == 3
    assert pool.stats().seconds_waited < 2
    assert lent.get("key", "missing") == "missing"
    lent.release()
    assert pool.stats().in_use == 0


def test_lazy_client_that_found_no_slot_in_time_does_not_wait_again(mc: Client) -> None:
    """An app that takes the time-out for a miss waits once, however many values it wants."""
    pool = ClientPool(mc, 1, timeout=0.1)
    with pool.reserve(lazy=True) as lent, pool.reserve():
        with pytest.raises(PoolTimeout):
            lent.get("key")
        with pytest.raises(PoolTimeout, match="within 0 s"):
            lent.get("key")


def test_lazy_client_that_found_no_slot_may_try_again(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=0)
    with pool.reserve(lazy=True) as lent:
        with pool.reserve(), pytest.raises(PoolTimeout):
            lent.get("key")
        assert lent.set("key", "value")


@tracing
def test_interrupted_first_command_leaves_no_client_without_its_slot(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    lazy = pool.reserve(lazy=True)

    def check() -> None:
        nonlocal lazy
        assert ("not reserved yet" in repr(lazy)) == (pool.stats().in_use == 0)
        lazy.release()
        lazy = pool.reserve(lazy=True)

    assert interrupted_everywhere(KeyboardInterrupt, lambda: lazy.get("key"), check) > 100


def test_released_lazy_client_is_not_entered(mc: Client) -> None:
    lazy = ClientPool(mc, 1).reserve(lazy=True)
    lazy.release()
    with pytest.raises(ClientReleased):
        lazy.__enter__()


def test_timeout_of_a_lazy_client_can_be_pickled(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=0)
    with pool.reserve(), pytest.raises(PoolTimeout) as caught:
        pool.reserve(lazy=True).get("key")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (PoolTimeout, str(caught.value))


def test_lazy_clients_are_of_this_package(address: str) -> None:
    with pytest.raises(TypeError, match=r"mcpool_wsgi\.Client"):
        ClientPool(pylibmc.Client([address]), 1).reserve(lazy=True)


@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.servers
def test_lazy_client_that_a_thread_waits_with_hangs_no_child(mc: Client, fork: Any) -> None:
    pool = ClientPool(mc, 1, timeout=60)
    lazy = pool.reserve(lazy=True)
    holder = pool.reserve()
    holder.__enter__()
    with waiting(pool, lambda: lazy.get("key")):
        succeeds(fork(lazy.release))
        succeeds(fork(lambda: lazy.get("key")))
        holder.release()
    lazy.release()
    assert pool.stats().in_use == 0


def test_lazy_client_that_is_released_while_it_waits_takes_no_slot(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=60)
    lazy = pool.reserve(lazy=True)
    refused = []

    def use_it() -> None:
        with pytest.raises(ClientReleased):
            lazy.get("key")
        refused.append(True)

    holder = pool.reserve()
    holder.__enter__()
    with waiting(pool, use_it):
        lazy.release()
        holder.release()
    assert refused == [True]
    assert pool.stats().in_use == 0
