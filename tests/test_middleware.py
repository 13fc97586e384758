"""The middleware: what the app finds, when the client is released, what the server sees."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import queue
import random
import signal
import sys
import threading
import time
import weakref
import wsgiref.validate
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Callable
from wsgiref.util import FileWrapper

import pylibmc
import pytest
from greenlet import GreenletExit
from harness import DEADLINE, eventually, in_thread, in_threads
from interrupts import interrupted_everywhere, tracing
from webtest import TestApp
from webtest.lint import middleware as lint

from mcpool_wsgi import (
    Client,
    ClientPool,
    ClientReleased,
    LentClient,
    MemcachedPoolMiddleware,
    PoolTimeout,
    ThreadMappedPool,
    get_client,
)

#: How many requests the signals interrupt.
ROUNDS = int(os.environ.get("MCPOOL_ROUNDS", "1000"))


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
    """An app that has the client, yields *chunks*, and raises those that are exceptions."""

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
    assert isinstance(seen["mc.sessions"], LentClient)
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
        middleware = MemcachedPoolMiddleware(responding([]), pool)
        first, second = request(middleware), request(middleware)
        assert pool.stats().in_use == 2
        first.close()
        second.close()
        assert pool.stats().in_use == 0
        assert pool.stats().idle == 2


def test_get_client_is_the_client_or_says_why_there_is_none(pool: ClientPool) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        assert get_client(environ) is environ["mc.client"]
        assert get_client(environ).set("key", "value")
        return []

    request(MemcachedPoolMiddleware(app, pool)).close()
    with pytest.raises(KeyError, match="not in front"):
        get_client({}, "mc.sessions")


# -- Exactly once


ERRORS = [RuntimeError("app"), SystemExit(), KeyboardInterrupt(), GeneratorExit()]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_client_is_released_when_the_app_raises(pool: ClientPool, error: BaseException) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        raise error

    with pytest.raises(type(error)):
        request(MemcachedPoolMiddleware(app, pool))
    assert pool.stats().in_use == 0
    assert pool.stats().idle == 1


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_client_is_released_when_iteration_raises(pool: ClientPool, error: BaseException) -> None:
    response = request(MemcachedPoolMiddleware(generating(b"one", error), pool))
    chunks = iter(response)
    assert next(chunks) == b"one"
    with pytest.raises(type(error)):
        next(chunks)
    assert pool.stats().in_use == 1
    response.close()
    assert pool.stats().in_use == 0
    assert pool.stats().idle == 1


def test_client_is_released_when_nobody_iterates(pool: ClientPool) -> None:
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


def test_closing_twice_releases_once(pool: ClientPool) -> None:
    inner = Closable()
    response = request(MemcachedPoolMiddleware(responding(inner), pool))
    response.close()
    response.close()
    assert inner.closed == 1
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)
    with pool.reserve() as a, pool.reserve() as b:
        assert a is not b


def test_closing_from_many_threads_releases_once(pool: ClientPool) -> None:
    for _ in range(200):
        response = request(MemcachedPoolMiddleware(responding([b""]), pool))
        in_threads([response.close] * 4)
        assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_closing_from_another_thread_releases_the_client(mc: Client) -> None:
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
def test_client_is_released_when_close_of_the_app_raises(
    pool: ClientPool, error: BaseException
) -> None:
    response = request(MemcachedPoolMiddleware(responding(Closable(error)), pool))
    with pytest.raises(type(error)):
        response.close()
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_client_is_released_when_the_server_drops_response_and_environ(pool: ClientPool) -> None:
    gc.disable()  # what follows must hold by reference counts alone
    try:
        for inner in ([b"list"], Closable(), iter([b"iterator"])):
            environ: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper}
            response = request(MemcachedPoolMiddleware(responding(inner), pool), environ)
            del response
            assert pool.stats().in_use == 1
            del environ
            assert pool.stats().in_use == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("half", ["nothing", "a chunk"])
def test_client_is_released_when_a_half_read_response_is_dropped(
    pool: ClientPool, half: str
) -> None:
    """Of an object that is its own iterator, and of one that is not."""

    class OwnIterator(Closable):
        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            return b"chunk"

    gc.disable()
    try:
        for inner in (OwnIterator(), Closable()):
            response = request(MemcachedPoolMiddleware(responding(inner), pool))
            chunks = iter(response)
            if half == "a chunk":
                next(chunks)
            del response, chunks
            assert pool.stats().in_use == 0
    finally:
        gc.enable()


def test_generator_of_a_dropped_response_ends_before_its_client_is_released(
    pool: ClientPool,
) -> None:
    seen = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        try:
            yield b"one"
        finally:
            seen.append(pool.stats().in_use)
            environ["mc.client"].get("key")

    response = request(MemcachedPoolMiddleware(app, pool))
    next(iter(response))
    del response
    assert seen == [1]
    assert pool.stats().in_use == 0


@pytest.mark.slow
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
@pytest.mark.parametrize("make", [FakeClient, lambda: Client(["127.0.0.1:1"], fail_soft=True)])
def test_interrupted_request_loses_nothing(
    app: Any, error: type[BaseException], make: Callable[[], Any]
) -> None:
    pool = ClientPool(make(), 1)
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


@pytest.mark.slow
def test_response_in_a_circle_of_garbage_counts_once(mc: Client) -> None:
    """Its parts are finalised in any order, so its slot may be released and replaced, too."""
    pool = ClientPool(mc, 1, timeout=0)

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
        with pool.reserve(), pytest.raises(queue.Empty), pool.reserve():
            pass
        assert (pool.stats().in_use, pool.stats().size) == (0, 1)


def test_file_that_the_server_wrapped_is_what_the_server_gets(pool: ClientPool) -> None:
    file = io.BytesIO(b"chunk")

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        wrapped = environ["wsgi.file_wrapper"](file, 2)
        assert isinstance(wrapped, environ["wsgi.file_wrapper"])
        return wrapped

    environ = {"wsgi.file_wrapper": FileWrapper}
    response = request(MemcachedPoolMiddleware(app, pool), environ)
    assert environ["wsgi.file_wrapper"] is FileWrapper
    assert type(response) is FileWrapper
    assert list(response) == [b"ch", b"un", b"k"]
    assert pool.stats().in_use == 1
    response.close()
    assert file.closed
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)
    response.close()


class Buffer:
    """As waitress has it: a type of its own, without ``filelike``."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.file)


@pytest.mark.parametrize("wrapper", [FileWrapper, Buffer, lambda file: file])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_file_behind_middlewares_in_a_row_is_what_the_server_gets(
    mc: Client, wrapper: Any, depth: int
) -> None:
    """uWSGI's wrapper, the last one, returns the file itself."""
    pool = ClientPool(mc, depth)
    made: list[Any] = []

    def server_wrapper(file: Any) -> Any:
        made.append(wrapper(file))
        return made[-1]

    class Wrapper(Buffer):
        def __init__(self, file: Any) -> None:
            super().__init__(file)
            made.append(self)

    app: Any = wrapping_a_file
    for _ in range(depth):
        app = MemcachedPoolMiddleware(app, pool)
    environ = {"wsgi.file_wrapper": Wrapper if wrapper is Buffer else server_wrapper}
    response = request(app, environ)
    assert [response] == made
    assert list(response) == [b"chunk"]
    assert pool.stats().in_use == depth
    response.close()
    assert pool.stats().in_use == 0


def test_file_inside_another_response_leaves_the_client_alone(pool: ClientPool) -> None:
    """The app goes on using its client after it has closed the file."""
    used = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        file = environ["wsgi.file_wrapper"](io.BytesIO(b"chunk"))
        return around(file, environ["mc.client"])

    def around(file: Any, mc: LentClient) -> Iterator[bytes]:
        yield from file
        file.close()
        used.append(mc.set("key", "value"))

    environ = {"wsgi.file_wrapper": FileWrapper}
    response = request(MemcachedPoolMiddleware(app, pool), environ)
    assert list(response) == [b"chunk"]
    response.close()
    assert used == [True]
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


def test_file_that_the_app_does_not_respond_with_leaves_the_client_to_the_response(
    pool: ClientPool,
) -> None:
    other = Closable()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        environ["wsgi.file_wrapper"](io.BytesIO(b"chunk"))
        return other

    response = request(MemcachedPoolMiddleware(app, pool), {"wsgi.file_wrapper": FileWrapper})
    assert pool.stats().in_use == 1
    response.close()
    assert (pool.stats().in_use, other.closed) == (0, 1)


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


def test_generator_that_runs_behind_middlewares_in_a_row_is_closed_later(mc: Client) -> None:
    """The outer one must not take it for closed, because then nobody closes the inner one."""
    pool = ClientPool(mc, 2)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        with pytest.raises(ValueError, match="already executing"):
            responses[0].close()
        assert environ["mc.client"].set("key", "value")
        assert environ["mc.sessions"].get("key") == "value"
        yield b"chunk"

    inner = MemcachedPoolMiddleware(app, pool)
    outer = MemcachedPoolMiddleware(inner, pool, environ_key="mc.sessions")
    environ: dict[str, Any] = {}
    responses = [request(outer, environ)]
    assert list(responses[0]) == [b"chunk"]
    assert pool.stats().in_use == 2
    responses[0].close()
    assert pool.stats().in_use == 0
    assert environ == {}


def test_generator_that_ends_while_middlewares_in_a_row_close_it_is_closed_later(
    pool: ClientPool,
) -> None:
    """The inner one has seen that it runs. The outer one asks when it has ended."""

    class Response(Closable):
        frame: object = "runs"

        @property
        def gi_frame(self) -> object:
            frame, self.frame = self.frame, None
            return frame

    app_response = Response(ValueError("generator already executing"))
    inner = MemcachedPoolMiddleware(responding(app_response), pool)
    response = request(MemcachedPoolMiddleware(inner, pool, environ_key="mc.sessions"))
    with pytest.raises(ValueError, match="already executing"):
        response.close()
    app_response.error = None
    response.close()
    assert (app_response.closed, pool.stats().in_use) == (2, 0)


@pytest.mark.parametrize("error", [ValueError("no number"), RuntimeError("app"), SystemExit()])
def test_generator_that_raises_when_it_is_closed_releases_its_client(
    pool: ClientPool, error: BaseException
) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        try:
            yield b"one"
        finally:
            raise error

    response = request(MemcachedPoolMiddleware(app, pool))
    next(iter(response))
    with pytest.raises(type(error)):
        response.close()
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


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


def test_early_release_of_a_foreign_client_is_final_or_nothing(address: str) -> None:
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


def test_response_of_none_is_left_to_the_server(pool: ClientPool) -> None:
    assert request(MemcachedPoolMiddleware(responding(None), pool)) is None
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


# -- Early release


def test_early_release_is_idempotent_and_final(pool: ClientPool) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        release = environ["mc.client.release"]
        mc = environ["mc.client"]
        assert pool.stats().in_use == 1
        for _ in range(3):
            release()
            assert (pool.stats().in_use, pool.stats().idle) == (0, 1)
        assert environ["mc.client"] is mc
        with pytest.raises(ClientReleased, match=r"with pool\.reserve"):
            mc.get("key")
        yield b"streaming"
        release()

    response = request(MemcachedPoolMiddleware(app, pool))
    assert list(response) == [b"streaming"]
    with pool.reserve():
        response.close()  # must not return it once more
        assert (pool.stats().in_use, pool.stats().idle) == (1, 0)


def test_early_release_takes_a_foreign_client_out_of_the_environ(address: str) -> None:
    pool = BlogPool([pylibmc.Client([address])])

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        environ["mc.client.release"]()
        assert "mc.client" not in environ
        assert len(pool) == 1
        environ["mc.client.release"]()
        return []

    environ: dict[str, Any] = {}
    request(MemcachedPoolMiddleware(app, pool), environ).close()
    assert environ == {}
    assert len(pool) == 1


def test_client_that_is_kept_past_its_request_refuses_every_command(pool: ClientPool) -> None:
    kept = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        kept.append(environ["mc.client"])
        kept.append(environ["mc.client"].get)
        return []

    request(MemcachedPoolMiddleware(app, pool)).close()
    for command in (lambda: kept[0].get("key"), lambda: kept[1]("key"), lambda: kept[0]["key"]):
        with pytest.raises(ClientReleased):
            command()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "before",
    [
        {"PATH_INFO": "/", "wsgi.file_wrapper": FileWrapper},
        # A middleware that an app had before may set the client only.
        {"mc.client": "somebody's"},
        {"mc.client": None},
    ],
)
def test_environ_is_as_it_was_before_the_request(pool: ClientPool, before: dict[str, Any]) -> None:
    apps = [responding([]), generating(b"one"), responding(None)]
    if "wsgi.file_wrapper" in before:
        apps.append(wrapping_a_file)
    for app in apps:
        environ = dict(before)
        response = request(MemcachedPoolMiddleware(app, pool), environ)
        if response is not None:
            response.close()
        assert environ == before
    environ = dict(before)
    with pytest.raises(RuntimeError):
        request(MemcachedPoolMiddleware(raising, pool), environ)
    assert environ == before


def test_app_may_take_the_function_that_releases_out_of_the_environ(pool: ClientPool) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        environ.pop("mc.client.release")()
        return []

    environ: dict[str, Any] = {}
    request(MemcachedPoolMiddleware(app, pool), environ).close()
    assert environ == {}


def take_release(environ: dict[str, Any]) -> None:
    environ.pop("mc.client.release")()


def take_both(environ: dict[str, Any]) -> None:
    del environ["mc.client"]
    environ.pop("mc.client.release")()


def wrap_release(environ: dict[str, Any]) -> None:
    release = environ["mc.client.release"]
    environ["mc.client.release"] = lambda: release()


@pytest.mark.parametrize("change", [take_release, take_both, wrap_release])
@pytest.mark.parametrize("before", [{}, {"mc.client": "somebody's", "mc.client.release": "too"}])
@pytest.mark.parametrize("foreign", [False, True])
def test_environ_is_as_it_was_whatever_the_app_does_with_the_function_that_releases(
    mc: Client, change: Callable[..., Any], before: dict[str, Any], foreign: bool
) -> None:
    """If a client of somebody else stayed, the app would use a client that it has released."""
    pool: Any = BlogPool([mc.clone()]) if foreign else ClientPool(mc, 1)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        change(environ)
        if foreign and change is take_release:
            assert "mc.client" not in environ
        return []

    environ = dict(before)
    response = request(MemcachedPoolMiddleware(app, pool), environ)
    response.close()
    assert environ == before
    environ["mc.client"] = "the next request's"
    response.close()
    assert environ["mc.client"] == "the next request's"


# -- One environ, several times


def test_internal_redirect_whose_first_response_is_closed_late(mc: Client) -> None:
    pool = ClientPool(mc, 2, timeout=0)
    clients = []

    class Response(Closable):
        def __init__(self, environ: dict[str, Any]) -> None:
            super().__init__()
            self.environ = environ
            self.own = environ["mc.client"]
            clients.append(self.own)

        def close(self) -> None:
            assert self.environ["mc.client"] is self.own
            assert self.own.set("key", "value")
            super().close()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        return Response(environ)

    middleware = MemcachedPoolMiddleware(app, pool)
    environ: dict[str, Any] = {}
    first = request(middleware, environ)
    second = request(middleware, environ)
    assert environ["mc.client"] is clients[1]
    first.close()
    assert environ["mc.client"] is clients[1]
    assert clients[1].get("key") == "value"
    with pytest.raises(ClientReleased):
        clients[0].get("key")
    second.close()
    assert environ == {}
    assert (pool.stats().in_use, pool.stats().idle) == (0, 2)


@pytest.mark.parametrize(
    "order", [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0], [0, 2, 1], [2, 0, 1]]
)
def test_requests_with_one_environ_end_in_any_order(mc: Client, order: list[int]) -> None:
    pool = ClientPool(mc, 3, timeout=0)
    environ: dict[str, Any] = {"mc.client": "somebody's", "mc.client.release": "too"}
    seen = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        seen.append(environ["mc.client"])
        return []

    middleware = MemcachedPoolMiddleware(app, pool)
    responses = {number: request(middleware, environ) for number in range(3)}
    for number in order:
        responses.pop(number).close()
        expected = seen[max(responses)] if responses else "somebody's"
        assert environ["mc.client"] is expected
    assert environ == {"mc.client": "somebody's", "mc.client.release": "too"}
    assert pool.stats().in_use == 0


@pytest.mark.parametrize("before", [{}, {"mc.client": "somebody's", "mc.client.release": "too"}])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 2, 1]])
def test_requests_with_one_environ_behind_middlewares_in_a_row_end_in_any_order(
    mc: Client, before: dict[str, Any], order: list[int]
) -> None:
    pool = ClientPool(mc, 6, timeout=0)
    middleware = MemcachedPoolMiddleware(MemcachedPoolMiddleware(responding([]), pool), pool)
    environ = dict(before)
    responses = [request(middleware, environ) for _ in order]
    for number in order:
        responses[number].close()
    assert environ == before


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("before", [{}, {"mc.client": "somebody's", "mc.client.release": "too"}])
@pytest.mark.parametrize("foreign", [False, True])
def test_middlewares_in_a_row_leave_the_environ_as_it_was(
    mc: Client, depth: int, before: dict[str, Any], foreign: bool
) -> None:
    class Response(Closable):
        def __init__(self, environ: dict[str, Any]) -> None:
            super().__init__()
            self.environ = environ
            self.own = environ["mc.client"]

        def close(self) -> None:
            assert self.environ["mc.client"] is self.own
            super().close()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        return [] if environ.get("list") else Response(environ)

    pool: Any = BlogPool([mc.clone() for _ in range(depth)]) if foreign else ClientPool(mc, depth)
    wrapped: Any = app
    for _ in range(depth):
        wrapped = MemcachedPoolMiddleware(wrapped, pool)
    for has_list in (False, True):
        environ = {**before, "list": has_list}
        response = request(wrapped, environ)
        assert environ["mc.client"] != "somebody's"
        response.close()
        assert environ == {**before, "list": has_list}


@pytest.mark.parametrize("copy", [False, True])
def test_subrequest_from_inside_a_stream(mc: Client, copy: bool) -> None:
    """Werkzeug's test client copies the environ, other subrequests do not."""
    pool = ClientPool(mc, 2, timeout=0)
    environ: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        own = environ["mc.client"]
        yield b"before"
        if environ.get("inner") is None:
            response = request(middleware, {**environ, "inner": True} if copy else inner(environ))
            assert list(response) == [b"before", b"after"]
            response.close()
            environ.pop("inner", None)
        assert environ["mc.client"] is own
        assert own.set("key", "value")
        yield b"after"

    def inner(environ: dict[str, Any]) -> dict[str, Any]:
        environ["inner"] = True
        return environ

    middleware = MemcachedPoolMiddleware(app, pool)
    response = request(middleware, environ)
    assert list(response) == [b"before", b"after"]
    response.close()
    assert environ == {}
    assert pool.stats().in_use == 0


@pytest.mark.parametrize("foreign", [False, True])
def test_outer_app_uses_its_client_after_the_inner_one_has_ended(
    mc: Client, foreign: bool
) -> None:
    outer_pool: Any = BlogPool([mc.clone()]) if foreign else ClientPool(mc, 1)
    inner_pool = ClientPool(mc, 1)

    def inner(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        environ["mc.client"].set("key", "inner")
        return []

    wrapped = MemcachedPoolMiddleware(inner, inner_pool)

    def outer(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        own = environ["mc.client"]
        request(wrapped, environ).close()
        assert environ["mc.client"] is own
        assert own.get("key") == "inner"
        environ["mc.client.release"]()
        return []

    environ: dict[str, Any] = {}
    request(MemcachedPoolMiddleware(outer, outer_pool), environ).close()
    assert environ == {}
    assert inner_pool.stats().in_use == 0


def test_released_foreign_client_does_not_come_back_into_the_environ(mc: Client) -> None:
    outer_pool = BlogPool([mc.clone()])
    middleware = MemcachedPoolMiddleware(responding(Closable()), outer_pool)
    later = MemcachedPoolMiddleware(responding([]), ClientPool(mc, 1))
    environ: dict[str, Any] = {}
    response = request(middleware, environ)
    release = environ["mc.client.release"]
    later_response = request(later, environ)
    release()
    assert isinstance(environ["mc.client"], LentClient)
    later_response.close()
    assert "mc.client" not in environ
    response.close()
    assert environ == {}


def test_app_does_not_close_with_a_released_foreign_client(mc: Client) -> None:
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


def test_second_release_of_a_foreign_client_leaves_the_next_request_alone(mc: Client) -> None:
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


def test_second_release_of_a_foreign_client_leaves_what_the_app_has_put_there(mc: Client) -> None:
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


# -- Real signals


class Own:
    """A response that is its own iterator."""

    def __init__(self) -> None:
        self.left = 2

    def __iter__(self) -> Own:
        return self

    def __next__(self) -> bytes:
        if not self.left:
            raise StopIteration
        self.left -= 1
        return b"chunk"


def responding_by_itself(environ: dict[str, Any], start_response: Callable[..., Any]) -> Own:
    start_response("200 OK", [])
    return Own()


def raising(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    raise RuntimeError("app")


class Interrupted(BaseException):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    "app",
    [responding([b"chunk"]), generating(b"chunk"), wrapping_a_file, responding_by_itself, raising],
)
def test_signals_at_random_moments_reach_the_caller(mc: Client, app: Any, lazy: bool) -> None:
    """SystemExit comes like this when gunicorn's worker times out."""
    pool = ClientPool(mc, 2)
    middleware = MemcachedPoolMiddleware(app, pool, lazy=lazy)
    raised: list[object] = []
    arrived = reached = 0

    def interrupt(*_: object) -> None:
        nonlocal arrived
        arrived += 1
        raise Interrupted

    dice = random.Random(20090920)
    hook, sys.unraisablehook = sys.unraisablehook, raised.append
    handler = signal.signal(signal.SIGALRM, interrupt)

    def serve() -> None:
        environ = {"wsgi.file_wrapper": FileWrapper, "wsgi.multithread": True}
        signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 3e-5))
        with contextlib.suppress(RuntimeError):
            response = middleware(environ, lambda *_: None)  # type: ignore[arg-type]
            try:
                for _ in response:
                    pass
            finally:
                response.close()  # type: ignore[attr-defined]
        for _ in range(100):  # it comes here, or it has been swallowed
            time.sleep(0.001)

    try:
        for _ in range(ROUNDS):
            try:
                serve()
            except Interrupted:
                reached += 1
    finally:
        signal.signal(signal.SIGALRM, handler)
        sys.unraisablehook = hook
    assert reached == arrived == ROUNDS
    assert raised == []
    assert (pool.stats().in_use, pool.stats().waiting) == (0, 0)
    with pool.reserve(block=False), pool.reserve(block=False):
        assert pool.stats().size == 2


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


@pytest.mark.parametrize("is_idle", [False, True])
def test_no_finaliser_of_a_client_runs_when_it_is_replaced_or_the_pool_closed(
    mc: Client, monkeypatch: pytest.MonkeyPatch, is_idle: bool
) -> None:
    """An interrupt in a finaliser would be swallowed."""
    pool = ClientPool(mc, 1)
    callers: list[str] = []
    finaliser = Client.__del__

    def noting(client: Client) -> None:
        callers.append(sys._getframe(1).f_code.co_name)
        finaliser(client)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        environ["mc.client"].behaviors = {"no_block": True}
        return []

    request(MemcachedPoolMiddleware(responding([]), pool)).close()
    monkeypatch.setattr(Client, "__del__", noting)
    with pool.reserve():
        pool.disconnect_all()
    request(MemcachedPoolMiddleware(app, pool)).close()
    request(MemcachedPoolMiddleware(responding([]), pool)).close()
    pool._generations.begin(pool.master, "failure")
    request(MemcachedPoolMiddleware(responding([]), pool)).close()
    if is_idle:
        pool.close()
    else:
        with pool.reserve():
            pool.close()
    assert callers == []


@pytest.mark.parametrize("foreign", [False, True])
def test_interrupted_request_is_in_no_circle(
    mc: Client, monkeypatch: pytest.MonkeyPatch, foreign: bool
) -> None:
    """An interrupt may come before the end of a request has begun, after the app has raised."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    pool: Any = BlogPool(mc.clone() for _ in range(2)) if foreign else ClientPool(mc, 2)
    middleware = MemcachedPoolMiddleware(MemcachedPoolMiddleware(raising, pool), pool)
    monkeypatch.setattr(MemcachedPoolMiddleware, "end", interrupt)
    gc.disable()
    try:
        with contextlib.suppress(KeyboardInterrupt):
            request(middleware)
        assert len(pool) == 2 if foreign else pool.stats().in_use == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("is_over", [False, True])
def test_file_of_a_subrequest_is_in_no_circle(mc: Client, is_over: bool) -> None:
    """The copy of an environ has the wrapper of the outer request, which raises or ends."""
    pool = ClientPool(mc, 2)
    inner = MemcachedPoolMiddleware(wrapping_a_file, pool)
    copies: list[dict[str, Any]] = []
    files: list[weakref.ref[Any]] = []

    def subrequest(environ: dict[str, Any]) -> None:
        response = request(inner, environ)
        assert list(response) == [b"chunk"]
        files.append(weakref.ref(response))
        response.close()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        copies.append(dict(environ))
        if not is_over:
            subrequest(copies.pop())
            raise RuntimeError("app")
        return []

    middleware = MemcachedPoolMiddleware(app, pool)
    gc.disable()
    try:
        with contextlib.suppress(RuntimeError):
            request(middleware, {"wsgi.file_wrapper": FileWrapper}).close()
        if is_over:
            subrequest(copies.pop())
        assert [find() for find in files] == [None]
    finally:
        gc.enable()


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


def test_client_of_a_foreign_pool_is_released_once(address: str) -> None:
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
    for app in generating(b"a"), responding(Closable()):
        response = request(MemcachedPoolMiddleware(app, pool))
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


# -- What was missed once


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
def test_class_based_foreign_reservation_ends_once(end: str) -> None:
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


def test_interrupt_after_a_class_based_foreign_reservation_was_entered_loses_nothing(
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
def test_no_interrupt_of_a_request_with_a_foreign_client_is_swallowed() -> None:
    """No finaliser of the reservation runs any code."""
    pool = ClassBased("client")
    middleware = MemcachedPoolMiddleware(responding([]), pool)

    def start_again() -> None:
        pool.idle[:] = ["client"]  # an interrupt may lose the client of such a pool

    def serve() -> None:
        request(middleware).close()

    assert interrupted_everywhere(SystemExit, serve, start_again) > 50


@pytest.mark.parametrize("multithread", [{}, {"wsgi.multithread": True}])
def test_request_waits_for_a_client(mc: Client, multithread: dict[str, Any]) -> None:
    pool = ClientPool(mc, 1, timeout=60)
    app = MemcachedPoolMiddleware(count_and_greet, pool)
    bodies: list[bytes] = []

    def serve() -> None:
        response = request(app, {"REQUEST_METHOD": "GET", **multithread})
        bodies.extend(response)
        response.close()

    with pool.reserve():
        waiter = threading.Thread(target=serve, daemon=True)
        waiter.start()
        eventually(lambda: pool.stats().waiting == 1)
    waiter.join(DEADLINE)
    assert bodies == [b"visit 1"]


def test_no_wait_where_it_would_stop_the_only_thread(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=60)
    app: Any = MemcachedPoolMiddleware(responding([]), pool)
    status = []
    with pool.reserve():
        app(
            {"wsgi.multithread": False, "REQUEST_METHOD": "GET"},
            lambda line, headers: status.append(line),
        )
    assert [line[:3] for line in status] == ["503"]


def test_late_release_leaves_an_environ_alone_that_is_used_again(mc: Client) -> None:
    pool = ClientPool(mc, 2)
    environ: dict[str, Any] = {}
    middleware = MemcachedPoolMiddleware(responding([]), pool)
    response = request(middleware, environ)
    release = environ["mc.client.release"]
    response.close()
    second = request(middleware, environ)
    client = environ["mc.client"]
    release()
    response.close()
    assert environ["mc.client"] is client
    assert client.set("key", "value")
    second.close()


# -- Lazy requests


def test_lazy_request_that_uses_nothing_takes_nothing(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=0)
    app = TestApp(MemcachedPoolMiddleware(responding([b"well"]), pool, lazy=True))
    with pool.reserve():
        assert app.get("/").body == b"well"
    assert pool.stats().reservations == 1


def test_lazy_request_keeps_its_client_to_its_end(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    response = request(MemcachedPoolMiddleware(generating(b"one"), pool, lazy=True))
    assert pool.stats().in_use == 0
    assert list(response) == [b"one"]
    assert pool.stats().in_use == 1
    response.close()
    assert pool.stats().in_use == 0


def test_lazy_request_that_finds_no_client_is_answered_by_on_exhausted(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=0)
    app = TestApp(MemcachedPoolMiddleware(count_and_greet, pool, lazy=True))
    with pool.reserve():
        response = app.get("/", status=503)
    assert response.headers["Retry-After"] == "1"
    assert app.get("/").text == "visit 1"


def test_lazy_request_that_has_begun_to_answer_gets_the_error(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=0)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["mc.client"].get("key")]

    with pool.reserve(), pytest.raises(PoolTimeout):
        request(MemcachedPoolMiddleware(app, pool, lazy=True))


def test_timeout_of_another_pool_is_not_that_of_the_lazy_request(mc: Client) -> None:
    """It is raised after that one was caught and freed, so it often has the same id()."""
    pool, other = ClientPool(mc, 1, timeout=0.001), ClientPool(mc, 1, timeout=0.001, name="other")

    def app(environ: Any, start_response: Any) -> Any:
        try:  # noqa: SIM105  it frees the error at once
            environ["mc.client"].get("key")
        except PoolTimeout:
            pass
        with other.reserve():
            raise AssertionError

    with pool.reserve(), other.reserve():
        for _ in range(20):
            with pytest.raises(PoolTimeout, match="other"):
                request(MemcachedPoolMiddleware(app, pool, lazy=True))


def test_lazy_request_whose_app_has_removed_the_client_is_answered_by_on_exhausted(
    mc: Client,
) -> None:
    pool = ClientPool(mc, 1, timeout=0)

    def app(environ: Any, start_response: Any) -> Any:
        environ.pop("mc.client").get("key")

    with pool.reserve():
        TestApp(MemcachedPoolMiddleware(app, pool, lazy=True)).get("/", status=503)


def test_lazy_request_that_tried_again_is_answered_by_on_exhausted(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=0)

    def app(environ: Any, start_response: Any) -> Any:
        try:
            get_client(environ).get("key")
        except PoolTimeout as first:
            with pytest.raises(PoolTimeout):
                get_client(environ).get("key")
            raise first

    with pool.reserve():
        TestApp(MemcachedPoolMiddleware(app, pool, lazy=True)).get("/", status=503)


def test_lazy_request_with_a_length_is_answered_by_on_exhausted(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=0)

    class Page:
        def __init__(self, environ: Any, start_response: Any) -> None:
            self.mc, self.start_response = get_client(environ), start_response

        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Iterator[bytes]:
            value = self.mc.get("key")
            self.start_response("200 OK", [("Content-Type", "text/plain")])
            yield str(value).encode()

    app = TestApp(MemcachedPoolMiddleware(Page, pool, lazy=True))
    with pool.reserve():
        app.get("/", status=503)
    assert app.get("/").text == "None"
    assert len(request(MemcachedPoolMiddleware(Page, pool, lazy=True))) == 1


def test_lazy_request_whose_iter_is_no_generator_is_answered_by_on_exhausted(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=0)

    class Page:
        def __init__(self, environ: Any, start_response: Any) -> None:
            self.mc, self.start_response = get_client(environ), start_response

        def __iter__(self) -> Iterator[bytes]:
            value = self.mc.get("key")
            self.start_response("200 OK", [("Content-Type", "text/plain")])
            return iter([str(value).encode()])

    app = TestApp(MemcachedPoolMiddleware(Page, pool, lazy=True))
    with pool.reserve():
        app.get("/", status=503)
    assert app.get("/").text == "None"


def test_lazy_response_that_rewinds_in_its_iter_is_sent_once(mc: Client) -> None:
    class Blob:
        def __iter__(self) -> Iterator[bytes]:
            self.left = [b"one", b"two"]
            return self

        def __next__(self) -> bytes:
            if not self.left:
                raise StopIteration
            return self.left.pop(0)

    # It has not called start_response before it returns.
    middleware = MemcachedPoolMiddleware(lambda *_: Blob(), ClientPool(mc, 1), lazy=True)
    response = request(middleware)
    assert list(response) == [b"one", b"two"]
    response.close()


def test_two_threads_may_close_at_the_same_moment(mc: Client) -> None:
    class Environ(dict):  # type: ignore[type-arg]
        def get(self, key: Any, default: Any = None) -> Any:
            found = super().get(key, default)
            if key == "mc.client.release" and closing:
                in_thread(closing.pop().close)
            return found

    closing: list[Any] = []
    response: Any = MemcachedPoolMiddleware(lambda *_: [b""], ClientPool(mc, 1))(
        Environ(), lambda *_: lambda data: None
    )
    environ = response.environ
    closing.append(response)
    response.end()
    assert environ == {}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("iterator_is_freed_first", [False, True])
def test_app_that_is_its_own_iterator_is_closed_once(
    mc: Client, lazy: bool, iterator_is_freed_first: bool
) -> None:
    """The server reads a part of the response, because the user has gone away."""
    closed = []

    class Chunks:
        def __init__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> None:
            self.environ = environ
            self.start_response = start_response

        def __iter__(self) -> Chunks:
            return self

        def __next__(self) -> bytes:
            self.start_response("200 OK", [])
            return b"chunk"

        def close(self) -> None:
            closed.append(get_client(self.environ).get("key", "nothing"))

    response = request(MemcachedPoolMiddleware(Chunks, ClientPool(mc, 1), lazy=lazy))
    chunks = iter(response)
    assert [next(chunks), next(chunks), next(chunks)] == [b"chunk"] * 3
    if iterator_is_freed_first:
        del chunks
    response.close()
    chunks = None
    assert closed == ["nothing"]


def test_lazy_request_needs_a_pool_of_this_package(address: str) -> None:
    for pool in foreign_pools(address):
        with pytest.raises(TypeError, match="lazy"):
            MemcachedPoolMiddleware(count_and_greet, pool, lazy=True)


@pytest.mark.parametrize("stream", [False, True])
def test_generator_that_finds_no_client_is_answered_by_on_exhausted(
    mc: Client, stream: bool
) -> None:
    pool = ClientPool(mc, 1, timeout=0)
    closed: list[bool] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        try:
            if stream:  # too late: the status has been sent
                start_response("200 OK", [("Content-Type", "text/plain")])
            value = get_client(environ).get("key")
            start_response("200 OK", [("Content-Type", "text/plain")])
            yield str(value).encode()
            yield b"."
        finally:
            closed.append(True)

    middleware = TestApp(MemcachedPoolMiddleware(app, pool, lazy=True))
    with pool.reserve():
        if stream:
            with pytest.raises(PoolTimeout):
                middleware.get("/")
        else:
            assert middleware.get("/", status=503).headers["Retry-After"] == "1"
    if not stream:
        assert middleware.get("/").text == "None."
        assert closed == [True] * 2
    assert pool.stats().in_use == 0


def test_lazy_request_passes_exc_info_on(mc: Client) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("500 Oops", [], exc_info=None)
        return []

    middleware: Any = MemcachedPoolMiddleware(app, ClientPool(mc, 1), lazy=True)
    middleware({}, lambda status, headers, exc_info=None: None).close()


def test_time_out_of_another_pool_is_the_apps(mc: Client) -> None:
    other = ClientPool(mc, 1, timeout=0)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        return other.reserve().__enter__()

    with other.reserve(), pytest.raises(PoolTimeout):
        request(MemcachedPoolMiddleware(app, ClientPool(mc, 1), lazy=True))


def test_lazy_middleware_over_a_pool_of_plain_clients_is_refused_at_once(address: str) -> None:
    pool = ClientPool(pylibmc.Client([address]), 1)
    with pytest.raises(TypeError, match="lazy"):
        MemcachedPoolMiddleware(count_and_greet, pool, lazy=True)


def test_late_close_releases_its_own_client_only(mc: Client) -> None:
    """The first app releases its client early, when it is closed."""
    pool = ClientPool(mc, 2)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        try:
            yield b"chunk"
        finally:
            environ["mc.client.release"]()

    middleware = MemcachedPoolMiddleware(app, pool)
    environ: dict[str, Any] = {}
    first = request(middleware, environ)
    next(iter(first))
    second = request(middleware, environ)
    client = environ["mc.client"]
    first.close()
    assert client.set("key", "value")
    assert environ["mc.client"] is client
    second.close()
    assert environ == {}


@pytest.mark.parametrize("app", [responding([]), responding(Closable()), wrapping_a_file])
def test_closing_again_ends_what_an_interrupt_left(pool: ClientPool, app: Any) -> None:
    environ: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper}
    middleware = MemcachedPoolMiddleware(app, pool)
    response = request(middleware, environ)
    end, middleware.end = middleware.end, interrupted  # type: ignore[method-assign, assignment]
    with pytest.raises(Interrupted):
        response.close()
    middleware.end = end  # type: ignore[method-assign]
    assert pool.stats().in_use == 1
    response.close()
    assert pool.stats().in_use == 0
    assert environ == {"wsgi.file_wrapper": FileWrapper}


def interrupted(*args: Any) -> None:
    raise Interrupted
