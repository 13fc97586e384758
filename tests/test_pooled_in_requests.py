"""PooledClient in a request: it uses the client of the request, and borrows one elsewhere."""

from __future__ import annotations

import contextvars
import functools
import gc
import io
import threading
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from wsgiref.util import FileWrapper

import greenlet
import pytest
from apps import generating, request, serve
from forking import FORKS, succeeds
from harness import in_thread, in_threads, no_collection
from interrupts import INTERRUPTS, SignalHandler, interrupted_everywhere, tracing

from mcpool_wsgi import (
    Client,
    ClientPool,
    ClientReleased,
    MemcachedPoolMiddleware,
    PooledClient,
    PoolTimeout,
    ThreadMappedPool,
    get_client,
    pooled,
)
from mcpool_wsgi.pool import request_client


@pytest.fixture
def pool(mc: Client) -> ClientPool:
    """One slot, so that a reservation of a second client fails at once."""
    return ClientPool(mc, 1, timeout=0)


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


class Delegating:
    """A pool of somebody else, which has one of ours."""

    def __init__(self, pool: ClientPool) -> None:
        self.pool = pool

    def reserve(self) -> Any:
        return self.pool.reserve()


class DelegatingInABlock(Delegating):
    @contextmanager
    def reserve(self) -> Iterator[Any]:
        with self.pool.reserve() as client:
            yield client


@pytest.mark.parametrize("wrapper", [Delegating, DelegatingInABlock])
def test_request_uses_its_own_client_if_a_pool_of_somebody_else_reserves_it(
    mc: Client, wrapper: type[Delegating]
) -> None:
    pool = ClientPool(mc, 1, timeout=0)
    cache = PooledClient(pool)

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        cache.set("key", 1)
        yield b"%d" % get_client(environ).get("key")
        environ["mc.client.release"]()
        yield b"%d" % cache.get("key")

    assert serve(MemcachedPoolMiddleware(app, wrapper(pool))) == [b"1", b"1"]
    assert pool.stats().in_use == 0


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


def test_request_uses_its_own_client_if_one_inside_it_makes_the_first_one(mc: Client) -> None:
    pool = ClientPool(mc, 2)
    made: list[PooledClient] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if "inner" in environ:
            made.append(PooledClient(pool))
        else:
            environ["inner"] = True
            serve(wrapped, environ)
        made[0].set("key", "value")
        return [str(pool.stats().reservations).encode()]

    wrapped = MemcachedPoolMiddleware(app, pool)
    assert serve(wrapped) == [b"2"]


@pytest.mark.slow
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
        requests[:] = [(0, ended), *(pool._untold_requests or ())]
        pool._untold_requests = requests
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


def test_task_that_outlives_its_request_borrows_again(
    pool: ClientPool, cache: PooledClient
) -> None:
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


@pytest.mark.slow
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


@pytest.mark.slow
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
