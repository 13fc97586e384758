"""Lent clients: what they have of their client, and that their release is final."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import TYPE_CHECKING, Any, Callable

import pylibmc
import pytest
from harness import in_thread, use

from mcpool_wsgi import (
    Client,
    ClientPool,
    ClientReleased,
    MemcachedPoolMiddleware,
    PooledClient,
    ThreadMappedPool,
)

if TYPE_CHECKING:
    from typing_extensions import assert_type


def test_reservation_is_no_decorator(either_pool: Any) -> None:
    """With pylibmc it is one by chance, and the function does not get the client."""
    with pytest.raises(TypeError, match="not callable"):
        either_pool.reserve()(use)


def test_lent_client_takes_parameters_by_name(mc: Client) -> None:
    with ClientPool(mc, 1).reserve() as lent:
        assert lent.set(key="count", val=1, time=60)
        assert lent.incr("count", delta=2) == 3
        assert lent.get(key="missing", default="nothing") == "nothing"


@pytest.mark.parametrize("kind", [ClientPool.reserve, PooledClient])
def test_method_of_a_subclass_that_returns_its_client_gives_nobody_the_connection(
    address: str, kind: Any
) -> None:
    class Chained(Client):
        def remember(self, key: str) -> Chained:
            self.set(key, "value")
            return self

    pool = ClientPool(Chained([address]), 1)
    with kind(pool) as mc:
        assert mc.remember("a").remember("b") is mc
        assert mc.get_multi(["a", "b"]) == {"a": "value", "b": "value"}
    in_a_request = PooledClient(pool)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        assert environ["mc.client"].remember("a") is environ["mc.client"]
        assert in_a_request.remember("a") is in_a_request
        return []

    MemcachedPoolMiddleware(app, pool)({}, lambda *_: lambda _: None).close()  # type: ignore


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
        for kept in (greet, inspect.unwrap(greet)):
            with pytest.raises(ClientReleased):
                kept()


@pytest.mark.parametrize("lazy", [False, True])
def test_lent_client_of_a_subclass_observes_no_other_reservation(mc: Client, lazy: bool) -> None:
    class Mine(Client):
        pass

    pool = ClientPool(Mine(mc.addresses), 1)
    with pool.reserve(lazy=lazy) as lent, pytest.raises(AttributeError, match="'observe'"):
        lent.observe(print)  # type: ignore[misc]


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


def test_reservation_ends_when_another_thread_releases_it(either_pool: Any) -> None:
    lent = either_pool.reserve()
    lent.__enter__()
    in_thread(lent.release)
    assert (either_pool.stats().in_use, either_pool.stats().idle) == (0, 1)
    use(either_pool)
    assert either_pool.stats().clients_made == 1


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


@pytest.mark.parametrize("lazy", [False, True])
def test_hash_of_a_subclass_has_parameters_of_its_own(mc: Client, lazy: bool) -> None:
    class Own(Client):
        def hash(self, key: Any, replica: int = 0) -> int:
            return super().hash(key) + replica

    with ClientPool(Own(mc.addresses), 1).reserve(lazy=lazy) as lent:
        assert lent.hash("key", 3) == lent.hash("key", replica=3) == 3  # type: ignore[call-arg]
