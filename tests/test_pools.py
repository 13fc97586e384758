"""Both pools as their users meet them."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import inspect
import os
import pickle
import queue
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pylibmc
import pytest
from forking import FORKS, succeeds
from harness import (
    DEADLINE,
    Connections,
    eventually,
    in_thread,
    in_threads,
    no_collection,
    run_python,
    use,
    waiting,
)
from hostile import Conversation, fake
from interrupts import SignalHandler, interrupted_everywhere, tracing

from mcpool_wsgi import (
    Client,
    ClientPool,
    ClientReleased,
    PoolClosed,
    PoolTimeout,
    ThreadMappedPool,
)
from mcpool_wsgi.pool import statistics

if TYPE_CHECKING:
    from typing_extensions import assert_type


@pytest.fixture(params=[ClientPool, ThreadMappedPool])
def either_pool(request: pytest.FixtureRequest, mc: Client) -> Any:
    return ClientPool(mc, 4) if request.param is ClientPool else ThreadMappedPool(mc)


# -- As with pylibmc's pools


def test_reserved_client_works(either_pool: Any) -> None:
    with either_pool.reserve() as mc:
        assert mc.set("hi", "ho")
        assert mc.delete("hi")
    assert (either_pool.stats().in_use, either_pool.stats().idle) == (0, 1)


@pytest.mark.parametrize(
    "replace", [lambda pool: pool.disconnect_all(), lambda pool: pool.set_servers(["127.0.0.1:1"])]
)
def test_a_reserved_connection_that_was_replaced_is_closed_at_its_release(
    replace: Callable[[Any], None], either_pool: Any, connections: Connections
) -> None:
    with either_pool.reserve() as mc:
        assert mc.set("hi", "ho")
        replace(either_pool)
        assert mc.get("hi") == "ho"
        assert connections.count() == 1
    eventually(lambda: connections.count() == 0)


def test_command_of_another_thread_ends_well_if_its_connection_is_replaced_and_released() -> None:
    """The release does not wait for it."""
    asked, released = threading.Event(), threading.Event()

    def script(conversation: Conversation) -> None:
        conversation.request()
        asked.set()
        released.wait(10)
        conversation.send(b"VALUE key 0 5\r\nvalue\r\nEND\r\n")

    with fake(script) as server:
        master = Client([server.address], {"_poll_timeout": 5000}, command_timeout=10)
        pool = ClientPool(master, 1)
        with ThreadPoolExecutor() as threads:
            with pool.reserve() as mc:
                answer = threads.submit(mc.get, "key")  # by mistake: it may outlast the request
                assert asked.wait(10)
                pool.disconnect_all()
            released.set()
            assert answer.result() == b"value"


def test_class_of_a_user_gets_no_subclass_when_its_client_is_replaced(address: str) -> None:
    class Mine(Client):
        pass

    pool = ClientPool(Mine([address]), 1)
    with pool.reserve() as mc:
        assert mc.set("hi", "ho")
        pool.disconnect_all()
    assert Mine.__subclasses__() == []


class Subclass(Client):
    pass


@pytest.mark.parametrize("kind", [Client, Subclass])
@pytest.mark.parametrize("release_first", [False, True])
@pytest.mark.parametrize("end", [ClientPool.disconnect_all, ClientPool.close])
def test_a_connection_is_closed_although_an_error_holds_its_client(
    address: str,
    connections: Connections,
    kind: type[Client],
    release_first: bool,
    end: Callable[[ClientPool], None],
) -> None:
    """An app may keep an error, and its traceback has the frame of the command."""
    pool = ClientPool(kind([address]), 1)
    lent = pool.reserve()
    with lent:
        with pytest.raises(pylibmc.NotFound) as held:
            lent.incr("missing")
        if release_first:
            lent.release()
        end(pool)
    eventually(lambda: connections.count() == 0)
    assert held.tb is not None


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_pool_is_neither_copied_nor_pickled(either_pool: Any, duplicate: Any) -> None:
    """A child of a fork would use its parent's connections through a copy."""
    with pytest.raises(TypeError, match="Pool is neither copied nor pickled, because its conn"):
        duplicate(either_pool)


def test_pool_is_filled_later(mc: Client) -> None:
    pool = ClientPool()
    with pytest.raises(queue.Empty, match=r"fill\(mc, n_slots\)"):
        pool.reserve(block=False).__enter__()
    pool.fill(mc, 4)
    with pool.reserve() as lent:
        assert lent.set("hi", "ho")
    assert pool.stats().slots == 4


def test_pool_that_is_filled_later_has_clones_of_what_it_is_filled_with(mc: Client) -> None:
    class Own(Client):
        def greeting(self) -> str:
            return "hello"

    pool = ClientPool()
    pool.fill(Own(mc.addresses), 1)
    for lazy in (False, True):
        with pool.reserve(lazy=lazy) as lent:
            assert lent.greeting() == "hello"  # type: ignore[attr-defined]
    pool = ClientPool()
    pool.fill(pylibmc.Client(mc.addresses), 1)
    with pool.reserve() as plain:
        assert type(plain) is pylibmc.Client


def test_method_of_a_subclass_is_over_after_the_release(mc: Client) -> None:
    class Own(Client):
        def greeting(self) -> str:
            return "hello"

    with ClientPool(Own(mc.addresses), 1).reserve() as lent:
        greeting = lent.greeting  # type: ignore[attr-defined]
        assert greeting() == "hello"
    for kept in (greeting, inspect.unwrap(greeting)):
        with pytest.raises(ClientReleased):
            kept()


def test_pool_is_filled_with_more(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    with pool.reserve():
        pool.fill(mc, 2)
        with pool.reserve(), pool.reserve(), pytest.raises(queue.Empty):
            pool.reserve(block=False).__enter__()
    assert pool.stats().slots == 3


def test_fill_makes_all_clients_from_the_new_one(either_pool: Any, address: str) -> None:
    with either_pool.reserve() as mc:
        mc.set("key", "value")
    either_pool.fill(Client([address], {"namespace": "other:"}), 1)
    with either_pool.reserve() as mc:
        assert mc.get("key") is None
    assert either_pool.stats().clients_renewed == {"fill": 1}


def test_filling_wakes_who_waits(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    with pool.reserve(), waiting(pool, lambda: use(pool)):
        pool.fill(mc, 1)


def test_exhausted_pool_raises_queue_empty_without_block(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    with pool.reserve(), pytest.raises(queue.Empty), pool.reserve(block=False):
        pass
    with pool.reserve(block=False):
        pass


def test_plain_pylibmc_client_as_master(address: str) -> None:
    master = pylibmc.Client([address])
    for pool in (ClientPool(master, 4), ThreadMappedPool(master)):
        with pool.reserve() as mc:
            assert type(mc) is pylibmc.Client
            assert mc is not master
            assert mc.set("hi", "ho")
        assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_master_is_another_name_of_the_parameter_mc(mc: Client) -> None:
    for pool in (pylibmc.ThreadMappedPool(master=mc), ThreadMappedPool(master=mc)):
        with pool.reserve() as lent:
            assert lent.set("hi", "ho")
    with pytest.raises(TypeError, match="mc and master"):
        ThreadMappedPool(mc, master=mc)


def test_reservation_is_no_decorator(either_pool: Any) -> None:
    """With pylibmc it is one by chance, and the function does not get the client."""
    with pytest.raises(TypeError, match="not callable"):
        either_pool.reserve()(use)


def test_lent_client_takes_parameters_by_name(mc: Client) -> None:
    with ClientPool(mc, 1).reserve() as lent:
        assert lent.set(key="count", val=1, time=60)
        assert lent.incr("count", delta=2) == 3
        assert lent.get(key="missing", default="nothing") == "nothing"


def test_servers_that_are_set_during_a_disconnect_stay(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    over = threading.Event()

    def disconnect() -> None:
        while not over.is_set():
            pool.disconnect_all()

    with ThreadPoolExecutor(2) as threads:
        ends = [threads.submit(disconnect) for _ in range(2)]
        try:
            for servers in [["127.0.0.1:1"], mc.addresses] * 20:
                pool.set_servers(servers)
                time.sleep(0.001)
                assert pool.master.addresses == servers
        finally:
            over.set()
    assert [end.result() for end in ends] == [None, None]


@tracing
def test_interrupted_request_after_changes_of_servers_swallows_nothing(mc: Client) -> None:
    """Its client replaces the last one that was cloned from the master before."""
    pool = ClientPool(mc.clone(), 1)

    def use() -> None:
        with pool.reserve():
            pass

    def change_twice() -> None:
        use()
        pool.set_servers(mc.addresses)
        pool.set_servers(mc.addresses)

    change_twice()
    assert interrupted_everywhere(KeyboardInterrupt, use, change_twice)


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


def test_clone_of_a_lent_client_is_a_client_of_its_own(mc: Client) -> None:
    with ClientPool(mc, 1).reserve() as lent:
        lent.set("greeting", "hello")
        clone = lent.clone()
    if TYPE_CHECKING:
        assert_type(clone, Client)
    assert type(clone) is type(mc)
    assert clone.get("greeting") == "hello"


def test_lent_client_of_a_subclass_has_what_the_subclass_has(address: str) -> None:
    class Mine(Client):
        prefix = "mine-"

        def get(self, key: Any, default: Any = None) -> Any:
            return super().get(f"{self.prefix}{key}", default)

        def greet(self) -> str:
            return f"hello {self.get('name')}"

    Client([address]).set("mine-name", "reader")
    for pool in (ClientPool(Mine([address]), 1), ThreadMappedPool(Mine([address]))):
        with pool.reserve() as mc:
            greet = mc.greet  # type: ignore[attr-defined]
            assert mc.get("name") == "reader"
            assert (greet(), mc.prefix) == ("hello reader", "mine-")  # type: ignore[attr-defined]
            with pytest.raises(AttributeError):
                mc.no_such_thing  # type: ignore[attr-defined]  # noqa: B018
        with pytest.raises(ClientReleased):
            greet()


@pytest.mark.parametrize("lazy", [False, True])
def test_lent_client_of_a_subclass_observes_no_other_reservation(mc: Client, lazy: bool) -> None:
    class Mine(Client):
        pass

    pool = ClientPool(Mine(mc.addresses), 1)
    with pool.reserve(lazy=lazy) as lent, pytest.raises(AttributeError, match="'observe'"):
        lent.observe(print)


def test_pool_with_all_clients_reserved_is_true(either_pool: Any) -> None:
    with either_pool.reserve():
        assert either_pool


def test_relinquish_gives_up_the_client_of_the_thread(mc: Client) -> None:
    pool = ThreadMappedPool(mc)
    assert pool.relinquish() is None
    with pool.reserve():
        assert pool.relinquish() is None
    given_up = pool.relinquish()
    assert type(given_up) is Client
    assert given_up.set("key", "value")
    assert pool.relinquish() is None
    assert pool.stats().size == 0
    use(pool)
    assert pool.stats().clients_made == 2
    assert ClientPool(mc, 1).relinquish() is None


# -- Interface


def test_pools_have_the_same_interface() -> None:
    def public(pool: type) -> set[str]:
        return {name for name in dir(pool) if not name.startswith("_")}

    assert public(ThreadMappedPool) - {"timeout"} == public(ClientPool)


# -- Never two holders


def test_nested_reservations_have_different_clients(either_pool: Any) -> None:
    with either_pool.reserve() as a, either_pool.reserve() as b, either_pool.reserve() as c:
        assert len({id(a), id(b), id(c)}) == 3
    assert (either_pool.stats().in_use, either_pool.stats().idle) == (0, 3)


def test_releasing_twice_releases_once(either_pool: Any) -> None:
    lent = either_pool.reserve()
    lent.__enter__()
    lent.release()
    lent.__exit__(None, None, None)
    assert (either_pool.stats().in_use, either_pool.stats().idle) == (0, 1)
    with either_pool.reserve() as a, either_pool.reserve() as b:
        lent.release()
        assert a.set("a", 1)
        assert b.get("a") == 1
        assert either_pool.stats().in_use == 2


def test_releasing_what_was_never_reserved_does_nothing(either_pool: Any) -> None:
    lent = either_pool.reserve()
    lent.release()
    assert either_pool.stats().size == 0
    with pytest.raises(ClientReleased):
        lent.__enter__()


def test_reservation_released_in_another_thread(either_pool: Any) -> None:
    lent = either_pool.reserve()
    lent.__enter__()
    in_thread(lent.release)
    assert (either_pool.stats().in_use, either_pool.stats().idle) == (0, 1)
    use(either_pool)
    assert either_pool.stats().clients_made == 1


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


@pytest.mark.slow
def test_no_value_of_another_thread_is_read(either_pool: Any) -> None:
    def work(name: str) -> None:
        for number in range(300):
            with either_pool.reserve() as mc:
                mc.set(f"{name}-{number}", (name, number))
                assert mc.get(f"{name}-{number}") == (name, number)

    in_threads([lambda name=name: work(name) for name in "abcdefgh"])  # type: ignore[misc]
    assert either_pool.stats().in_use == 0
    assert either_pool.stats().reservations == 8 * 300


# -- Bounded


def test_no_more_clients_than_slots(address: str, connections: Connections) -> None:
    pool = ClientPool(Client([address]), 3)
    most = []

    def work() -> None:
        for _ in range(100):
            with pool.reserve() as mc:
                mc.get("key")
                most.append(pool.stats().size)

    in_threads([work] * 16)
    assert max(most) <= 3
    assert pool.stats().clients_made <= 3
    assert connections.count() <= 3


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


# -- Only as many connections as the load needs


def test_one_request_at_a_time_needs_one_connection(
    address: str, connections: Connections
) -> None:
    pool = ClientPool(Client([address]), 12)
    for _ in range(50):
        use(pool)
    assert pool.stats().clients_made == 1
    assert connections.count() == 1


def test_clients_are_made_on_demand_and_reserved_last_in_first_out(address: str) -> None:
    pool = ClientPool(pylibmc.Client([address]), 12)  # these are lent as they are
    assert pool.stats().size == 0
    with pool.reserve() as first:
        with pool.reserve() as second:
            assert pool.stats().size == 2
        with pool.reserve() as again:
            assert again is second
    with pool.reserve() as last:
        assert last is first
    assert pool.stats().clients_made == 2


# -- Threads that end


def test_client_goes_with_its_thread(address: str, connections: Connections) -> None:
    """pylibmc's keeps a connection for every thread that ever was."""
    theirs = pylibmc.ThreadMappedPool(pylibmc.Client([address]))
    in_threads([lambda: use(theirs)] * 20)
    assert connections.count() > 0
    theirs.clear()
    eventually(lambda: connections.count() == 0)

    pool = ThreadMappedPool(Client([address]))
    in_threads([lambda: use(pool)] * 20)
    eventually(lambda: connections.count() == 0)
    assert pool.stats().size == 0
    assert pool.stats().reservations == 20


@pytest.mark.slow
@tracing
@pytest.mark.parametrize("method", ["reserve", "stats", "disconnect_all", "close"])
def test_finaliser_that_uses_a_pool_while_its_thread_uses_it_for_the_first_time(
    mc: Client, method: str
) -> None:
    """Python's garbage collector may run one in any thread. So may a signal in the main one."""

    def use_for_the_first_time(pool: ThreadMappedPool, at: int) -> None:
        def finaliser() -> None:
            if method == "reserve":
                use(pool)
            else:
                getattr(pool, method)()

        with SignalHandler(finaliser, at), contextlib.suppress(PoolClosed):
            use(pool)

    pools = []
    for at in range(1, 200):  # the thread has its queue long before
        pools.append(ThreadMappedPool(mc))
        in_thread(functools.partial(use_for_the_first_time, pools[-1], at))
    eventually(lambda: not any(pool.stats().size for pool in pools))


def test_client_goes_with_its_thread_if_somebody_keeps_it_after_its_release(
    address: str, connections: Connections
) -> None:
    pool = ThreadMappedPool(Client([address]))
    kept: list[Any] = []

    def use_and_keep() -> None:
        for lazy in (False, True):
            lent = pool.reserve(lazy=lazy).__enter__()
            kept.append(lent)
            lent.get("key")
            lent.release()

    in_threads([use_and_keep] * 4)
    eventually(lambda: connections.count() == 0)
    assert pool.stats().size == 0
    with pytest.raises(ClientReleased):
        kept[0].get("key")


def test_client_that_is_reserved_beyond_the_end_of_its_thread(mc: Client) -> None:
    pool = ThreadMappedPool(mc)
    lent = pool.reserve()
    in_thread(lent.__enter__)
    assert pool.stats().in_use == 1
    lent.release()
    del lent
    assert pool.stats().size == 0


# -- Close


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


def test_closed_pool_says_so(either_pool: Any) -> None:
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


def test_close_while_others_reserve_and_return(address: str, connections: Connections) -> None:
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


# -- What was missed once


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


@pytest.mark.slow
def test_lost_slot_is_replaced_once_by_whoever_notices_it(mc: Client) -> None:
    for _ in range(50):
        pool = ClientPool(mc, 2, timeout=0)
        queue = pool._queue
        lost = pool.reserve()
        lost.__enter__()
        number = lost._slot.number
        # As if an interrupt had ended the finaliser: only the table knows of it.
        lost._slot._find_owner = lambda: None
        del lost
        in_threads([lambda: queue.replace_slot(number)] * 4)  # noqa: B023
        with pool.reserve(), pool.reserve(), pytest.raises(PoolTimeout):
            pool.reserve().__enter__()


def test_lost_slot_is_replaced_before_anybody_waits_for_it(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=DEADLINE)
    lost = pool.reserve()
    lost.__enter__()
    lost._slot._find_owner = lambda: None  # as above
    del lost
    in_thread(lambda: use(pool))


def test_slot_that_is_lost_during_a_wait_is_replaced_before_the_time_out(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=1)
    lost = pool.reserve()
    lost.__enter__()
    lost._slot._find_owner = lambda: None  # as above
    with waiting(pool, lambda: use(pool)):
        del lost
    assert (pool.stats().reservations, pool.stats().timeouts) == (2, 0)


def test_lent_client_is_neither_copied_nor_pickled(mc: Client) -> None:
    for pool in (ClientPool(mc, 1), ClientPool(pylibmc.Client(mc.addresses), 1)):
        lent = pool.reserve()
        with lent:
            for copied in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match="neither copied nor pickled"):
                    copied(lent)


def test_lent_client_says_whose_it_is(mc: Client) -> None:
    lent = ClientPool(mc, 1).reserve()
    assert "ClientPool" in repr(lent)
    assert mc.addresses[0] in repr(lent)
    assert "not reserved yet" in repr(lent)
    with pytest.raises(RuntimeError, match="not reserved yet"):
        lent.get("key")
    with lent:
        assert repr(lent).endswith("reserved>")
        with pytest.raises(RuntimeError, match="reserved already"):
            lent.__enter__()
    assert repr(lent).endswith("released>")


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


def test_lazy_client_of_a_pool_that_is_not_filled_shows_no_options() -> None:
    lent = ClientPool().reserve(lazy=True)
    for show in (lambda: lent.addresses, lambda: lent.behaviors, lambda: lent.hash("key")):
        with pytest.raises(PoolTimeout, match=r"fill\(mc, n_slots\)"):
            show()


@pytest.mark.parametrize("lazy", [False, True])
def test_hash_of_a_subclass_has_parameters_of_its_own(mc: Client, lazy: bool) -> None:
    class Own(Client):
        def hash(self, key: Any, replica: int = 0) -> int:
            return super().hash(key) + replica

    with ClientPool(Own(mc.addresses), 1).reserve(lazy=lazy) as lent:
        assert lent.hash("key", 3) == lent.hash("key", replica=3) == 3  # type: ignore[call-arg]


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


def test_pool_has_clients_of_one_kind(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    with pytest.raises(TypeError, match=r"kind: <class 'mcpool_wsgi.+ and not <class 'pylibmc"):
        pool.fill(pylibmc.Client(mc.addresses), 1)
    assert pool.stats().slots == 1


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


def test_tools_can_look_into_every_object_of_the_package() -> None:
    """As eventlet does when it patches late. It logs each object that raises another error."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "mcpool_wsgi":
            for value in list(vars(module).values()):
                with contextlib.suppress(TypeError):
                    vars(value)
