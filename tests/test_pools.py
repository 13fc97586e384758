"""Both pools as their users meet them."""

from __future__ import annotations

import contextlib
import copy
import functools
import pickle
import queue
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pylibmc
import pytest
from harness import Connections, eventually, in_thread, in_threads, use
from hostile import Conversation, fake
from interrupts import SignalHandler, tracing

from mcpool_wsgi import Client, ClientPool, ClientReleased, PoolClosed, ThreadMappedPool

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


def test_pools_of_a_plain_pylibmc_client_give_clones_of_it(address: str) -> None:
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


@pytest.mark.slow
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


def test_pools_have_the_same_interface() -> None:
    def public(pool: type) -> set[str]:
        return {name for name in dir(pool) if not name.startswith("_")}

    assert public(ThreadMappedPool) - {"timeout"} == public(ClientPool)


# -- Never two holders


def test_nested_reservations_have_different_clients(either_pool: Any) -> None:
    with either_pool.reserve() as a, either_pool.reserve() as b, either_pool.reserve() as c:
        assert len({id(a), id(b), id(c)}) == 3
    assert (either_pool.stats().in_use, either_pool.stats().idle) == (0, 3)


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

    kept = []

    def keep() -> None:
        kept.append(pool.reserve())
        with kept[-1] as mc:
            mc.get("key")

    in_threads([keep] * 20)
    eventually(lambda: connections.count() == 0)


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


def test_client_whose_thread_has_ended_goes_with_its_release(mc: Client) -> None:
    pool = ThreadMappedPool(mc)
    lent = pool.reserve()
    in_thread(lent.__enter__)
    assert pool.stats().in_use == 1
    lent.release()
    del lent
    assert pool.stats().size == 0


def test_pool_has_clients_of_one_kind(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    with pytest.raises(TypeError, match=r"kind: <class 'mcpool_wsgi.+ and not <class 'pylibmc"):
        pool.fill(pylibmc.Client(mc.addresses), 1)
    assert pool.stats().slots == 1


def test_tools_can_look_into_every_object_of_the_package() -> None:
    """As eventlet does when it patches late. It logs each object that raises another error."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "mcpool_wsgi":
            for value in list(vars(module).values()):
                with contextlib.suppress(TypeError):
                    vars(value)


def test_a_thousand_million_slots_cost_nothing_until_they_are_used(mc: Client) -> None:
    tracemalloc.start()
    try:
        pool = ClientPool(mc, 10**9)
        with pool.reserve() as lent:
            lent.set("key", 1)
        pool.fill(mc, 10**9)
        assert pool.stats().slots == 2 * 10**9
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1 << 20
