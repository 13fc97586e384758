"""More than one memcached: keys spread, a dead node is left out and comes back, servers change."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pylibmc
import pytest
from harness import eventually, in_threads
from test_recovery import Mortal

from mcpool_wsgi import Client, ClientPool, InvalidKey, ThreadMappedPool
from mcpool_wsgi.behaviors import SEVERAL_SERVERS_BEHAVIORS

pytestmark = pytest.mark.servers

KEYS = [f"key{number}" for number in range(300)]
QUICK = {"dead_timeout": 2}


@pytest.fixture
def nodes(server_kind: bool | None) -> Iterator[list[Mortal]]:
    with ExitStack() as running:
        servers = []
        for _ in range(3):
            servers.append(Mortal(server_kind))
            running.callback(servers[-1].kill)
        yield servers


def addresses(nodes: list[Mortal]) -> list[str]:
    return [node.address for node in nodes]


def whereabouts(nodes: list[Mortal]) -> dict[str, int]:
    """Which node has which key."""
    found = {}
    for number, node in enumerate(nodes):
        found.update(dict.fromkeys(Client([node.address]).get_multi(KEYS), number))
    return {str(key): number for key, number in found.items()}


def read(pool: Any) -> dict[str, Any]:
    """Every key, by a request of its own, and None for an error."""
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


def test_errors_of_a_dead_node_are_few(nodes: list[Mortal]) -> None:
    pool = ClientPool(Client(addresses(nodes)), 1)
    with pool.reserve() as mc:
        mc.set_multi({key: key for key in KEYS})
    nodes[2].kill()
    errors = 0
    for _ in range(3):
        for key in KEYS:
            with pool.reserve() as mc:
                try:
                    mc.get(key)
                except pylibmc.Error:
                    errors += 1
    assert 1 <= errors <= 4


# -- A dead cache does not take the site down


def test_fail_soft_answers_misses(mortal: Mortal) -> None:
    pool = ClientPool(Client([mortal.address], {"cas": True}, fail_soft=True), 1)
    with pool.reserve() as mc:
        mc["key"] = "value"
        assert mc.get("key") == "value"
        mortal.kill()
        mc.get("key")  # finds out
        for _ in range(2):
            assert mc.get("key") is None
            assert mc.get("key", "default") == mc.get("key", default="default") == "default"
            assert mc.gets("key") == (None, None)
            assert mc.get_multi(["key"]) == {}
            assert "key" not in mc
            with pytest.raises(KeyError):
                mc["key"]
            mc["key"] = "value"
            for write in (mc.set, mc.add, mc.replace, mc.append, mc.prepend):
                assert write("key", "value") is False
            assert mc.cas("key", "value", 1) is False
            assert mc.delete("key") is False
            assert mc.touch("key", 1) is False
            assert mc.incr("key") is False
            assert mc.decr("key") is False
            assert mc.set_multi({"key": 1, b"other": 2}, key_prefix="p") == ["key", b"other"]
            assert mc.add_multi({"key": 1}) == ["key"]
            mc.incr_multi(["key"])
            assert mc.delete_multi(["key"]) is False
            assert mc.flush_all() is False
            assert mc.get_stats() == []
    assert pool.stats().failures >= 30


def test_fail_soft_raises_what_the_caller_did_wrong(mc: Client) -> None:
    soft = Client(mc.addresses, fail_soft=True)
    with pytest.raises(InvalidKey):
        soft.get("a b")
    with pytest.raises(pylibmc.TooBig):
        soft.set("key", b"x" * (1 << 21))
    with pytest.raises(Exception, match=r"pickle|local object"):
        soft.set("key", lambda: None)
    with pytest.raises(pylibmc.NotFound):
        soft.incr("missing")
    soft.set("text", "no number")
    with pytest.raises(pylibmc.ClientError):
        soft.incr("text")


def test_without_fail_soft_an_outage_raises(mortal: Mortal) -> None:
    mc = Client([mortal.address])
    mortal.kill()
    with pytest.raises(pylibmc.Error):
        mc.get("key")
    mortal.start()


def test_outage_is_logged_once_a_spell(mortal: Mortal, caplog: pytest.LogCaptureFixture) -> None:
    pool = ClientPool(Client([mortal.address], fail_soft=True), 2)
    mortal.kill()
    for _ in range(100):
        with pool.reserve() as mc:
            mc.get("key")
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert [record.name.partition(".")[0] for record in warnings] == ["mcpool_wsgi"]
    assert "cannot reach memcached" in warnings[0].getMessage()
    assert pool.stats().failures >= 99


def test_timeouts_are_logged_once_a_spell(mc: Client, caplog: pytest.LogCaptureFixture) -> None:
    pool = ClientPool(mc, 1)
    with pool.reserve():
        for _ in range(20):
            with contextlib.suppress(Exception), pool.reserve(block=False):
                pass
    assert ["no client came free" in record.getMessage() for record in caplog.records] == [True]
    assert pool.stats().timeouts == 20


@pytest.fixture
def mortal(nodes: list[Mortal]) -> Mortal:
    return nodes[0]


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
            assert mc._fail_soft
        assert pool.stats().clients_renewed.keys() == {"servers"}
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


def _connections(mc: Client) -> int:
    ((_, stats),) = mc.get_stats()
    return int(stats["curr_connections"])


def test_set_servers_under_load(nodes: list[Mortal]) -> None:
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

    in_threads([lambda number=number: work(number) for number in range(8)] + [change])  # type: ignore[misc]
    stats = pool.stats()
    assert (stats.in_use, stats.waiting, stats.failures) == (0, 0, 0)
    assert stats.size <= 4


def test_set_servers_needs_clients_that_know_their_options(mc: Client) -> None:
    pool = ClientPool(pylibmc.Client(mc.addresses), 1)
    with pytest.raises(TypeError, match=r"mcpool_wsgi\.Client"):
        pool.set_servers(mc.addresses)
    ours = ClientPool(mc, 1)
    for bad in ("127.0.0.1", []):
        with pytest.raises((TypeError, pylibmc.Error)):
            ours.set_servers(bad)
    with ours.reserve() as client:
        assert client.set("still", "works")


# -- Through a proxy

NUTCRACKER = """
pool:
  listen: 127.0.0.1:{port}
  hash: md5
  distribution: ketama
  servers:
{servers}
"""


@pytest.mark.skipif(not shutil.which("nutcracker"), reason="needs nutcracker")
def test_pool_works_through_a_proxy(nodes: list[Mortal], tmp_path: Path) -> None:
    port = _free_port()
    servers = "\n".join(f"   - {address}:1" for address in addresses(nodes))
    config = tmp_path / "nutcracker.yml"
    config.write_text(NUTCRACKER.format(port=port, servers=servers))
    proxy = subprocess.Popen(
        ["nutcracker", "-c", str(config), "-s", str(_free_port()), "-a", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        pool = ClientPool(Client([f"127.0.0.1:{port}"], fail_soft=True), 4)
        eventually(lambda: _all_stored(pool))

        def work() -> None:
            assert read(pool) == {key: key for key in KEYS}

        in_threads([work] * 4)
        assert sorted(set(whereabouts(nodes).values())) == [0, 1, 2]
    finally:
        proxy.kill()
        proxy.wait()


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
