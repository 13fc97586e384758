"""The middleware: what the app finds, when the client goes back, what the server sees."""

from __future__ import annotations

import gc
import io
import queue
import threading
import wsgiref.validate
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Callable
from wsgiref.util import FileWrapper

import pylibmc
import pytest
from greenlet import GreenletExit
from harness import DEADLINE, in_thread, in_threads
from interrupts import interrupted_everywhere, tracing
from webtest import TestApp
from webtest.lint import middleware as lint

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware, ThreadMappedPool, get_client


@pytest.fixture
def pool(mc: Client) -> ClientPool:
    return ClientPool(mc, 2, timeout=0.05)


def request(app: Callable[..., Any], environ: dict[str, Any] | None = None) -> Any:
    """What *app* returns to a server."""
    base = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "wsgi.input": io.BytesIO(),
    }
    return app(base if environ is None else environ, lambda *_: lambda data: None)


def responding(response: object) -> Callable[..., Any]:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return response

    return app


def generating(*chunks: bytes | BaseException) -> Callable[..., Any]:
    """An app that yields *chunks* and raises what is an exception, with the client in its hand."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        mc = environ["mc.client"]
        start_response("200 OK", [("Content-Type", "text/plain")])
        for chunk in chunks:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk
        mc.set("end", True)

    return app


def wrapping_a_file(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](io.BytesIO(b"chunk"))


class FakeClient:
    """Where nothing talks to memcached."""

    def clone(self) -> FakeClient:
        return FakeClient()

    def set(self, key: str, value: object) -> None:
        pass


class SlowFile(io.BytesIO):
    """A file whose first close() takes as long as the test wants."""

    def __init__(self) -> None:
        super().__init__(b"chunk")
        self.closing, self.done = threading.Event(), threading.Event()

    def close(self) -> None:
        if not self.closing.is_set():
            self.closing.set()
            self.done.wait(DEADLINE)
        super().close()


class Closable:
    """A response with a close() that notes how often it was called, and may raise."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.closed = 0
        self.error = error

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"chunk"])

    def close(self) -> None:
        self.closed += 1
        if self.error is not None:
            raise self.error


def count_and_greet(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """A small app as users write them, that works with any client."""
    mc = environ["mc.client"]
    mc.add("count", 0)
    body = b"visit %d" % mc.incr("count")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


# -- The client in the environ


def test_app_finds_a_working_client(pool: ClientPool) -> None:
    app = TestApp(MemcachedPoolMiddleware(count_and_greet, pool))
    assert [app.get("/").text for _ in range(3)] == ["visit 1", "visit 2", "visit 3"]
    assert pool.stats().in_use == 0
    assert pool.stats().size == 1


def test_wsgi_rules_hold_before_and_behind(pool: ClientPool) -> None:
    inner = wsgiref.validate.validator(lint(count_and_greet))
    app = lint(wsgiref.validate.validator(MemcachedPoolMiddleware(inner, pool)))
    # WebTest's own lint is off: two of them in a row object to each other's wrapping.
    assert TestApp(app, lint=False).get("/").text == "visit 1"
    assert pool.stats().in_use == 0


def test_environ_key_is_the_callers(pool: ClientPool) -> None:
    seen: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        seen.update(environ)
        return []

    request(MemcachedPoolMiddleware(app, pool, environ_key="mc.sessions")).close()
    assert isinstance(seen["mc.sessions"], Client)
    assert callable(seen["mc.sessions.release"])
    assert "mc.client" not in seen


def test_middlewares_stack(mc: Client) -> None:
    pages, sessions = ClientPool(mc, 1), ClientPool(mc, 1)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        assert environ["mc.client"] is not environ["mc.sessions"]
        assert pages.stats().in_use == sessions.stats().in_use == 1
        environ["mc.sessions.release"]()
        assert (pages.stats().in_use, sessions.stats().in_use) == (1, 0)
        return []

    stacked = MemcachedPoolMiddleware(app, sessions, environ_key="mc.sessions")
    request(MemcachedPoolMiddleware(stacked, pages)).close()
    assert (pages.stats().in_use, sessions.stats().in_use) == (0, 0)


def test_two_requests_on_one_thread_have_two_clients(mc: Client) -> None:
    for pool in (ClientPool(mc, 2), ThreadMappedPool(mc)):
        clients = []

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
            clients.append(environ["mc.client"])  # noqa: B023
            return []

        middleware = MemcachedPoolMiddleware(app, pool)
        first, second = request(middleware), request(middleware)
        assert clients[0] is not clients[1]
        first.close()
        second.close()
        assert pool.stats().in_use == 0
        assert pool.stats().idle == 2


def test_get_client_is_the_client_or_says_why_there_is_none(pool: ClientPool) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        assert get_client(environ) is environ["mc.client"]
        environ["mc.client.release"]()
        with pytest.raises(KeyError, match="handed back already"):
            get_client(environ)
        return []

    request(MemcachedPoolMiddleware(app, pool)).close()
    with pytest.raises(KeyError, match="not in front"):
        get_client({}, "mc.sessions")


# -- Exactly once


ERRORS = [RuntimeError("app"), SystemExit(), KeyboardInterrupt(), GeneratorExit()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_client_returns_when_the_app_raises(pool: ClientPool, error: BaseException) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        raise error

    with pytest.raises(type(error)):
        request(MemcachedPoolMiddleware(app, pool))
    assert pool.stats().in_use == 0
    assert pool.stats().idle == 1


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_client_returns_when_iteration_raises(pool: ClientPool, error: BaseException) -> None:
    response = request(MemcachedPoolMiddleware(generating(b"one", error), pool))
    chunks = iter(response)
    assert next(chunks) == b"one"
    with pytest.raises(type(error)):
        next(chunks)
    assert pool.stats().in_use == 1
    response.close()
    assert pool.stats().in_use == 0
    assert pool.stats().idle == 1


def test_client_returns_when_nobody_iterates(pool: ClientPool) -> None:
    response = request(MemcachedPoolMiddleware(generating(b"one"), pool))
    assert pool.stats().in_use == 1
    response.close()
    assert pool.stats().idle == 1


def test_client_stays_reserved_between_the_chunks(pool: ClientPool) -> None:
    response = request(MemcachedPoolMiddleware(generating(b"one", b"two"), pool))
    for _ in response:
        assert pool.stats().in_use == 1
    assert pool.stats().in_use == 1
    response.close()
    assert pool.stats().in_use == 0


def test_closing_twice_returns_once(pool: ClientPool) -> None:
    inner = Closable()
    response = request(MemcachedPoolMiddleware(responding(inner), pool))
    response.close()
    response.close()
    assert inner.closed == 1
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)
    with pool.reserve() as a, pool.reserve() as b:
        assert a is not b


def test_closing_from_many_threads_returns_once(pool: ClientPool) -> None:
    for _ in range(200):
        response = request(MemcachedPoolMiddleware(responding([b""]), pool))
        in_threads([response.close] * 4)
        assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_closing_from_another_thread_returns_the_client(mc: Client) -> None:
    for pool in (ClientPool(mc, 1), ThreadMappedPool(mc)):
        response = request(MemcachedPoolMiddleware(responding([b""]), pool))
        in_thread(response.close)
        assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_close_of_the_app_runs_first(pool: ClientPool) -> None:
    class Response(Closable):
        def close(self) -> None:
            assert pool.stats().in_use == 1
            super().close()

    inner = Response()
    request(MemcachedPoolMiddleware(responding(inner), pool)).close()
    assert inner.closed == 1
    assert pool.stats().in_use == 0


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_client_returns_when_close_of_the_app_raises(
    pool: ClientPool, error: BaseException
) -> None:
    response = request(MemcachedPoolMiddleware(responding(Closable(error)), pool))
    with pytest.raises(type(error)):
        response.close()
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_client_returns_when_the_server_drops_the_response(pool: ClientPool) -> None:
    for inner in ([b"list"], Closable(), iter([b"iterator"])):
        environ: dict[str, Any] = {}
        response = request(MemcachedPoolMiddleware(responding(inner), pool), environ)
        del response
        assert (pool.stats().in_use, pool.stats().idle) == (0, 1)
        assert "mc.client" not in environ


def test_dropped_response_is_closed_before_the_client_returns(pool: ClientPool) -> None:
    seen = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        try:
            yield b"one"
        finally:
            seen.append(pool.stats().in_use)

    response = request(MemcachedPoolMiddleware(app, pool))
    next(iter(response))
    del response
    assert seen == [1]
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


@tracing
@pytest.mark.parametrize("error", [SystemExit, GreenletExit])
@pytest.mark.parametrize(
    "app",
    [
        responding([b"chunk"]),
        responding((b"chunk",)),
        responding(Closable()),
        generating(b"chunk"),
        wrapping_a_file,
    ],
)
def test_interrupted_request_loses_nothing(app: Any, error: type[BaseException]) -> None:
    pool = ClientPool(FakeClient(), 1)
    wrapped = MemcachedPoolMiddleware(app, pool)

    def serve() -> None:
        environ = {"wsgi.file_wrapper": FileWrapper}
        response = request(wrapped, environ)
        try:
            list(response)
        finally:
            response.close()

    def nothing_is_lost() -> None:
        assert (pool.stats().in_use, pool.stats().waiting) == (0, 0)
        with pool.reserve(block=False):
            pass

    assert interrupted_everywhere(error, serve, nothing_is_lost) > 100


def test_nobody_else_gets_the_client_while_a_dropped_response_is_iterated(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=0)
    middleware = MemcachedPoolMiddleware(generating(b"one", b"two"), pool)
    gc.disable()  # what follows must hold by reference counts alone
    try:
        for _ in request(middleware):  # which keeps the iterator only
            with pytest.raises(queue.Empty):
                pool.reserve().__enter__()
        assert pool.stats().in_use == 0
    finally:
        gc.enable()
    assert mc.get("end")
    with pool.reserve() as client:
        assert client.set("works", 1)


def test_response_in_a_circle_of_garbage_counts_once() -> None:
    """Its parts are finalised in any order, so its slot is given back and replaced, too."""
    pool = ClientPool(FakeClient(), 1, timeout=0)

    def serve_and_fail() -> None:
        response = request(MemcachedPoolMiddleware(responding([b"chunk"]), pool))
        assert response
        try:
            raise ValueError
        except ValueError as error:
            circle = error  # noqa: F841  frame, exception, traceback, frame

    for _ in range(3):
        serve_and_fail()
        gc.collect()
        pool._lender.supply.renew(FakeClient(), "failure")
        with pool.reserve(), pytest.raises(queue.Empty), pool.reserve():
            pass
        assert (pool.stats().in_use, pool.stats().idle, len(pool._lender.idle)) == (0, 1, 1)


def test_file_is_closed_whoever_wraps_its_close(pool: ClientPool) -> None:
    file = io.BytesIO(b"chunk")
    environ = {"wsgi.file_wrapper": FileWrapper}
    response = request(MemcachedPoolMiddleware(responding(FileWrapper(file)), pool), environ)
    close = response.close
    response.close = lambda: close()
    response.close()
    assert file.closed
    assert pool.stats().in_use == 0


def test_nobody_else_gets_the_client_of_a_generator_that_runs(mc: Client) -> None:
    """A server that closes from another thread in the middle of a chunk gets Python's error."""
    pool = ClientPool(mc, 1)
    running, done = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        running.set()
        done.wait(DEADLINE)
        yield b"chunk"

    response = request(MemcachedPoolMiddleware(app, pool))
    server = threading.Thread(target=lambda: next(iter(response)))
    server.start()
    assert running.wait(DEADLINE)
    with pytest.raises(ValueError, match="already executing"):
        response.close()
    assert pool.stats().in_use == 1
    done.set()
    server.join(DEADLINE)
    response.close()
    assert pool.stats().in_use == 0


def test_generator_that_refused_to_be_closed_keeps_its_client(pool: ClientPool) -> None:
    """It ran when it was asked to, and has come to its next yield when it is looked at."""
    response = request(MemcachedPoolMiddleware(generating(b"one", b"two"), pool))
    next(iter(response))

    class Refusing:
        gi_frame = response.response.gi_frame
        gi_running = False

        def close(self) -> None:
            raise ValueError("generator already executing")

    generator, response.response = response.response, Refusing()
    with pytest.raises(ValueError, match="already executing"):
        response.close()
    assert pool.stats().in_use == 1
    response.response = generator
    response.close()
    assert pool.stats().in_use == 0


@pytest.mark.parametrize("wrapper", [None, FileWrapper])
def test_nobody_else_gets_the_client_while_the_app_closes(pool: ClientPool, wrapper: Any) -> None:
    """However often the server closes meanwhile."""
    file = SlowFile()
    app = MemcachedPoolMiddleware(responding(FileWrapper(file) if wrapper else file), pool)
    response = request(app, {"wsgi.file_wrapper": wrapper} if wrapper else {})
    close = response.close
    server = threading.Thread(target=close)
    server.start()
    assert file.closing.wait(DEADLINE)
    close()
    assert pool.stats().in_use == 1
    file.done.set()
    server.join(DEADLINE)
    assert pool.stats().in_use == 0


def test_early_release_is_final_or_nothing(mc: Client) -> None:
    """Behind a middleware that drops the response and goes on with its iterator."""
    pool = ClientPool(mc, 1, timeout=0)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        yield b"chunk"
        environ["mc.client.release"]()
        if "mc.client" in environ:
            with pytest.raises(queue.Empty), pool.reserve():
                pass
        yield b"chunk"

    def in_front(environ: dict[str, Any]) -> Iterator[bytes]:
        yield from request(MemcachedPoolMiddleware(app, pool), environ)

    assert list(in_front({})) == [b"chunk", b"chunk"]
    assert pool.stats().in_use == 0


def test_response_of_none_is_left_to_the_server(pool: ClientPool) -> None:
    assert request(MemcachedPoolMiddleware(responding(None), pool)) is None
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


# -- Early release


def test_early_release_is_idempotent_and_final(pool: ClientPool) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        release = environ["mc.client.release"]
        assert pool.stats().in_use == 1
        for _ in range(3):
            release()
            assert (pool.stats().in_use, pool.stats().idle) == (0, 1)
        with pytest.raises(KeyError):
            environ["mc.client"]
        yield b"streaming"
        release()

    response = request(MemcachedPoolMiddleware(app, pool))
    assert list(response) == [b"streaming"]
    with pool.reserve():
        response.close()  # must not return it once more
        assert (pool.stats().in_use, pool.stats().idle) == (1, 0)


def test_late_reader_finds_no_client(pool: ClientPool) -> None:
    environ: dict[str, Any] = {}
    request(MemcachedPoolMiddleware(responding([]), pool), environ).close()
    assert "mc.client" not in environ
    environ["mc.client.release"]()
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


# -- Exhaustion


def test_exhausted_pool_answers_503(pool: ClientPool) -> None:
    app = TestApp(MemcachedPoolMiddleware(count_and_greet, pool))
    with pool.reserve(), pool.reserve():
        response = app.get("/", status=503)
    assert response.headers["Retry-After"] == "1"
    assert app.get("/").text == "visit 1"


def test_on_exhausted_answers(pool: ClientPool) -> None:
    def busy(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        assert "mc.client" not in environ
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"without cache"]

    app = TestApp(MemcachedPoolMiddleware(count_and_greet, pool, on_exhausted=busy))
    with pool.reserve(), pool.reserve():
        assert app.get("/").text == "without cache"


@pytest.mark.parametrize("error", [queue.Empty(), IndexError("pop from empty list")])
def test_exhaustion_raised_by_the_app_is_the_apps(pool: ClientPool, error: Exception) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        raise error

    with pytest.raises(type(error)):
        request(MemcachedPoolMiddleware(app, pool))


def test_other_errors_of_the_pool_are_not_exhaustion() -> None:
    class Broken:
        @contextmanager
        def reserve(self) -> Iterator[None]:
            raise LookupError("no such pool")
            yield

    with pytest.raises(LookupError):
        request(MemcachedPoolMiddleware(count_and_greet, Broken()))


# -- Other people's pools


class BlogPool(list):  # type: ignore[type-arg]
    """As printed in the blog post."""

    @contextmanager
    def reserve(self) -> Iterator[Any]:
        mc = self.pop()
        try:
            yield mc
        finally:
            self.append(mc)


def foreign_pools(address: str) -> Iterable[Any]:
    mc = pylibmc.Client([address])
    return [
        BlogPool(mc.clone() for _ in range(2)),
        pylibmc.ClientPool(mc, 2),
        pylibmc.ThreadMappedPool(mc),
    ]


def test_foreign_pools_are_driven_unchanged(address: str) -> None:
    for visits, pool in enumerate(foreign_pools(address)):
        app = TestApp(MemcachedPoolMiddleware(count_and_greet, pool))
        for visit in range(1, 4):
            assert app.get("/").text == f"visit {3 * visits + visit}"


def test_foreign_pools_say_exhaustion_their_own_way(address: str) -> None:
    for pool in (BlogPool(), pylibmc.ClientPool()):
        TestApp(MemcachedPoolMiddleware(count_and_greet, pool)).get("/", status=503)


def test_client_of_a_foreign_pool_returns_once(address: str) -> None:
    pool = BlogPool([pylibmc.Client([address])])
    response = request(MemcachedPoolMiddleware(responding([]), pool))
    assert len(pool) == 0
    response.close()
    response.close()
    del response
    assert len(pool) == 1
    response = request(MemcachedPoolMiddleware(responding([]), pool))
    del response
    assert len(pool) == 1


# -- Transparency


def test_length_is_the_apps_or_none(pool: ClientPool) -> None:
    for inner, length in ([b"a"], 1), ((b"a", b"b"), 2), ([], 0):
        response = request(MemcachedPoolMiddleware(responding(inner), pool))
        assert len(response) == length
        assert list(response) == list(response) == list(inner)
        response.close()
    response = request(MemcachedPoolMiddleware(generating(b"a"), pool))
    assert not hasattr(response, "__len__")
    response.close()


def test_chunks_come_one_by_one(pool: ClientPool) -> None:
    made = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        for chunk in (b"a", b"b"):
            made.append(chunk)
            yield chunk

    response = request(MemcachedPoolMiddleware(app, pool))
    chunks = iter(response)
    assert made == []
    assert next(chunks) == b"a"
    assert made == [b"a"]
    response.close()


def test_app_is_called_at_once_and_not_at_the_first_chunk(pool: ClientPool) -> None:
    status = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("204 No Content", [])
        return []

    def start_response(status_line: str, *args: Any) -> Any:
        status.append(status_line)

    MemcachedPoolMiddleware(app, pool)({}, start_response)
    assert status == ["204 No Content"]


# -- Wrong arguments


@pytest.mark.parametrize("pool", [None, 5, [], object(), pylibmc.Client(["127.0.0.1"])])
def test_pool_without_reserve_is_refused(pool: Any) -> None:
    with pytest.raises(TypeError, match=r"reserve\(\)"):
        MemcachedPoolMiddleware(count_and_greet, pool)


def test_other_wrong_arguments_are_refused(pool: ClientPool) -> None:
    with pytest.raises(TypeError, match="app"):
        MemcachedPoolMiddleware(None, pool)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="on_exhausted"):
        MemcachedPoolMiddleware(count_and_greet, pool, on_exhausted=503)  # type: ignore[arg-type]
    for key in ("", None, b"mc"):
        with pytest.raises(TypeError, match="environ_key"):
            MemcachedPoolMiddleware(count_and_greet, pool, environ_key=key)  # type: ignore[arg-type]
