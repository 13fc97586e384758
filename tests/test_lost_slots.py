"""Reservations that are dropped or interrupted: no slot is lost, and none is there twice."""

from __future__ import annotations

import gc
import itertools
import threading
from typing import Any

import pylibmc
import pytest
from harness import (
    DEADLINE,
    FakeClient,
    eventually,
    in_thread,
    in_threads,
    open_sockets,
    use,
    waiting,
)
from interrupts import interrupted_everywhere, tracing

from mcpool_wsgi import Client, ClientPool, PoolTimeout


@tracing
def test_interrupted_request_after_changes_of_servers_swallows_nothing(mc: Client) -> None:
    """Its client replaces the last one that was cloned from the master before."""
    pool = ClientPool(mc.clone(), 1)

    def serve() -> None:
        with pool.reserve():
            pass

    def change_twice() -> None:
        serve()
        pool.set_servers(mc.addresses)
        pool.set_servers(mc.addresses)

    change_twice()
    assert interrupted_everywhere(KeyboardInterrupt, serve, change_twice)


@tracing
def test_interrupted_renewal_after_a_change_of_servers_swallows_nothing(mc: Client) -> None:
    """A command renews the clients, too, if memcached fails."""
    pool = ClientPool(mc.clone(), 1)

    def change() -> None:
        pool.set_servers(mc.addresses)

    change()
    assert interrupted_everywhere(KeyboardInterrupt, pool.disconnect_all, change)


@pytest.mark.slow
@tracing
def test_interrupted_change_of_servers_after_another_one_swallows_nothing(mc: Client) -> None:
    """It frees the first master, which nobody else has."""
    pool = ClientPool(mc.clone(), 1)

    def begin() -> None:
        nonlocal pool
        pool.close()
        pool = ClientPool(mc.clone(), 1)
        pool.set_servers(mc.addresses)

    begin()
    addresses = mc.addresses
    assert interrupted_everywhere(KeyboardInterrupt, lambda: pool.set_servers(addresses), begin)


def test_master_that_somebody_has_works_after_changes_of_servers(mc: Client) -> None:
    pool = ClientPool(mc.clone(), 1)
    master = pool.master
    assert master.set("key", "value")
    for _ in range(3):
        pool.set_servers(mc.addresses)
    assert type(master) is Client
    assert open_sockets(master)
    assert master.get("key") == "value"


@tracing
def test_interrupted_release_after_a_change_of_servers_swallows_nothing(mc: Client) -> None:
    pool = ClientPool(mc.clone(), 1)
    lent = pool.reserve()

    def change() -> None:
        nonlocal lent
        lent.release()
        lent = pool.reserve()
        lent.__enter__()
        pool.set_servers(mc.addresses)

    change()
    assert interrupted_everywhere(KeyboardInterrupt, lambda: lent.release(), change)


def test_client_of_a_dropped_reservation_is_its_holders_alone(mc: Client) -> None:
    """pylibmc's pool reserves it for the next one while the first still has it."""
    theirs = pylibmc.ClientPool(mc, 1)
    held = theirs.reserve().__enter__()
    assert theirs.reserve().__enter__() is held

    pool = ClientPool(mc, 1, timeout=0)
    held = pool.reserve().__enter__()
    gc.collect()
    with pytest.raises(PoolTimeout):
        pool.reserve().__enter__()
    assert held.set("key", "value")
    del held
    assert pool.stats().in_use == 0
    use(pool)


def test_waiter_gets_the_slot_of_a_reservation_that_is_dropped(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=60)
    dropped = pool.reserve()
    dropped.__enter__()
    with waiting(pool, lambda: use(pool)):
        del dropped


@pytest.mark.parametrize("action", ["release", "disconnect"])
def test_interrupt_while_a_client_is_discarded_loses_no_slot_whoever_holds_the_traceback(
    mc: Client, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    pool = ClientPool(mc, 1, timeout=0)
    lent = pool.reserve()
    lent.__enter__()
    lent.set("key", 1)
    # Freeing a client that is out of sync shuts its sockets down.
    lent._client._out_of_sync = True

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    first, second = pool.disconnect_all, lent.release
    if action == "disconnect":
        first, second = second, first
    first()
    with monkeypatch.context() as patches:
        patches.setattr("mcpool_wsgi.client.sockets.shut_down", interrupt)
        with pytest.raises(KeyboardInterrupt) as held:
            second()
    assert held.tb is not None
    with pool.reserve() as again:
        assert again.get("key") == 1
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_interrupt_of_a_release_leaves_no_waiter_asleep_beside_an_idle_slot(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=60)

    class Interrupting(type(pool._queue.idle)):  # type: ignore[misc]
        def append(self, slot: Any) -> None:
            super().append(slot)
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt

    lent = pool.reserve()
    lent.__enter__()
    plain = pool._queue.idle
    with waiting(pool, lambda: use(pool)):
        pool._queue.idle = Interrupting()
        with pytest.raises(KeyboardInterrupt):
            lent.release()
    pool._queue.idle = plain


@pytest.mark.parametrize("is_served", [False, True])
def test_interrupted_wait_loses_no_slot_whoever_holds_the_traceback(
    mc: Client, monkeypatch: pytest.MonkeyPatch, is_served: bool
) -> None:
    pool = ClientPool(mc, 1, timeout=60)
    lent = pool.reserve()
    lent.__enter__()

    def interrupt(*_: object) -> None:
        if is_served:
            lent.release()
        raise KeyboardInterrupt

    with monkeypatch.context() as patches:
        patches.setattr("mcpool_wsgi.pool.slot_queue.Waiter.wait", interrupt)
        with pytest.raises(KeyboardInterrupt) as held:
            pool.reserve().__enter__()
    assert held.tb is not None
    assert pool.stats().waiting == 0
    lent.release()
    with pool.reserve(block=False):
        assert pool.stats().clients_made == 1


def test_clone_that_fails_wakes_who_waits() -> None:
    class Failing(FakeClient):
        def clone(self) -> FakeClient:
            if next(clones) == 1:  # that of the pool itself is the one before
                has_begun.set()
                eventually(lambda: pool.stats().waiting == 1)
                raise MemoryError
            return Failing()

    def fail() -> None:
        with pytest.raises(MemoryError), pool.reserve():
            pass

    def wait() -> None:
        assert has_begun.wait(DEADLINE)
        with pool.reserve():
            pass

    clones = itertools.count()
    has_begun = threading.Event()
    pool = ClientPool(Failing(), 1, timeout=600)
    in_threads([fail, wait])


@pytest.mark.slow
def test_waiter_that_an_interrupt_left_asleep_takes_the_idle_slot_at_its_time_out(
    mc: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ClientPool(mc, 1, timeout=1)

    def interrupt(queue: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        serve_waiters(queue)

    serve_waiters = type(pool._queue).serve_waiters
    lent = pool.reserve()
    lent.__enter__()
    monkeypatch.setattr(type(pool._queue), "serve_waiters", interrupt)
    with waiting(pool, lambda: use(pool)), pytest.raises(KeyboardInterrupt):
        lent.release()
    assert (pool.stats().reservations, pool.stats().timeouts) == (2, 0)


def lose_quietly(lost: Any) -> None:
    """As if an interrupt had ended the finaliser of its slot: only the table knows of it."""
    lost._slot._find_queue = lambda: None


@pytest.mark.slow
def test_lost_slot_is_replaced_once_by_whoever_notices_it(mc: Client) -> None:
    for _ in range(50):
        pool = ClientPool(mc, 2, timeout=0)
        queue = pool._queue
        lost = pool.reserve()
        lost.__enter__()
        number = lost._slot.number
        lose_quietly(lost)
        del lost
        in_threads([lambda: queue.replace_slot(number)] * 4)  # noqa: B023
        with pool.reserve(), pool.reserve(), pytest.raises(PoolTimeout):
            pool.reserve().__enter__()


class ReleasesLate:
    """Garbage in a circle. It is finalised after the slot, which is older."""

    def __init__(self, pool: ClientPool) -> None:
        self.circle = self
        self.reservation = pool.reserve()
        self.reservation.__enter__()

    def __del__(self) -> None:
        self.reservation.release()


def test_slot_that_is_released_after_it_was_replaced_is_not_reserved(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=0.05)
    with pool.reserve():  # makes the slot
        pass
    ReleasesLate(pool)
    gc.collect()
    assert pool.stats().in_use == 0
    with pool.reserve() as lent:
        assert pool.stats().in_use == 1
        assert lent.set("key", "value")
        with pytest.raises(PoolTimeout), pool.reserve():
            pass
    assert pool.stats().size == 1


def test_lost_slot_is_replaced_before_anybody_waits_for_it(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=600)
    lost = pool.reserve()
    lost.__enter__()
    lose_quietly(lost)
    del lost
    in_thread(lambda: use(pool))


@pytest.mark.slow
def test_slot_that_is_lost_during_a_wait_is_replaced_before_the_time_out(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=1)
    lost = pool.reserve()
    lost.__enter__()
    lose_quietly(lost)
    with waiting(pool, lambda: use(pool)):
        del lost
    assert (pool.stats().reservations, pool.stats().timeouts) == (2, 0)


@pytest.mark.slow
def test_slot_that_is_released_after_its_replacement_is_not_counted(mc: Client) -> None:
    """Garbage in a circle is finalised in any order."""

    class Circle:
        def __init__(self, client: Any) -> None:
            self.client = client
            self.circle = self

        def __del__(self) -> None:
            self.client.release()

    pool = ClientPool(mc, 2)
    Circle(pool.reserve().__enter__())
    gc.collect()
    assert (pool.stats().in_use, pool.stats().size) == (0, 0)
