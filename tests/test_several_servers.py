"""More than one memcached: keys spread, a dead node is left out and comes back, servers change."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import threading
from contextlib import ExitStack
from time import monotonic
from typing import Any, Callable

import hostile
import pylibmc
import pytest
from forking import in_child, succeeds
from harness import eventually, in_spite_of_errors, in_threads, run_python, skip_if_not_spoken
from mortal import Mortal

from mcpool_wsgi import Client, ClientPool, PooledClient, ThreadMappedPool
from mcpool_wsgi.client import SEVERAL_SERVERS_BEHAVIORS

pytestmark = pytest.mark.servers

KEYS = [f"key{number}" for number in range(300)]
QUICK = {"dead_timeout": 2}


def addresses(nodes: list[Mortal]) -> list[str]:
    return [node.address for node in nodes]


def whereabouts(nodes: list[Mortal]) -> dict[str, int]:
    """Which node has which key."""
    found = {}
    for number, node in enumerate(nodes):
        found.update(dict.fromkeys(Client([node.address]).get_multi(KEYS), number))
    return {str(key): number for key, number in found.items()}


def read(pool: Any) -> dict[str, Any]:
    """Every key, by a request of its own; None for a miss."""
    values = {}
    for key in KEYS:
        with pool.reserve() as mc:
            values[key] = mc.get(key)
    return values


def test_defaults_are_documented_and_overridable(nodes: list[Mortal]) -> None:
    several = Client(addresses(nodes)).behaviors
    assert {name: several[name] for name in SEVERAL_SERVERS_BEHAVIORS} == {
        name: int(value) for name, value in SEVERAL_SERVERS_BEHAVIORS.items()
    }
    assert Client(addresses(nodes)[:1]).behaviors["ketama"] == 0
    assert Client(addresses(nodes), {"ketama": False}).behaviors["ketama"] == 0
    assert Client(addresses(nodes)).renewal_interval == 10


def test_keys_spread_and_other_clients_agree(nodes: list[Mortal]) -> None:
    Client(addresses(nodes)).set_multi({key: key for key in KEYS})
    assert sorted(set(whereabouts(nodes).values())) == [0, 1, 2]
    theirs = pylibmc.Client(addresses(nodes), behaviors={"ketama": True})
    assert theirs.get_multi(KEYS) == {key: key for key in KEYS}


def test_a_child_knows_where_its_keys_are_when_a_server_is_back(nodes: list[Mortal]) -> None:
    """The parent's client leaves the server out, and the child's does not."""
    mc = Client(addresses(nodes), QUICK, fail_soft=True)
    key = next(key for key in KEYS if mc.hash(key) == 1)
    nodes[1].kill()

    def is_left_out() -> bool:
        mc.get(key)
        return mc.hash(key) != 1

    eventually(is_left_out)
    nodes[1].start()

    def work() -> None:
        assert mc.hash(key) == 1
        assert mc.set(key, "value")
        assert Client([nodes[1].address]).get(key) == "value"

    succeeds(in_child(work))


def test_dead_node_costs_its_own_keys_only_and_they_return(nodes: list[Mortal]) -> None:
    pool = ClientPool(Client(addresses(nodes), QUICK, fail_soft=True), 3)
    with pool.reserve() as mc:
        assert mc.set_multi({key: key for key in KEYS}) == []
    home = whereabouts(nodes)
    nodes[1].kill()
    for _ in range(3):
        values = read(pool)  # every request is answered
        assert all(values[key] == key for key in KEYS if home[key] != 1)
        assert all(values[key] is None for key in KEYS if home[key] == 1)
    # Once it is left out, its keys are kept elsewhere.
    eventually(lambda: _all_stored(pool))
    assert read(pool) == {key: key for key in KEYS}
    nodes[1].start()
    Client([nodes[1].address]).set_multi({key: "returned" for key in KEYS if home[key] == 1})
    eventually(lambda: _returned(pool, home))
    assert pool.stats().failures > 0


def _all_stored(pool: Any) -> bool:
    with pool.reserve() as mc:
        return bool(mc.set_multi({key: key for key in KEYS}) == [])


def _returned(pool: Any, home: dict[str, int]) -> bool:
    return read(pool) == {key: "returned" if home[key] == 1 else key for key in KEYS}


EACH_KEY: dict[str, Callable[[Any, str], object]] = {
    "get": lambda mc, key: mc.get(key),
    "gets": lambda mc, key: mc.gets(key),
    "set": lambda mc, key: mc.set(key, key),
    "append": lambda mc, key: mc.append(key, "!"),
    "incr": lambda mc, key: mc.incr_multi([key]),
    "delete": lambda mc, key: mc.delete(key),
    "touch": lambda mc, key: mc.touch(key, 60),
    "get_multi": lambda mc, key: mc.get_multi([key, f"{key}!", f"{key}?"]),
    "set_multi": lambda mc, key: mc.set_multi({key: 1, f"{key}!": 2, f"{key}?": 3}),
}


def errors_of(mc: Client, command: str, keys: list[str]) -> list[str]:
    """The errors of a *command* for each of *keys*. A key that is not there is none."""
    errors = []
    for key in keys:
        try:
            EACH_KEY[command](mc, key)
        except pylibmc.NotFound:
            pass
        except pylibmc.Error as error:
            errors.append(repr(error))
    return errors


@pytest.mark.slow
@pytest.mark.parametrize("binary", [False, True])
def test_node_that_was_restarted_is_used_by_a_pool_that_only_stores(
    nodes: list[Mortal], embedded: bool, binary: bool
) -> None:
    """In binary, libmemcached 1.0.16 leaves it out at each new try."""
    skip_if_not_spoken(binary, embedded)
    pool = ClientPool(Client(addresses(nodes), {"dead_timeout": 1}, binary), 1)

    def store() -> None:
        for key in KEYS[:40]:
            with pool.reserve() as mc, contextlib.suppress(pylibmc.Error):
                mc.set(key, "value")

    store()
    nodes[0].restart()

    def is_used_again() -> bool:
        store()
        ((_, stats),) = Client([nodes[0].address]).get_stats()
        return int(stats["curr_items"]) > 0

    eventually(is_used_again)


@pytest.mark.slow
@pytest.mark.parametrize("binary", [False, True])
def test_failure_of_a_command_is_noted_once(
    nodes: list[Mortal], embedded: bool, binary: bool
) -> None:
    skip_if_not_spoken(binary, embedded)
    mc = Client(addresses(nodes), {"dead_timeout": 1}, binary)
    mc.set_multi(dict.fromkeys(KEYS, 1))
    notes: list[bool] = []
    mc.on_connection_failure = lambda: notes.append(True)
    nodes[0].kill()
    end = monotonic() + 3
    while monotonic() < end:
        for key in KEYS[:20]:
            before = len(notes)
            with contextlib.suppress(pylibmc.Error):
                mc.add_multi({key: 1})
            assert len(notes) <= before + 1
    assert notes


@pytest.mark.parametrize(
    ("command", "binary"),
    # Without touch in binary, which takes half a second with libmemcached 1.0.16.
    [(name, False) for name in EACH_KEY] + [(name, True) for name in EACH_KEY if name != "touch"],
)
def test_a_dead_node_is_one_error(
    nodes: list[Mortal], embedded: bool, command: str, binary: bool
) -> None:
    skip_if_not_spoken(binary, embedded)
    mc = Client(addresses(nodes), {"cas": True}, binary)
    assert mc.set_multi(dict.fromkeys(KEYS, 1)) == []
    nodes[2].kill()
    errors = errors_of(mc, command, KEYS)
    assert len(errors) == 1, errors


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("command", EACH_KEY)
def test_servers_that_have_all_failed_are_used_when_they_are_back(
    nodes: list[Mortal], embedded: bool, command: str, binary: bool
) -> None:
    """libmemcached 1.0.16 says for ever that they are dead, if a client only stores."""
    skip_if_not_spoken(binary, embedded)
    mc = Client(addresses(nodes), {"cas": True}, binary)
    keys = KEYS[:20]
    assert errors_of(mc, command, keys) == []
    for node in nodes:
        node.kill()
    for _ in range(3):
        assert errors_of(mc, command, keys)
    for node in nodes:
        node.start()
    errors_of(mc, command, keys)
    assert errors_of(mc, command, keys) == []
    in_c = pylibmc.client.Client.get_behaviors(mc)
    assert in_c["failure_limit"] == mc.behaviors["failure_limit"], "servers are left out again"


@pytest.mark.parametrize("binary", [False, True])
def test_clients_agree_where_keys_are_when_all_servers_are_back(
    nodes: list[Mortal], embedded: bool, binary: bool
) -> None:
    """Each would use the server that it finds first, and leave the others out for ten seconds."""
    skip_if_not_spoken(binary, embedded)
    pool = ClientPool(Client(addresses(nodes), None, binary, fail_soft=True), 4)

    def store() -> bool:
        with pool.reserve() as mc:
            return mc.set("key", "value")

    for node in nodes:
        node.kill()
    with ExitStack() as reservations:
        clients = [reservations.enter_context(pool.reserve()) for _ in range(4)]
        end = monotonic() + 1.5  # longer than the retry_timeout
        while monotonic() < end:
            assert not any(mc.set(random.choice(KEYS), 1) for mc in clients)
    for node in nodes:
        node.start()
    eventually(store)
    with ExitStack() as reservations:
        clients = [reservations.enter_context(pool.reserve()) for _ in range(4)]
        for number, key in enumerate(KEYS):
            assert clients[number % 4].set(key, number)
        for mc in clients:
            assert mc.get_multi(KEYS) == {key: number for number, key in enumerate(KEYS)}
    assert pool.stats().clients_renewed == {"failure": 4}


def test_clients_are_not_renewed_when_one_of_several_servers_fails(nodes: list[Mortal]) -> None:
    """Each of them would fail once more."""
    pool = ClientPool(Client(addresses(nodes), fail_soft=True), 4)
    with ExitStack() as reservations:
        clients = [reservations.enter_context(pool.reserve()) for _ in range(4)]
        for mc in clients:
            assert mc.set_multi({key: key for key in KEYS}) == []
        nodes[0].kill()
        for _ in range(5):
            for key in KEYS:
                for mc in clients:
                    mc.get(key)
    with pool.reserve():
        pass
    assert pool.stats().clients_renewed == {}


def test_clients_are_not_renewed_although_all_wait_for_one_server(nodes: list[Mortal]) -> None:
    """Nothing is answered meanwhile, but the other servers have not failed."""
    pool = ClientPool(Client(addresses(nodes), fail_soft=True), 4)
    homes = [pool.master.hash(key) for key in KEYS]
    hot, other = KEYS[homes.index(0)], KEYS[homes.index(1)]
    with ExitStack() as reservations:
        clients = [reservations.enter_context(pool.reserve()) for _ in range(4)]
        nodes[0].stop()
        assert [mc.get(hot) for mc in clients] == [None] * 4
        assert clients[0].set(other, 1)
        nodes[0].go_on()
    with ExitStack() as reservations:
        for _ in range(4):
            reservations.enter_context(pool.reserve())
    assert pool.stats().failures == 4
    assert pool.stats().clients_renewed == {}


def test_clients_are_renewed_after_each_outage_of_all_servers(nodes: list[Mortal]) -> None:
    pool = ClientPool(Client(addresses(nodes), fail_soft=True), 1)
    for times in range(3):
        with pool.reserve() as mc:
            for node in nodes:
                node.kill()
            end = monotonic() + 0.2  # longer than the silence that shows it
            while monotonic() < end:
                assert mc.get_multi(KEYS) == {}
                assert not any(map(mc.get, KEYS[:50]))
            for node in nodes:
                node.start()
            eventually(lambda mc=mc: mc.set("key", "value"))  # type: ignore[misc]
        assert pool.stats().clients_renewed == ({"failure": times} if times else {})


def test_client_that_stores_does_not_wait_each_time_for_servers_that_all_hang(
    nodes: list[Mortal], embedded: bool
) -> None:
    skip_if_not_spoken(True, embedded)
    if pylibmc.libmemcached_version != "1.0.16":
        pytest.skip("later ones wait each time")
    mc = Client(addresses(nodes), {"_poll_timeout": 200}, binary=True)
    assert mc.set_multi(dict.fromkeys(KEYS, 1)) == []
    for node in nodes:
        node.stop()
    slow = 0
    for key in KEYS[:50]:
        began = monotonic()
        with pytest.raises(pylibmc.Error):
            mc.set(key, 1)
        slow += monotonic() - began > 0.1
    for node in nodes:
        node.go_on()
    assert slow < 10  # each server once, and one of them once in a retry_timeout
    eventually(lambda: in_spite_of_errors(mc.set, "key", 1))


# Without touch, whose error is the same as that of a server that fails.
@pytest.mark.parametrize("command", [name for name in EACH_KEY if name != "touch"])
def test_a_node_that_is_back_when_the_client_comes_back_costs_no_second_error(
    nodes: list[Mortal], command: str
) -> None:
    """libmemcached says at the next command only that the server counts as dead."""
    mc = Client(addresses(nodes), {"cas": True, "dead_timeout": 1})
    assert mc.set_multi(dict.fromkeys(KEYS, 1)) == []
    nodes[2].kill()
    with pytest.raises(pylibmc.Error):
        list(map(functools.partial(EACH_KEY[command], mc), KEYS))
    failed = monotonic()
    nodes[2].start()
    eventually(lambda: monotonic() > failed + mc.renewal_interval)
    for key in KEYS:
        with contextlib.suppress(pylibmc.NotFound):
            EACH_KEY[command](mc, key)


def test_a_dead_node_does_not_make_add_multi_answer_wrongly(nodes: list[Mortal]) -> None:
    mc = Client(addresses(nodes))
    mc.get("connects")
    nodes[2].kill()
    for number in range(0, len(KEYS), 10):
        keys = KEYS[number : number + 10]
        try:
            failed = mc.add_multi(dict.fromkeys(keys, "added"))
        except pylibmc.Error:
            continue
        assert failed == []


def test_error_of_another_client_does_not_run_a_command_again(nodes: list[Mortal]) -> None:
    written: list[object] = []

    class Value:
        def __reduce__(self) -> Any:  # like a signal handler, it runs in the middle of a command
            written.append(self)
            raise pylibmc.ServerDead("of another client")

    with pytest.raises(pylibmc.ServerDead):
        Client(addresses(nodes)).set("key", Value())
    assert len(written) == 1


@pytest.mark.parametrize("binary", [False, True])
def test_command_that_may_have_been_done_is_not_run_again(
    address: str, embedded: bool, binary: bool
) -> None:
    """Its server did it, and the connection was cut before the answer came."""
    skip_if_not_spoken(binary, embedded)
    direct = Client([address])
    with hostile.proxy(address) as one, hostile.proxy(address) as other:
        mc = Client([one.address, other.address], binary=binary)
        assert direct.set_multi({"counter": 0, "list": ""}) == []
        assert mc.incr("counter") == 1
        one.cut_after = other.cut_after = 0
        for times in range(1, 6):  # from the second on, a server counts as one that may be down
            for proxy in (one, other):
                proxy.cut()
            with pytest.raises(pylibmc.Error):
                mc.incr("counter")
            with pytest.raises(pylibmc.Error):
                mc.append("list", "x")
            assert direct.get("counter") <= 1 + times
            assert len(direct.get("list")) <= times


@pytest.mark.slow
def test_connection_that_one_server_has_closed_costs_each_client_of_a_pool_one_command(
    nodes: list[Mortal],
) -> None:
    """libmemcached 1.0.16 leaves that server out for some time. The pool renews its clients."""
    with hostile.proxy(nodes[0].address) as proxy:
        servers = [proxy.address, *addresses(nodes[1:])]
        pool = ClientPool(Client(servers, {"dead_timeout": 2}, fail_soft=True), 2)
        made = monotonic()
        with pool, pool.reserve() as first, pool.reserve() as second:
            for mc in (first, second):
                assert mc.set_multi({key: key for key in KEYS}) == []
            eventually(lambda: monotonic() - made > 2.1, "the clients may be renewed")
            proxy.cut()
            for mc in (first, second):
                for key in KEYS:
                    mc.get(key)
                mc.release()
            assert pool.stats().failures == 2
            assert read(pool) == {key: key for key in KEYS}
            assert pool.stats().failures == 2


@pytest.mark.parametrize("command", ["flush_all", "get_stats"])
def test_failure_of_a_command_for_all_servers_is_reported(
    nodes: list[Mortal], command: str
) -> None:
    mc = Client(addresses(nodes))
    failures: list[bool] = []
    mc.on_connection_failure = lambda: failures.append(True)
    nodes[1].kill()
    with pytest.raises(pylibmc.Error):
        getattr(mc, command)()
    assert failures == [True]


@pytest.mark.parametrize("command", ["flush_all", "get_stats"])
def test_first_failure_of_a_command_for_all_servers_is_the_one_that_is_raised(
    nodes: list[Mortal], command: str
) -> None:
    mc = Client(addresses(nodes))
    for node in nodes[1:]:
        node.kill()
    with pytest.raises(pylibmc.Error, match=nodes[1].address):
        getattr(mc, command)()


# -- Servers that change at run time


def test_set_servers_moves_to_other_servers(nodes: list[Mortal]) -> None:
    for pool in (
        ClientPool(Client([nodes[0].address], fail_soft=True), 4),
        ThreadMappedPool(Client([nodes[0].address], fail_soft=True)),
    ):
        with pool.reserve() as lent:
            lent.set("where", "first")
            with pool.reserve() as idle:
                idle.get("where")
            pool.set_servers([nodes[1].address])
            assert lent.get("where") == "first"  # what is lent goes on
            with pool.reserve() as mc:
                assert mc.get("where") is None
                mc.set("where", "second")
        with pool.reserve() as mc, pool.reserve() as other:
            assert mc.get("where") == other.get("where") == "second"
        assert pool.stats().clients_renewed == {"servers": pool.stats().clients_made - 2}
        Client([nodes[1].address]).flush_all()


def test_set_servers_closes_idle_connections_to_the_old_ones(nodes: list[Mortal]) -> None:
    pool = ClientPool(Client([nodes[0].address]), 4)
    with pool.reserve() as a, pool.reserve() as b:
        a.get("key")
        b.get("key")
    del a, b
    watch = Client([nodes[0].address])
    assert _connections(watch) == 3
    pool.set_servers([nodes[1].address])
    eventually(lambda: _connections(watch) == 1)
    assert pool.stats().size == 0


def test_client_of_the_old_servers_that_fails_does_not_bring_them_back(
    nodes: list[Mortal],
) -> None:
    pool = ClientPool(Client([nodes[0].address]), 2)
    with pool.reserve() as old:
        old.get("key")
        pool.set_servers([nodes[1].address])
        nodes[0].kill()
        began = monotonic()
        eventually(lambda: monotonic() - began > pool.master.renewal_interval)
        with pytest.raises(pylibmc.Error):
            old.get("key")
        assert pool.stats().failures == 1
    assert pool.master.addresses == [nodes[1].address]
    with pool.reserve() as mc:
        assert mc.set("key", "value")


def _connections(mc: Client) -> int:
    ((_, stats),) = mc.get_stats()
    return int(stats["curr_connections"])


def test_set_servers_under_load_gives_no_error_and_no_wrong_value(nodes: list[Mortal]) -> None:
    pool = ClientPool(Client(addresses(nodes)), 4)
    stop = threading.Event()
    reads = [0] * 8

    def work(number: int) -> None:
        while not stop.is_set():
            key = f"thread{number}-{reads[number] % 20}"
            with pool.reserve() as mc:
                assert mc.set(key, key)
                assert mc.get(key) == key
            reads[number] += 1

    def change() -> None:
        for round in range(60):
            reached = sum(reads) + 20
            eventually(lambda: sum(reads) > reached)  # noqa: B023
            pool.set_servers(addresses(nodes)[: 1 + round % 3])
        stop.set()

    in_threads([lambda number=number: work(number) for number in range(8)] + [change])
    stats = pool.stats()
    assert (stats.in_use, stats.waiting, stats.failures) == (0, 0, 0)
    assert stats.size <= 4


def test_set_servers_needs_clients_that_know_their_options(mc: Client) -> None:
    pool = ClientPool(pylibmc.Client(mc.addresses), 1)
    with pytest.raises(TypeError, match=r"mcpool_wsgi\.Client"):
        pool.set_servers(mc.addresses)
    ours = ClientPool(mc, 1)
    bad: Any
    for bad in ("127.0.0.1", []):
        with pytest.raises((TypeError, ValueError)):
            ours.set_servers(bad)
    with ours.reserve() as client:
        assert client.set("still", "works")


def test_subclass_may_have_commands_and_parameters_of_its_own(nodes: list[Mortal]) -> None:
    class Own(Client):
        def __init__(self) -> None:
            super().__init__([node.address for node in nodes])

        def get_stats(self, *args: Any) -> Any:
            return dict(super().get_stats(*args))

    mc = Own()
    assert len(mc.get_stats()) == len(nodes)
    assert mc.flush_all()


PLACEMENTS: dict[str, dict[str, Any]] = {
    "default": {},
    "weighted": {"ketama_weighted": True},
    "weighted, without ketama": {"ketama": False, "ketama_weighted": True},
    "weighted, with a hash": {"ketama_weighted": True, "hash": "fnv1a_32"},
    "consistent weighted": {"distribution": "consistent weighted"},
    "weighted, then ketama spy": {
        "ketama_weighted": True,
        "distribution": "consistent ketama spy",
    },
    "modula": {"ketama": False},
}


@pytest.mark.parametrize("weights", [("", "", ""), (":1", ":1", ":1"), (":1", ":2", ":8")])
@pytest.mark.parametrize("behaviors", PLACEMENTS.values(), ids=list(PLACEMENTS))
def test_a_pool_and_a_child_look_for_a_key_where_its_master_does(
    behaviors: dict[str, Any], weights: tuple[str, ...]
) -> None:
    """libmemcached forgets in a clone that servers of one weight are weighted."""
    servers = [f"10.0.1.{number}:11211{weight}" for number, weight in enumerate(weights)]
    master = Client(servers, behaviors)

    def positions(mc: Any) -> list[int]:
        return [mc.hash(key) for key in KEYS]

    expected = positions(master)
    pool = ClientPool(master, 1)
    with pool.reserve() as mc:
        assert positions(mc) == expected
        mc.behaviors["cas"] = True
        assert positions(mc) == expected
    assert positions(PooledClient(pool)) == expected
    assert positions(master.clone().clone()) == expected

    def work() -> None:
        assert positions(master) == expected

    succeeds(in_child(work))


MANY = """
import sys
from mcpool_wsgi import Client, ClientPool

def servers(count, weight=""):
    return [f"10.0.1.{number}:11211" for number in range(1, count)] + [f"10.0.1.0:11211{weight}"]

for count in map(int, sys.argv[2:]):
    if sys.argv[1] == "the last one has a weight":
        mc = Client(servers(count, ":2"))
    elif sys.argv[1] == "set later":
        mc = Client(servers(count))
        mc.behaviors = {"ketama_weighted": True}
    elif sys.argv[1] == "spy":
        mc = Client(servers(count, ":2"), {"distribution": "consistent ketama spy"})
    else:
        mc = Client(servers(count), {"ketama_weighted": True})
    clones = [mc.clone(), mc.clone().clone()]
    with ClientPool(mc, 1).reserve() as lent:
        clones.append(lent)
        for number in range(100):
            assert {clone.hash(str(number)) for clone in clones} == {mc.hash(str(number))}
"""


@pytest.mark.parametrize(
    ("how", "counts"),
    [
        ("the last one has a weight", [7, 9, 11, 14, 22]),
        ("spy", [7, 9, 11, 17]),
        ("set later", [2, 3, 6]),
        ("set at first", [17, 20, 24, 40]),
    ],
)
def test_a_ring_of_many_weighted_servers_has_enough_memory(how: str, counts: list[int]) -> None:
    """libmemcached writes beyond its end, which ends the process sooner or later."""
    done = run_python(MANY, how, *map(str, counts), env={**os.environ, "MALLOC_CHECK_": "3"})
    assert (done.returncode, done.stderr) == (0, "")


WEIGHTED_LATER = """
from mcpool_wsgi import Client

def positions(mc):
    return [mc.hash(str(number)) for number in range(1000)]

def refuse(mc, behaviors):
    before = positions(mc)
    try:
        mc.behaviors = behaviors
    except ValueError as error:
        print(error)
    assert positions(mc) == before

servers = [f"10.0.1.{number}:11211" for number in range(7)]
for behaviors in ({"ketama_weighted": True}, {"distribution": "consistent weighted"}):
    refuse(Client(servers), behaviors)
    Client(servers, behaviors).behaviors = {**behaviors, "cas": True}

# libmemcached makes a weighted ring first, and then the other one.
for distribution in ("consistent", "consistent ketama"):
    behaviors = {"ketama_weighted": True, "distribution": distribution}
    refuse(Client(servers), behaviors)
    refuse(Client(servers, behaviors), behaviors)
    mc = Client(servers[:6])
    mc.behaviors = behaviors
    positions(mc)
"""


def test_a_ring_of_many_servers_cannot_become_weighted_later() -> None:
    done = run_python(WEIGHTED_LATER, env={**os.environ, "MALLOC_CHECK_": "3"})
    assert done.stdout.count("7 servers must have its weights from the start") == 6, done


@pytest.mark.parametrize("weight", ["", ":3"])
@pytest.mark.parametrize(
    "behaviors",
    [
        *PLACEMENTS.values(),
        {"hash": "crc"},
        {"distribution": "consistent"},
        {"distribution": "consistent ketama spy"},
        {"ketama_weighted": True, "distribution": "consistent ketama"},
        {"ketama_weighted": True, "distribution": "modula"},
        {"ketama_weighted": False},
    ],
)
def test_keys_of_many_servers_are_where_pylibmc_looks(
    behaviors: dict[str, Any], weight: str
) -> None:
    # pylibmc itself has enough memory if the first server has a weight.
    servers = [f"10.0.1.{number}:11211{weight if number < 3 else ''}" for number in range(9)]
    plain = pylibmc.Client(servers, {"ketama": True, **behaviors})
    mc = Client(servers, behaviors)
    assert [mc.hash(key) for key in KEYS] == [plain.hash(key) for key in KEYS]
