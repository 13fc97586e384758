"""PooledClient: every command reserves a client for its own length."""

from __future__ import annotations

import copy
import pickle
from typing import Any, Callable

import pylibmc
import pytest
from forking import FORKS, succeeds
from harness import Connections, eventually, in_threads

from mcpool_wsgi import Client, ClientPool, InvalidKey, PooledClient, PoolTimeout, ThreadMappedPool

Pools = [ClientPool, ThreadMappedPool]


@pytest.fixture
def pool(mc: Client) -> ClientPool:
    """One slot, so that a reservation of a second client fails at once."""
    return ClientPool(mc, 1, timeout=0)


# -- Without a request


def test_every_command_borrows_a_client_for_its_own_length(
    cache: PooledClient, pool: ClientPool
) -> None:
    assert cache.set("key", "value", time=60)
    assert cache.get("key") == "value"
    assert cache["key"] == "value"
    assert "key" in cache
    assert cache.set_multi({"a": 1, "b": 2}) == []
    assert cache.get_multi(["a", "b", "c"]) == {"a": 1, "b": 2}
    assert cache.incr("a") == 2
    assert cache.get("missing", "default") == "default"
    with pytest.raises(InvalidKey):
        cache.get("a b")
    assert pool.stats().in_use == 0
    assert pool.stats().reservations == 9


def test_cas_works_across_borrowed_clients(address: str) -> None:
    pool = ClientPool(Client([address], {"cas": True}), 2)
    cache = PooledClient(pool)
    cache.set("key", 1)
    value, cas = cache.gets("key")
    with pool.reserve() as first:  # so that the next command gets another connection
        assert cache.cas("key", value + 1, cas)
        assert first.get("key") == 2
    assert not cache.cas("key", 5, cas)


@pytest.mark.slow
@pytest.mark.parametrize("pool_class", Pools)
def test_threads_that_share_it_read_their_own_values(address: str, pool_class: Any) -> None:
    cache = PooledClient(pool_class.from_servers([address], 3))

    def work(number: int) -> None:
        for round_ in range(200):
            cache.set(f"key{number}", round_)
            assert cache.get(f"key{number}") == round_

    in_threads([lambda number=number: work(number) for number in range(8)])  # type: ignore[misc]


@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.servers
def test_it_can_be_made_and_used_before_a_fork(cache: PooledClient, fork: Any) -> None:
    cache.set("key", "value")

    def work() -> None:
        assert [cache.get("key") for _ in range(50)] == ["value"] * 50

    succeeds(fork(work))
    assert cache.get("key") == "value"


@pytest.mark.parametrize("pool_class", Pools)
def test_options_of_from_servers_are_used(address: str, pool_class: Any) -> None:
    pool = pool_class.from_servers(
        [address], 12, behaviors={"connect_timeout": 300}, fail_soft=True, timeout=2.0, name="mine"
    )
    assert pool.name == "mine"
    assert pool.master.behaviors["connect_timeout"] == 300
    with pool.reserve() as mc:
        assert mc.addresses == [address]
    with PooledClient.from_servers([address], n_slots=12, timeout=0.5) as cache:
        assert isinstance(cache.pool, ClientPool)
        assert cache.pool.stats().slots == 12
        assert cache.pool.timeout == 0.5
        assert cache.set("key", 1)
    with pytest.raises(RuntimeError, match="closed"):
        cache.get("key")


def test_wrong_options_are_errors_at_once(address: str, mc: Client) -> None:
    with pytest.raises(TypeError, match="pool of this package, not <"):
        PooledClient(pylibmc.ClientPool(mc, 2))
    with pytest.raises(TypeError, match=r"pool of mcpool_wsgi\.Client"):
        PooledClient(ClientPool(pylibmc.Client([address]), 2))
    with pytest.raises(ValueError, match="n_slots must be a positive number, not 0"):
        PooledClient.from_servers([address], 0)
    with pytest.raises(TypeError, match="fail_softly"):
        PooledClient.from_servers([address], 1, fail_softly=True)  # type: ignore[call-arg]


def test_it_works_once_its_pool_is_filled(mc: Client) -> None:
    pool = ClientPool(timeout=0)
    cache = PooledClient(pool)
    with pytest.raises(PoolTimeout, match="fill"):
        cache.get("key")
    with pytest.raises(RuntimeError, match="fill"):
        _ = cache.behaviors
    pool.fill(mc, 1)
    assert cache.set("key", 1)


def test_pool_that_is_filled_with_other_clients_later_is_an_error(address: str) -> None:
    pool = ClientPool()
    cache = PooledClient(pool)
    pool.fill(pylibmc.Client([address]), 1)
    with pytest.raises(TypeError, match=r"pool of mcpool_wsgi\.Client, .* <class 'pylibmc"):
        cache.get("key")
    assert pool.stats().in_use == 0


# -- What belongs to all who use the pool


def test_behaviors_are_read_only(cache: PooledClient) -> None:
    assert cache.behaviors["tcp_nodelay"] == 1
    changes: list[Callable[[], object]] = [
        lambda: cache.set_behaviors({"tcp_nodelay": 0}),
        lambda: setattr(cache, "behaviors", {"tcp_nodelay": 0}),
        lambda: cache.behaviors.update({"tcp_nodelay": 0}),
        lambda: cache.behaviors.__setitem__("tcp_nodelay", 0),
    ]
    for change in changes:
        with pytest.raises(TypeError, match=r"read-only.*behaviors=\{\.\.\.\}"):
            change()
    assert cache.behaviors["tcp_nodelay"] == 1


def test_on_connection_failure_belongs_to_the_client_of_the_pool() -> None:
    failures: list[str] = []
    mc = Client(["127.0.0.1:1"], fail_soft=True)
    mc.on_connection_failure = lambda: failures.append("failed")
    cache = PooledClient(ClientPool(mc, 1))
    assert cache.on_connection_failure is mc.on_connection_failure
    with pytest.raises(TypeError, match="before ClientPool"):
        cache.on_connection_failure = failures.clear
    assert cache.get("key") is None
    assert failures == ["failed"]
    cache.pool.set_servers(["127.0.0.1:2"])  # as a discovery does
    assert cache.on_connection_failure is mc.on_connection_failure
    assert cache.get("key") is None
    assert failures == ["failed", "failed"]


def test_options_are_shown_while_all_slots_are_in_use(
    cache: PooledClient, pool: ClientPool, address: str
) -> None:
    with pool.reserve():
        assert cache.addresses == [address]
        assert cache.binary is False
        assert cache.hash("key") == Client([address]).hash("key")
        assert cache.behaviors["connect_timeout"] == 500
    assert repr(cache) == f"PooledClient({pool!r})"


def test_a_clone_uses_the_same_pool(cache: PooledClient, pool: ClientPool) -> None:
    clone = cache.clone()
    assert clone.set("key", 1)
    assert clone.pool is pool
    clone.close()  # somebody else has made the pool
    assert cache.get("key") == 1


def test_close_leaves_a_pool_open_that_somebody_else_has_made(
    address: str, pool: ClientPool
) -> None:
    with PooledClient(pool) as cache:
        assert cache.set("key", 1)
    assert cache.get("key") == 1
    with PooledClient.from_servers([address], 1) as cache:
        cache.clone().close()
        assert cache.get("key") == 1


def test_a_clone_of_a_subclass_is_like_it(pool: ClientPool) -> None:
    """As with pylibmc.Client, __init__ is not called again."""

    class Prefixed(PooledClient):
        def __init__(self, pool: ClientPool, prefix: str) -> None:
            super().__init__(pool)
            self.prefix = prefix

        def get(self, key: Any, default: Any = None) -> Any:
            return super().get(self.prefix + key, default)

    clone = Prefixed(pool, "mine:").clone()
    clone.set("mine:key", 1)
    assert clone.get("key") == 1


def test_disconnect_all_closes_the_connections_of_the_pool(
    mc: Client, connections: Connections
) -> None:
    pool = ClientPool(mc, 3)
    cache = PooledClient(pool)
    with pool.reserve() as one, pool.reserve() as other:
        one.set("key", 1)
        other.set("key", 1)
        assert connections.count() == 2
    cache.disconnect_all()
    eventually(lambda: connections.count() == 0)
    assert cache.get("key") == 1


def test_it_is_not_pickled(cache: PooledClient) -> None:
    for refused in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="connections belong to this process"):
            refused(cache)


def test_methods_of_a_subclass_are_there(address: str) -> None:
    class Mine(Client):
        def get_twice(self, key: str) -> list[Any]:
            return [self.get(key), self.get(key)]

        def _get_once(self, key: str) -> Any:
            return self.get(key)

    cache: Any = PooledClient(ClientPool(Mine([address]), 1))
    cache.set("key", 1)
    assert cache.get_twice("key") == [1, 1]
    for name in ("get_thrice", "_get_once"):
        with pytest.raises(AttributeError, match=f"'PooledClient' .* no attribute '{name}'"):
            getattr(cache, name)


@pytest.mark.parametrize("kind", ["lent", "lazy", "pooled"])
def test_error_of_a_subclass_can_be_caught(address: str, kind: str) -> None:
    class Mine(Client):
        class Locked(Exception):
            pass

        def lock(self, key: str) -> None:
            raise self.Locked(key)

    pool = ClientPool(Mine([address]), 1)
    with PooledClient(pool) if kind == "pooled" else pool.reserve(lazy=kind == "lazy") as found:
        mc: Any = found
        assert mc.Locked is Mine.Locked
        with pytest.raises(mc.Locked, match="key"):
            mc.lock("key")


@pytest.mark.parametrize("name", ["observe", "with_servers"])
def test_it_has_no_method_that_a_borrowed_client_has_not(cache: PooledClient, name: str) -> None:
    assert not hasattr(cache, name)
