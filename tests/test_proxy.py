"""twemproxy between clients and memcacheds, with the configuration of the page on scale."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

import pylibmc
import pytest
from harness import Connections, eventually, in_threads
from mortal import Mortal
from proxied import proxy
from reader import Reader, blocks_of_page

from mcpool_wsgi import Client, ClientPool, ThreadMappedPool

pytestmark = pytest.mark.servers

PAGE = Path(__file__).parent.parent / "docs" / "how-to" / "scale.md"
KEYS = [f"key{number}" for number in range(300)]


@pytest.fixture
def address(nodes: list[Mortal], tmp_path: Path) -> Iterator[str]:
    """The proxy in front of *nodes*."""
    with proxy(tmp_path, addresses(nodes)) as address:
        yield address


def addresses(nodes: list[Mortal]) -> list[str]:
    return [node.address for node in nodes]


# -- Many connections become few


@pytest.mark.parametrize("pool_class", [ClientPool, ThreadMappedPool])
def test_many_clients_are_one_connection_at_each_memcached(
    nodes: list[Mortal], address: str, pool_class: Any
) -> None:
    watched = [Connections(node) for node in addresses(nodes)]
    master = Client([address])
    pool = ClientPool(master, 64) if pool_class is ClientPool else ThreadMappedPool(master)
    all_reserved = threading.Barrier(64)

    def work(number: int) -> None:
        with pool.reserve() as mc:
            all_reserved.wait(60)
            for key in KEYS[number::64]:
                assert mc.set(key, key)
            all_reserved.wait(60)
            assert mc.get_multi(KEYS) == {key: key for key in KEYS}
            all_reserved.wait(60)
            assert [each.count() for each in watched] == [1, 1, 1]
            all_reserved.wait(60)

    in_threads([lambda number=number: work(number) for number in range(64)])  # type: ignore[misc]
    assert pool.stats().clients_made == 64
    assert pool.stats().failures == 0


def test_clients_without_the_proxy_find_its_keys_with_ketama_weighted(
    nodes: list[Mortal], address: str
) -> None:
    Client([address]).set_multi({key: key for key in KEYS})
    direct = Client(addresses(nodes), {"ketama_weighted": True})
    assert direct.get_multi(KEYS) == {key: key for key in KEYS}
    assert 0 < len(Client(addresses(nodes)).get_multi(KEYS)) < len(KEYS)


# -- What goes through


def cas(mc: Client) -> Any:
    mc.behaviors = {"cas": True}
    _, unique = mc.gets("number")
    return unique is not None, mc.cas("number", 6, unique), mc.cas("number", 7, unique)


def gets(mc: Client) -> Any:
    mc.behaviors = {"cas": True}
    return mc.gets("number")[0]


def incr_multi(mc: Client) -> Any:
    mc.incr_multi(["number"])
    return mc.get("number")


#: What each command of the table does; ``text`` and ``number`` are stored before.
USES: dict[str, Callable[[Client], Any]] = {
    "get": lambda mc: (mc.get("text"), mc.get("missing"), mc.get("number")),
    "get_multi": lambda mc: mc.get_multi(["text", "missing", "number"]),
    "gets": gets,
    "set": lambda mc: (mc.set("key", ["pickled"]), mc.get("key")),
    "set_multi": lambda mc: (mc.set_multi(dict.fromkeys(KEYS, 1)), mc.get_multi(KEYS)),
    "add": lambda mc: (mc.add("text", "no"), mc.add("key", "yes"), mc.get("key")),
    "add_multi": lambda mc: (mc.add_multi({"text": "no", "key": "yes"}), mc.get("key")),
    "replace": lambda mc: (mc.replace("missing", 1), mc.replace("text", 1), mc.get("text")),
    "append": lambda mc: (mc.append("text", "!"), mc.get("text")),
    "prepend": lambda mc: (mc.prepend("text", "!"), mc.get("text")),
    "cas": cas,
    "delete": lambda mc: (mc.delete("text"), mc.delete("text"), mc.get("text")),
    "delete_multi": lambda mc: (mc.delete_multi(["text", "number"]), mc.get("text")),
    "incr": lambda mc: (mc.incr("number", 3), mc.get("number")),
    "incr_multi": incr_multi,
    "decr": lambda mc: (mc.decr("number"), mc.get("number")),
    "touch": lambda mc: (mc.touch("text", 100), mc.touch("missing", 100)),
    "flush_all": lambda mc: mc.flush_all(),
    "get_stats": lambda mc: len(mc.get_stats()),
    "binary=True": lambda mc: Client(mc.addresses, binary=True).get("text"),
}


def table_of_the_page() -> dict[str, str]:
    """What each command does, and what the page says of it."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition("## What goes through\n")
    rows = re.findall(r"^\| (`.+?) \| (.+?) \|$", section.partition("\n## ")[0], re.MULTILINE)
    return {name: said for names, said in rows for name in re.findall(r"`(.+?)`", names)}


def outcome(mc: Client, use: Callable[[Client], Any]) -> Any:
    assert mc.set_multi({"text": "text", "number": 5}) == []
    mc.delete_multi(["missing", "key"])
    try:
        return use(mc)
    except pylibmc.Error as error:
        return type(error).__name__


@pytest.mark.parametrize("name", USES)
def test_table_says_what_goes_through(
    nodes: list[Mortal], address: str, real_memcached: Any, name: str
) -> None:
    direct = outcome(Client([real_memcached.address]), USES[name])
    through = outcome(Client([address]), USES[name])
    said = table_of_the_page()[name]
    if said == "works":
        assert through == direct
    else:
        assert f"`{through}`" in said
        assert through != direct
    mc = Client([address])
    eventually(lambda: mc.set("key", "the proxy is still there"))


def test_table_has_all_commands() -> None:
    assert list(table_of_the_page()) == list(USES)
    helpers = {"clone", "deserialize", "disconnect_all", "get_behaviors", "hash", "serialize"}
    helpers.add("set_behaviors")
    commands = {
        name
        for name in dir(pylibmc.Client)
        if not name.startswith("_") and callable(getattr(pylibmc.Client, name))
    }
    assert commands - helpers - set(USES) == set()


# -- A memcached behind the proxy that dies


@pytest.mark.parametrize("soft", [True, False])
def test_no_value_is_wrong_while_a_memcached_dies_and_returns(
    nodes: list[Mortal], address: str, soft: bool
) -> None:
    pool = ClientPool(Client([address], fail_soft=soft), 8)
    over = threading.Event()
    rounds = [0] * 8

    def work(number: int) -> None:
        while not over.is_set():
            for key in KEYS[number::8]:
                with pool.reserve() as mc:
                    try:
                        assert mc.get(key) in (None, key)
                        found = mc.get_multi(KEYS[number::8])
                        assert all(found[name] == name for name in found)
                        mc.set(key, key)
                    except pylibmc.Error:
                        assert not soft
            rounds[number] += 1

    def several_rounds() -> None:
        reached = [count + 3 for count in rounds]
        eventually(lambda: all(now >= then for now, then in zip(rounds, reached)), deadline=40)

    def change() -> None:
        try:
            for _ in range(2):
                several_rounds()
                nodes[1].kill()
                several_rounds()
                nodes[1].start()
            several_rounds()
        finally:
            over.set()

    in_threads([*(lambda number=number: work(number) for number in range(8)), change])


def test_keys_of_a_dead_memcached_move_to_the_others(nodes: list[Mortal], address: str) -> None:
    mc = Client([address], fail_soft=True)
    assert mc.set_multi({key: key for key in KEYS}) == []
    lost = Client([nodes[1].address]).get_multi(KEYS)
    nodes[1].kill()
    eventually(lambda: mc.set_multi(dict.fromkeys(lost, "moved")) == [])
    assert mc.get_multi(KEYS) == {key: "moved" if key in lost else key for key in KEYS}


def test_dead_proxy_is_an_outage_that_ends_with_its_return(
    nodes: list[Mortal], tmp_path: Path
) -> None:
    with proxy(tmp_path, addresses(nodes)) as address:
        pool = ClientPool(Client([address], fail_soft=True), 4)
        with pool.reserve() as mc:
            assert mc.set("key", "value")
    with pool.reserve() as mc:
        assert mc.get("key") is None
        assert mc.set("key", "value") is False
    with proxy(tmp_path, addresses(nodes), address), pool.reserve() as mc:
        eventually(lambda: mc.get("key") == "value")


def test_code_of_the_page_runs(address: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        reader = Reader(str(PAGE), tmp_path, address, stack)
        reader.read([block for block in blocks_of_page(PAGE) if block.language == "python"])
