"""PooledClient: every command reserves a client, or uses the one of the running request."""

from __future__ import annotations

import contextvars
import copy
import functools
import gc
import io
import pickle
import threading
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Callable
from wsgiref.util import FileWrapper

import greenlet
import pylibmc
import pytest
from apps import generating, request, serve
from forking import FORKS, succeeds
from harness import Connections, eventually, in_thread, in_threads, no_collection
from interrupts import INTERRUPTS, SignalHandler, interrupted_everywhere, tracing

from mcpool_wsgi import (
    Client,
    ClientPool,
    ClientReleased,
    InvalidKey,
    MemcachedPoolMiddleware,
    PooledClient,
    PoolTimeout,
    ThreadMappedPool,
    get_client,
    pooled,
)
from mcpool_wsgi.pool import request_client

Pools = [ClientPool, ThreadMappedPool]


@pytest.fixture
def pool(mc: Client) -> ClientPool:
    """One slot, so that whoever needs a second client fails at once."""
    return ClientPool(mc, 1, timeout=0)


@pytest.fixture
def cache(pool: ClientPool) -> PooledClient:
    return PooledClient(pool)


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
def test_threads_share_it(address: str, pool_class: Any) -> None:
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
def test_from_servers(address: str, pool_class: Any) -> None:
    pool = pool_class.from_servers(
        [address],
        12,
        behaviors={"connect_timeout": 300},
        fail_soft=True,
        timeout=2.0,
        name="mine",
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


def test_a_pool_that_is_filled_later(mc: Client) -> None:
    pool = ClientPool(timeout=0)
    cache = PooledClient(pool)
    with pytest.raises(PoolTimeout, match="fill"):
        cache.get("key")
    with pytest.raises(RuntimeError, match="fill"):
        _ = cache.behaviors
    pool.fill(mc, 1)
    assert cache.set("key", 1)


def test_a_pool_that_is_filled_with_other_clients_later(address: str) -> None:
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


def test_what_is_known_without_a_connection(
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


# -- In a request


@pytest.mark.parametrize("lazy", [False, True])
def test_request_uses_its_own_client(pool: ClientPool, cache: PooledClient, lazy: bool) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        cache.set("key", val="value")
        assert pool.stats().in_use == 1
        return [get_client(environ).get("key").encode()]

    wrapped = MemcachedPoolMiddleware(app, pool, lazy=lazy)
    assert serve(wrapped) == [b"value"]
    assert pool.stats().reservations == 1
    assert cache.get("key") == "value"  # afterwards it borrows again


def test_request_uses_its_own_client_if_a_subclass_of_the_pool_reserves_it(mc: Client) -> None:
    class Noting(ClientPool):
        reserved = 0

        @contextmanager
        def reserve(self, *args: Any, **options: Any) -> Iterator[Any]:  # type: ignore[override]
            with super().reserve(*args, **options) as client:
                self.reserved += 1
                yield client

    pool = Noting(mc, 1, timeout=0)
    cache = PooledClient(pool)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        cache.set("key", 1)
        return [b"%d" % get_client(environ).get("key")]

    assert serve(MemcachedPoolMiddleware(app, pool)) == [b"1"]
    assert pool.reserved == 1


def test_as_many_threads_as_slots_never_wait(mc: Client) -> None:
    pool = ClientPool(mc, 12, timeout=0)
    cache = PooledClient(pool)
    meeting = threading.Barrier(12)

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        meeting.wait(10)  # each has a client
        for number in range(20):
            assert cache.set(f"key{threading.get_ident()}", number)
            yield str(cache.get(f"key{threading.get_ident()}")).encode()

    wrapped = MemcachedPoolMiddleware(app, pool)
    in_threads([lambda: serve(wrapped)] * 12)
    assert pool.stats().waits == 0


@pytest.mark.parametrize("pool_class", [ClientPool, ThreadMappedPool])
def test_request_that_makes_the_first_one_uses_its_own_client(mc: Client, pool_class: Any) -> None:
    pool = pool_class(mc, 1) if pool_class is ClientPool else pool_class(mc)

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        cache = PooledClient(pool)
        cache.set("key", "value")
        yield cache.get("key").encode()
        yield str(pool.stats().reservations).encode()

    wrapped = MemcachedPoolMiddleware(app, pool)
    assert serve(wrapped) == [b"value", b"1"]
    assert serve(wrapped) == [b"value", b"2"]
    assert PooledClient(pool).get("key") == "value"
    assert pool.stats().reservations == 3


def test_requests_that_run_when_the_first_one_is_made_use_their_own_clients(mc: Client) -> None:
    pool = ClientPool(mc, 12, timeout=0)
    meeting = threading.Barrier(12)

    @functools.lru_cache
    def cache() -> PooledClient:
        return PooledClient(pool)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        meeting.wait(10)
        for number in range(20):
            assert cache().set(f"key{threading.get_ident()}", number)
        meeting.wait(10)
        return []

    wrapped = MemcachedPoolMiddleware(app, pool)
    in_threads([lambda: serve(wrapped)] * 12)
    assert pool.stats().waits == 0
    assert pool.stats().in_use == 0


def test_requests_that_end_do_not_make_others_forget_their_clients(mc: Client) -> None:
    def ended() -> None:
        """While one thread looks at this request, another one forgets it."""
        requests[:] = requests[1:]

    pool = ClientPool(mc, 2, timeout=0)
    requests: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        PooledClient(pool)
        requests[:] = [(0, ended), *(pool._early_requests or ())]
        pool._early_requests = requests
        assert request_client(pool) is get_client(environ)
        assert request_client(pool) is get_client(environ)
        return []

    serve(MemcachedPoolMiddleware(app, pool))


@pytest.mark.parametrize("lazy", [False, True])
def test_interleaved_requests_use_their_own_clients_from_the_first_one_on(
    mc: Client, lazy: bool
) -> None:
    """Their namespaces would show it."""
    pool = ClientPool(mc, 2, timeout=0)

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        get_client(environ).behaviors = {"namespace": environ["PATH_INFO"]}
        get_client(environ).set("key", environ["PATH_INFO"])
        yield b""
        cache = PooledClient(pool)
        yield b""
        yield cache.get("key").encode()

    wrapped = MemcachedPoolMiddleware(app, pool, lazy=lazy)
    streams: list[Any] = [request(wrapped, {"PATH_INFO": path}) for path in ("one", "two")]
    chunks = [list(each) for each in zip(*map(iter, streams))]
    assert chunks[-1] == [b"one", b"two"]
    for stream in streams:
        stream.close()
    assert pool.stats().reservations == 2


def test_threads_that_reserved_for_the_first_requests_borrow_clients_of_their_own(
    mc: Client,
) -> None:
    pool = ClientPool(mc, 2, timeout=0)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with ThreadPoolExecutor(1) as executor:
            client = get_client(environ)
            executor.submit(client.set_behaviors, {"namespace": "mine:"}).result(10)
            client.set("key", "mine")
            cache = PooledClient(pool)
            assert cache.get("key") == "mine"
            assert executor.submit(cache.get, "key").result(10) is None
        return []

    serve(MemcachedPoolMiddleware(app, pool, lazy=True))
    assert pool.stats().in_use == 0


def test_request_in_a_request_uses_its_own_client_too(mc: Client) -> None:
    pool = ClientPool(mc, 2, timeout=0)

    def inner(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        PooledClient(pool).set("key", "value")
        return [repr(request_client(pool) is get_client(environ)).encode()]

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        found = serve(wrapped_inner)
        assert request_client(pool) is get_client(environ)
        return found

    wrapped_inner = MemcachedPoolMiddleware(inner, pool)
    assert serve(MemcachedPoolMiddleware(app, pool)) == [b"True"]


def test_clients_that_are_made_often_cost_no_memory(pool: ClientPool) -> None:
    for _ in range(100):
        PooledClient(pool)
    assert pool._tells_requests == [True]


class Closing:
    """A response whose length is known, and whose ``close()`` uses the cache."""

    def __init__(self, cache: PooledClient) -> None:
        self.cache = cache

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[bytes]:
        yield self.cache.get("key").encode()

    def close(self) -> None:
        self.cache.set("closed", True)


def test_stream_and_close_use_the_client_of_the_request(
    pool: ClientPool, cache: PooledClient
) -> None:
    cache.set("key", "value")
    app = MemcachedPoolMiddleware(lambda environ, start_response: Closing(cache), pool)
    response = request(app, {})
    assert len(response) == 1
    assert list(response) == [b"value"]
    response.close()
    assert cache.get("closed") == 1


@pytest.mark.parametrize("wrapped", [False, True])
def test_response_is_asked_for_its_iterator_at_once(
    pool: ClientPool, cache: PooledClient, wrapped: bool
) -> None:
    """Not at the first chunk: a server may send its headers between the two."""

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        return environ["wsgi.file_wrapper"](object()) if wrapped else object()

    environ: dict[str, Any] = {"wsgi.file_wrapper": lambda file: file}
    response = request(MemcachedPoolMiddleware(app, pool), environ)
    with pytest.raises(TypeError, match="'object' object is not iterable"):
        iter(response)
    response.close()
    assert pool.stats().in_use == 0


def test_server_is_in_no_request_between_the_chunks_of_a_stream(
    pool: ClientPool, cache: PooledClient
) -> None:
    response = request(MemcachedPoolMiddleware(generating(b"one", b"two"), pool))
    chunks = iter(response)
    for chunk in (b"one", b"two"):
        assert next(chunks) == chunk
        with pytest.raises(PoolTimeout):
            cache.get("key")
    response.close()
    assert cache.get("key") is None


def test_inner_of_two_middlewares_whose_client_is_released_uses_that_of_the_outer_one(
    mc: Client,
) -> None:
    pool = ClientPool(mc, 2, timeout=0)
    cache = PooledClient(pool)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["mc.client.release"]()
        with pool.reserve():
            cache.set("key", "value")
            return [cache.get("key").encode()]

    inner = MemcachedPoolMiddleware(app, pool)
    outer = MemcachedPoolMiddleware(inner, pool, environ_key="mc.sessions")
    assert serve(outer) == [b"value"]
    assert pool.stats().reservations == 3


def test_interleaved_streams_use_their_own_clients(mc: Client) -> None:
    """As on bjoern, where one thread serves all requests."""
    pool = ClientPool(mc, 2, timeout=0)
    cache = PooledClient(pool)

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        get_client(environ).behaviors = {"namespace": environ["PATH_INFO"]}
        for _ in range(3):
            cache.set("key", environ["PATH_INFO"])
            yield b""
            yield cache.get("key").encode()

    wrapped = MemcachedPoolMiddleware(app, pool)
    responses = [request(wrapped, {"PATH_INFO": path}) for path in "ab"]
    chunks = list(zip(*responses))
    assert chunks == [(b"", b""), (b"a", b"b")] * 3
    for response in responses:
        response.close()
    assert pool.stats().in_use == 0


def test_nested_requests_use_their_own_clients(mc: Client, address: str) -> None:
    """A subrequest in a stream, behind another pool and then behind the same one again."""
    prefixed = Client([address], {"namespace": "outer:"})
    outer_pool, inner_pool = ClientPool(prefixed, 1, timeout=0), ClientPool(mc, 2, timeout=0)
    outer, inner = PooledClient(outer_pool), PooledClient(inner_pool)

    def inner_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        inner.set("key", "1")
        yield outer.get("key", "nothing").encode()

    inner_wrapped = MemcachedPoolMiddleware(inner_app, inner_pool, environ_key="inner")

    def outer_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        outer.set("key", "2")
        yield from serve(inner_wrapped, environ)
        yield outer.get("key", "nothing").encode()

    assert serve(MemcachedPoolMiddleware(outer_app, outer_pool)) == [b"2", b"2"]
    assert mc.get("key") == "1"
    assert inner_pool.stats().reservations == outer_pool.stats().reservations == 1


def test_greenlets_use_their_own_clients(mc: Client) -> None:
    pool = ClientPool(mc, 2, timeout=0)
    cache = PooledClient(pool)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        get_client(environ).behaviors = {"namespace": environ["PATH_INFO"]}
        cache.set("key", environ["PATH_INFO"])
        greenlet.getcurrent().parent.switch()
        return [cache.get("key").encode()]

    wrapped = MemcachedPoolMiddleware(app, pool)
    greenlets = [
        greenlet.greenlet(lambda path=p: serve(wrapped, {"PATH_INFO": path})) for p in "ab"
    ]
    for one in greenlets:
        one.switch()
    assert [one.switch() for one in greenlets] == [[b"a"], [b"b"]]
    assert pool.stats().reservations == 2


def test_thread_of_a_request_borrows_a_client_of_its_own(mc: Client) -> None:
    pool = ClientPool(mc, 2, timeout=0)
    cache = PooledClient(pool)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        get_client(environ).set("key", "value")
        in_thread(lambda: cache.get("key"))
        return [b""]

    serve(MemcachedPoolMiddleware(app, pool))
    assert pool.stats().reservations == 2


def test_what_outlives_its_request_borrows_again(pool: ClientPool, cache: PooledClient) -> None:
    """A task that the request has left behind, with the request's context."""
    left: list[contextvars.Context] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        cache.set("key", "value")
        left.append(contextvars.copy_context())
        return [b""]

    serve(MemcachedPoolMiddleware(app, pool))
    in_thread(lambda: left[0].run(cache.get, "key"))
    assert pool.stats().reservations == 2


@pytest.mark.servers
@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("early", [False, True])
def test_child_of_a_request_borrows_a_client_of_its_own(
    mc: Client, fork: Any, lazy: bool, early: bool
) -> None:
    """A worker of a pool of processes outlives the request that started it, with its frames.

    The namespace of that request would be in all that the worker does.
    """
    pool = ClientPool(mc, 1)
    caches = [] if early else [PooledClient(pool)]
    mc.set("key", "without a namespace")

    def work() -> None:
        assert caches[0].get("key") == "without a namespace"
        stats = pool.stats()
        assert (stats.reservations, stats.in_use) == (1, 0)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        get_client(environ).behaviors = {"namespace": "mine:"}
        caches[:] = caches or [PooledClient(pool)]
        caches[0].set("key", "mine")
        succeeds(fork(work))
        return [caches[0].get("key").encode()]

    assert serve(MemcachedPoolMiddleware(app, pool, lazy=lazy)) == [b"mine"]
    assert pool.stats().reservations == 1


@pytest.mark.servers
@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.parametrize("lazy", [False, True])
def test_request_of_a_child_uses_its_own_client(mc: Client, fork: Any, lazy: bool) -> None:
    pool = ClientPool(mc, 1, timeout=0)
    cache = PooledClient(pool)

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        cache.set("key", "value")
        yield cache.get("key").encode()

    wrapped = MemcachedPoolMiddleware(app, pool, lazy=lazy)

    def work() -> None:
        assert serve(wrapped) == [b"value"]
        assert pool.stats().reservations == 1

    assert serve(wrapped) == [b"value"]
    succeeds(fork(work))


def test_client_of_a_request_that_has_ended_is_freed(
    pool: ClientPool, cache: PooledClient
) -> None:
    clients = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        clients.append(weakref.ref(get_client(environ)))
        yield cache.get("key", "nothing").encode()

    assert serve(MemcachedPoolMiddleware(app, pool)) == [b"nothing"]
    assert clients[0]() is None


def test_after_an_early_release_it_borrows_again(pool: ClientPool, cache: PooledClient) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["mc.client.release"]()
        cache.set("key", "value")
        return [cache.get("key").encode()]

    assert serve(MemcachedPoolMiddleware(app, pool)) == [b"value"]
    assert pool.stats().reservations == 3


@tracing
@pytest.mark.parametrize("error", INTERRUPTS)
@pytest.mark.parametrize("options", [{}, {"lazy": True}, {"server_timing": True}])
def test_interrupted_request_leaves_no_client_in_the_context(
    pool: ClientPool, cache: PooledClient, error: type[BaseException], options: dict[str, Any]
) -> None:
    """The context of a thread lives as long as the thread, and would keep the slot as long."""
    kept: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        yield str(cache.get("key")).encode()

    wrapped = MemcachedPoolMiddleware(app, pool, **options)

    def serve_a_part() -> None:
        kept.append(request(wrapped, {}))
        kept.append(iter(kept[0]))
        next(kept[1])

    def check() -> None:
        kept.clear()  # the server drops the response
        assert request_client(pool) is None
        # If the interrupt came at the end of an except block, an error and a frame can be in a
        # circle. When the watchdog wakes by itself, a command has such a block.
        if pool.stats().in_use:
            gc.collect()
        assert pool.stats().in_use == 0

    assert interrupted_everywhere(error, serve_a_part, check) > 50
    check()


def test_signal_handler_can_use_the_lazy_client_that_is_just_reserved(mc: Client) -> None:
    pool = ClientPool(mc, 2)
    cache = PooledClient(pool)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        return [str(get_client(environ).get("key", "missing")).encode()]

    wrapped = MemcachedPoolMiddleware(app, pool, lazy=True)
    at = 0
    with no_collection():
        while True:
            at += 1
            with SignalHandler(lambda: cache.get("another"), at) as handler:
                assert serve(wrapped) == [b"missing"]
            if handler.left > 0:
                break
            assert pool.stats().in_use == 0
    assert at > 50


def test_pool_that_is_filled_with_other_clients_later_serves_requests() -> None:
    """Nobody can be told of such a client."""

    class SlottedClient:
        __slots__ = ()

        def clone(self) -> SlottedClient:
            return SlottedClient()

    pool = ClientPool()
    PooledClient(pool)
    pool.fill(SlottedClient(), 1)
    assert serve(MemcachedPoolMiddleware(lambda *_: [b"chunk"], pool)) == [b"chunk"]


def test_release_between_the_look_and_the_command_makes_it_borrow(
    pool: ClientPool, cache: PooledClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by another thread of the request."""

    def look_and_release(pool: Any) -> Any:
        client = request_client(pool)
        assert client is not None
        client.release()
        return client

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        monkeypatch.setattr(pooled, "request_client", look_and_release)
        return [cache.get("key", "nothing").encode()]

    assert serve(MemcachedPoolMiddleware(app, pool)) == [b"nothing"]
    assert pool.stats().reservations == 2


def test_error_of_code_inside_a_command_is_not_taken_for_a_release(
    pool: ClientPool, cache: PooledClient
) -> None:
    """The command would run again, with what is left of its keys."""
    with pool.reserve() as released:
        released.set("key", 1)

    def keys() -> Iterator[str]:
        yield "key"
        released.get("another")

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with pytest.raises(ClientReleased):
            cache.get_multi(keys())
        return []

    serve(MemcachedPoolMiddleware(app, pool))
    assert pool.stats().reservations == 2


def test_file_stays_a_file(pool: ClientPool, cache: PooledClient) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(b"file"))
        return wrapped

    environ = {"wsgi.file_wrapper": FileWrapper}
    response = request(MemcachedPoolMiddleware(app, pool), environ)
    assert isinstance(response, FileWrapper)
    assert response.filelike.closed is False
    response.close()
    assert pool.stats().in_use == 0


class CachedFile:
    """A file whose content comes from a cache, and whose ``close()`` uses it."""

    def __init__(self, cache: PooledClient) -> None:
        self.cache = cache
        self.content = [b"", b"file"]

    def read(self, size: int) -> bytes:
        assert self.cache.set("read", size)
        return self.content.pop()

    def __iter__(self) -> Iterator[bytes]:
        assert self.cache.set("read", True)
        yield self.read(0)

    def close(self) -> None:
        assert self.cache.set("closed", True)


@pytest.mark.parametrize("options", [{}, {"lazy": True}, {"server_timing": True}])
@pytest.mark.parametrize("wrapper", [FileWrapper, lambda file, *_: file])
def test_file_is_read_and_closed_with_the_client_of_the_request(
    pool: ClientPool, cache: PooledClient, wrapper: Any, options: dict[str, Any]
) -> None:
    """Django sends ``request_finished`` when the server closes such a file."""

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](CachedFile(cache))
        return wrapped

    wrapped = MemcachedPoolMiddleware(app, pool, **options)
    assert serve(wrapped, {"wsgi.file_wrapper": wrapper}) == [b"file"]
    assert pool.stats().reservations == 1
    assert cache.get_multi(["read", "closed"]).keys() == {"read", "closed"}
    assert pool.stats().in_use == 0


@pytest.mark.parametrize("name", ["observe", "with_servers"])
def test_it_has_no_method_that_a_borrowed_client_has_not(cache: PooledClient, name: str) -> None:
    assert not hasattr(cache, name)
