"""Other people's pools and clients behind the middleware."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import pylibmc
import pytest
from apps import (
    BlogPool,
    Closable,
    count_and_greet,
    raising,
    request,
    responding,
    serve,
    third_party_pools,
)
from harness import in_threads
from interrupts import interrupted_everywhere, tracing
from webtest import TestApp

from mcpool_wsgi import Client, ClientPool, ClientReleased, LentClient, MemcachedPoolMiddleware


def test_early_release_of_a_third_party_client_is_final_or_nothing(address: str) -> None:
    """Behind a middleware that drops the response and goes on with its iterator."""
    pool = BlogPool([pylibmc.Client([address])])

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        yield b"chunk"
        environ["mc.client.release"]()
        if "mc.client" in environ:
            assert len(pool) == 0
        yield b"chunk"

    def in_front(environ: dict[str, Any]) -> Iterator[bytes]:
        yield from request(MemcachedPoolMiddleware(app, pool), environ)

    assert list(in_front({})) == [b"chunk", b"chunk"]
    assert len(pool) == 1


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_early_release_takes_a_third_party_client_out_of_the_environ(
    address: str, is_wrapped: bool
) -> None:
    pool = BlogPool([pylibmc.Client([address])])

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if is_wrapped:
            environ["mc.client"] = {"the client of the request": environ["mc.client"]}
        environ["mc.client.release"]()
        assert "mc.client" not in environ
        assert len(pool) == 1
        environ["mc.client.release"]()
        return []

    environ: dict[str, Any] = {}
    request(MemcachedPoolMiddleware(app, pool), environ).close()
    assert environ == {}
    assert len(pool) == 1


def test_released_third_party_client_does_not_come_back_into_the_environ(mc: Client) -> None:
    outer_pool = BlogPool([mc.clone()])
    middleware = MemcachedPoolMiddleware(responding(Closable()), outer_pool)
    later = MemcachedPoolMiddleware(responding([]), ClientPool(mc, 2))
    environ: dict[str, Any] = {}
    response = request(middleware, environ)
    release = environ["mc.client.release"]
    later_response = request(later, environ)
    later_client = environ["mc.client"]
    last_response = request(later, environ)
    release()
    assert isinstance(environ["mc.client"], LentClient)
    last_response.close()
    assert environ["mc.client"] is later_client
    later_response.close()
    assert "mc.client" not in environ
    response.close()
    assert environ == {}


def test_app_does_not_close_with_a_released_third_party_client(mc: Client) -> None:
    seen = []

    class Response(Closable):
        def close(self) -> None:
            seen.append(environ.get("mc.client"))

    middleware = MemcachedPoolMiddleware(responding(Response()), BlogPool([mc.clone()]))
    later = MemcachedPoolMiddleware(responding([]), ClientPool(mc, 1))
    environ: dict[str, Any] = {}
    response = request(middleware, environ)
    environ["mc.client.release"]()
    later_response = request(later, environ)
    response.close()
    later_response.close()
    assert seen == [None]
    assert environ == {}


def test_second_release_of_a_third_party_client_leaves_the_next_request_alone(mc: Client) -> None:
    """The next request with the environ has the same client, because the pool has no other."""
    pool = BlogPool([mc.clone()])
    middleware = MemcachedPoolMiddleware(responding(Closable()), pool)
    environ: dict[str, Any] = {}
    first = request(middleware, environ)
    release = environ["mc.client.release"]
    release()
    second = request(middleware, environ)
    client = environ["mc.client"]
    release()
    assert environ["mc.client"] is client
    assert len(pool) == 0
    second.close()
    first.close()
    assert environ == {}
    assert len(pool) == 1


def test_release_of_a_third_party_client_leaves_a_request_alone_that_found_nothing(
    mc: Client,
) -> None:
    """The app has taken its client and the function out of the environ before."""
    environ: dict[str, Any] = {}
    app = responding(Closable())
    response = request(MemcachedPoolMiddleware(app, BlogPool([mc.clone()])), environ)
    del environ["mc.client"]
    release = environ.pop("mc.client.release")
    later_response = request(MemcachedPoolMiddleware(app, ClientPool(mc, 1)), environ)
    release()
    assert isinstance(environ["mc.client"], LentClient)
    later_response.close()
    response.close()
    assert environ == {}


def test_second_release_of_a_third_party_client_leaves_what_the_app_put_there(mc: Client) -> None:
    seen = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        environ["mc.client.release"]()
        environ["mc.client"] = "the app's own"
        environ["mc.client.release"]()
        seen.append(environ["mc.client"])
        return []

    environ: dict[str, Any] = {}
    request(MemcachedPoolMiddleware(app, BlogPool([mc.clone()])), environ).close()
    assert seen == ["the app's own"]
    assert environ == {}


def test_third_party_pools_are_driven_unchanged(address: str) -> None:
    for visits, pool in enumerate(third_party_pools(address)):
        app = TestApp(MemcachedPoolMiddleware(count_and_greet, pool))
        for visit in range(1, 4):
            assert app.get("/").text == f"visit {3 * visits + visit}"


class CountingPool(ClientPool):
    """A pool of this package, with a ``reserve()`` of its own."""

    reserved = 0

    @contextmanager
    def reserve(self, *args: Any, **kwargs: Any) -> Iterator[Any]:  # type: ignore[override]
        self.reserved += 1
        with super().reserve(*args, **kwargs) as mc:
            yield mc


@pytest.mark.parametrize("options", [{}, {"lazy": True}, {"lazy": True, "slow_after": 9}], ids=str)
def test_reserve_of_a_subclass_may_return_any_context_manager(
    mc: Client, options: dict[str, Any]
) -> None:
    pool = CountingPool(mc, 1)
    app = TestApp(MemcachedPoolMiddleware(count_and_greet, pool, **options))
    for visit in (1, 2):
        assert app.get("/").text == f"visit {visit}"
    assert (pool.reserved, pool.stats().in_use) == (2, 0)


def test_lazy_middleware_refuses_a_subclass_whose_reserve_cannot_be_lazy(mc: Client) -> None:
    class Plain(ClientPool):
        def reserve(self, block: bool = True, timeout: Any = None) -> Any:  # type: ignore[override]
            return super().reserve(block, timeout)

    pool = Plain(mc, 1)
    with pytest.raises(TypeError, match=r"a pool whose reserve\(\) takes it: .*'lazy'"):
        MemcachedPoolMiddleware(count_and_greet, pool, lazy=True)
    assert MemcachedPoolMiddleware(count_and_greet, pool)


def test_pool_around_a_pool_of_this_package_reserves_as_that_does(mc: Client) -> None:
    class Around:
        def reserve(self) -> Any:
            return pool.reserve()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        environ["mc.client.release"]()
        with pytest.raises(ClientReleased):
            environ["mc.client"].get("key")
        return count_and_greet({"mc.client": mc}, start_response)

    pool = ClientPool(mc, 1, timeout=600)
    wrapped = MemcachedPoolMiddleware(app, Around())
    environ = {"wsgi.multithread": False, "REQUEST_METHOD": "GET"}
    assert serve(wrapped, dict(environ)) == [b"visit 1"]
    with pool.reserve():  # nobody can release it while the only thread of the server waits
        assert serve(wrapped, dict(environ)) != [b"visit 2"]


def test_third_party_pools_say_exhaustion_their_own_way() -> None:
    for pool in (BlogPool(), pylibmc.ClientPool()):
        TestApp(MemcachedPoolMiddleware(count_and_greet, pool)).get("/", status=503)


class ClassBased:
    """A pool whose reservations are objects of a class, and end once each."""

    def __init__(self, mc: Any) -> None:
        self.idle = [mc]
        self.ended = 0

    def reserve(self) -> ClassBased:
        return self

    def __enter__(self) -> Any:
        return self.idle.pop()

    def __exit__(self, *exc: object) -> None:
        self.ended += 1
        self.idle.append("client")


@pytest.mark.parametrize("end", ["once", "twice", "from many threads", "dropped", "interrupted"])
def test_class_based_third_party_reservation_ends_once(end: str) -> None:
    pool = ClassBased("client")
    error = KeyboardInterrupt() if end == "interrupted" else None
    middleware = MemcachedPoolMiddleware(responding(Closable(error)), pool)
    for number in range(1, 20):
        environ: dict[str, Any] = {}
        response = request(middleware, environ)
        assert pool.idle == []
        if end == "dropped":
            del response, environ
            gc.collect(0)
        elif end == "from many threads":
            in_threads([response.close] * 4)
        elif end == "interrupted":
            with pytest.raises(KeyboardInterrupt):
                response.close()
        else:
            for _ in range(2 if end == "twice" else 1):
                response.close()
        assert (pool.ended, pool.idle) == (number, ["client"])


@pytest.mark.parametrize("error", [ValueError("exit"), KeyboardInterrupt()])
@pytest.mark.parametrize("app", [responding(Closable()), responding([]), raising])
def test_environ_is_restored_if_the_end_of_a_third_party_reservation_raises(
    error: BaseException, app: Any
) -> None:
    class Raising(ClassBased):
        def __exit__(self, *exc: object) -> None:
            super().__exit__()
            raise error

    pool = Raising("client")
    before = {"REQUEST_METHOD": "GET", "mc.client": "outer"}
    environ: dict[str, Any] = before.copy()
    with pytest.raises(type(error)):
        request(MemcachedPoolMiddleware(app, pool), environ).close()
    assert (environ, pool.ended) == (before, 1)


def test_requests_with_one_environ_may_have_one_client() -> None:
    """Behind a pool that lends the same client to all, the outer request ends first."""

    class Shared:
        @contextmanager
        def reserve(self) -> Iterator[Any]:
            yield self

    class Response(Closable):
        def close(self) -> None:
            seen.append(environ.get("mc.client"))

    seen: list[Any] = []
    pool = Shared()
    middleware = MemcachedPoolMiddleware(responding(Response()), pool)
    environ: dict[str, Any] = {}
    outer = request(middleware, environ)
    inner = request(middleware, environ)
    outer.close()
    assert environ["mc.client"] is pool
    inner.close()
    assert seen == [pool, pool]
    assert environ == {}


def test_interrupt_after_a_class_based_third_party_reservation_was_entered_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    pool = ClassBased("client")
    monkeypatch.setattr("weakref.finalize", interrupt)
    with pytest.raises(KeyboardInterrupt):
        request(MemcachedPoolMiddleware(responding([]), pool))
    assert pool.idle == ["client"]


@pytest.mark.slow
@tracing
@pytest.mark.parametrize("idle", [["client"], []])
def test_no_interrupt_of_a_request_to_a_third_party_pool_is_swallowed(idle: list[str]) -> None:
    """No finaliser of the reservation runs any code."""
    pool = ClassBased("client")
    middleware = MemcachedPoolMiddleware(responding([]), pool, on_exhausted=responding(Closable()))

    def start_again() -> None:
        pool.idle[:] = idle  # an interrupt may lose the client of such a pool

    def serve() -> None:
        request(middleware).close()

    start_again()
    assert interrupted_everywhere(SystemExit, serve, start_again) > 50
