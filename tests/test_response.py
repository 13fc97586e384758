"""The response: the client is released exactly once, whatever the app and the server do."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from traceback import walk_tb
from typing import Any, Callable
from wsgiref.util import FileWrapper

import pytest
from apps import Closable, Interrupted, generating, request, responding, wrapping_a_file
from greenlet import GreenletExit
from harness import DEADLINE, FakeClient, in_thread, in_threads
from interrupts import interrupted_everywhere, tracing

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware, PooledClient, get_client


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


def test_closed_response_has_no_chunks(pool: ClientPool) -> None:
    for app in responding([b"one"]), responding((b"one",)), responding(Closable()):
        response = request(MemcachedPoolMiddleware(app, pool))
        response.close()
        assert list(response) == []


def test_closing_from_many_threads_releases_once(pool: ClientPool) -> None:
    for _ in range(200):
        response = request(MemcachedPoolMiddleware(responding([b""]), pool))
        in_threads([response.close] * 4)
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


@pytest.mark.slow
@tracing
def test_interrupted_release_is_completed_while_the_environ_is_kept() -> None:
    """The environ keeps the client alive, so no finaliser finds the slot."""
    pool = ClientPool(Client(["127.0.0.1:1"]), 1)
    middleware = MemcachedPoolMiddleware(responding([b"chunk"]), pool)
    kept: list[dict[str, Any]] = []
    tested: list[bool] = []
    is_release_interrupted = [False]

    def serve() -> None:
        is_release_interrupted[0] = False
        kept[:] = [{}]
        response = request(middleware, kept[0])
        kept[0]["kept"] = kept[0]["mc.client"]
        try:
            response.close()
        except SystemExit as error:
            functions = [frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__)]
            is_release_interrupted[0] = "__exit__" in functions
            raise

    def client_is_released() -> None:
        if is_release_interrupted[0]:
            assert pool.stats().in_use == 0
            tested.append(True)
        kept.clear()
        with pool.reserve(block=False):
            pass  # if the slot was lost, the next request need not replace it

    interrupted_everywhere(SystemExit, serve, client_is_released)
    assert len(tested) > 10


@pytest.mark.parametrize(
    "options", [{}, {"lazy": True}, {"server_timing": True}], ids=lambda options: str([*options])
)
def test_nobody_else_gets_the_client_of_a_generator_that_runs(
    mc: Client, options: dict[str, Any]
) -> None:
    """A server that closes from another thread in the middle of a chunk gets Python's error."""
    pool = ClientPool(mc, 1)
    running, done = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        get_client(environ).get("key")
        running.set()
        done.wait(DEADLINE)
        yield b"chunk"

    response = request(MemcachedPoolMiddleware(app, pool, **options))
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


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("error", [ValueError("no number"), RuntimeError("app"), SystemExit()])
def test_generator_that_raises_when_it_is_closed_releases_its_client(
    pool: ClientPool, error: BaseException, depth: int
) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        try:
            yield b"one"
        finally:
            raise error

    wrapped: Any = app
    for _ in range(depth):
        wrapped = MemcachedPoolMiddleware(wrapped, pool)
    response = request(wrapped)
    next(iter(response))
    with pytest.raises(type(error)):
        response.close()
    assert (pool.stats().in_use, pool.stats().idle) == (0, depth)


@pytest.mark.parametrize("wrapper", [None, FileWrapper])
def test_nobody_else_gets_the_client_while_the_app_closes(pool: ClientPool, wrapper: Any) -> None:
    """However often the server closes meanwhile."""
    file = SlowFile()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        return environ["wsgi.file_wrapper"](file) if wrapper else file

    environ = {"wsgi.file_wrapper": wrapper} if wrapper else {}
    response = request(MemcachedPoolMiddleware(app, pool), environ)
    close = response.close
    server = threading.Thread(target=close)
    server.start()
    assert file.closing.wait(DEADLINE)
    close()
    if not wrapper:
        assert list(response) == []
    assert pool.stats().in_use == 1
    file.done.set()
    server.join(DEADLINE)
    assert pool.stats().in_use == 0


def test_app_that_closes_finds_what_it_has_put_in_the_place_of_its_client(
    pool: ClientPool,
) -> None:
    found = []

    class Response(Closable):
        def close(self) -> None:
            found.append(environ["mc.client"])

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Response:
        environ["mc.client"] = "the app's own"
        return Response()

    environ: dict[str, Any] = {}
    request(MemcachedPoolMiddleware(app, pool), environ).close()
    assert found == ["the app's own"]
    assert environ == {}


@pytest.mark.parametrize("tells_requests", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"lazy": True}, {"server_timing": True}], ids=lambda options: str([*options])
)
@pytest.mark.parametrize("response", [None, b"hello"])
def test_response_that_is_not_wsgi_is_left_to_the_server(
    pool: ClientPool, response: Any, options: dict[str, Any], tells_requests: bool
) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        environ["mc.client"].get("greeting")
        return response

    cache = PooledClient(pool) if tells_requests else None
    assert request(MemcachedPoolMiddleware(app, pool, **options)) is response
    del cache
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


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
    keys = middleware._keys
    end = keys.end_request
    keys.end_request = interrupted  # type: ignore[method-assign, assignment]
    with pytest.raises(Interrupted):
        response.close()
    keys.end_request = end  # type: ignore[method-assign]
    assert pool.stats().in_use == 1
    response.close()
    assert pool.stats().in_use == 0
    assert environ == {"wsgi.file_wrapper": FileWrapper}


def interrupted(*args: Any) -> None:
    raise Interrupted
