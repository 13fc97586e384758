"""What happens when no client comes free, and lazy requests."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import pylibmc
import pytest
from apps import Closable, count_and_greet, generating, request, responding, serve
from harness import DEADLINE, eventually, in_thread, use, waiting
from webtest import TestApp

from mcpool_wsgi import (
    Client,
    ClientPool,
    MemcachedPoolMiddleware,
    PooledClient,
    PoolTimeout,
    get_client,
)


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


@pytest.mark.parametrize("multithread", [{}, {"wsgi.multithread": True}])
def test_request_waits_for_a_client(mc: Client, multithread: dict[str, Any]) -> None:
    pool = ClientPool(mc, 1, timeout=60)
    app = MemcachedPoolMiddleware(count_and_greet, pool)
    bodies: list[bytes] = []
    environ = {"REQUEST_METHOD": "GET", **multithread}
    holder = pool.reserve()
    holder.__enter__()
    with waiting(pool, lambda: bodies.extend(serve(app, environ))):
        holder.release()
    assert bodies == [b"visit 1"]


@pytest.mark.parametrize("is_patched", [False, True])
def test_request_waits_for_a_client_that_its_own_thread_has_reserved(
    mc: Client, monkeypatch: pytest.MonkeyPatch, is_patched: bool
) -> None:
    """Another thread may release it, or a greenlet, if gevent has patched the lock."""
    if is_patched:
        monkeypatch.setattr(threading, "Lock", lambda lock=threading.Lock: lock())
    pool = ClientPool(mc, 1, timeout=60)
    client = pool.reserve().__enter__()

    def release() -> None:
        eventually(lambda: pool.stats().waiting == 1)
        client.release()

    other = threading.Thread(target=release, daemon=True)
    other.start()
    app = MemcachedPoolMiddleware(count_and_greet, pool)
    environ = {"REQUEST_METHOD": "GET", "wsgi.multithread": not is_patched}
    assert serve(app, environ) == [b"visit 1"]
    other.join(DEADLINE)


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


@pytest.mark.parametrize("lazy", [False, True])
def test_only_thread_of_a_server_waits_for_threads_of_the_program(mc: Client, lazy: bool) -> None:
    """A thread in the background has the client for the length of a command."""
    pool = ClientPool(mc, 1, timeout=60)
    app = MemcachedPoolMiddleware(count_and_greet, pool, lazy=lazy)
    reserved = threading.Event()

    def work() -> None:
        with pool.reserve():
            reserved.set()
            eventually(lambda: pool.stats().waiting == 1)

    background = threading.Thread(target=work, daemon=True)
    background.start()
    assert reserved.wait(DEADLINE)
    assert serve(app, {"wsgi.multithread": False, "REQUEST_METHOD": "GET"}) == [b"visit 1"]
    background.join(DEADLINE)
    assert pool.stats().timeouts == 0


def test_only_thread_of_a_server_waits_for_a_client_that_is_being_made(mc: Client) -> None:
    """The server's thread was the last one that had the slot."""

    class Renewed(Client):
        def clone(self) -> Renewed:
            if threading.current_thread() is background:
                is_made.set()
                eventually(lambda: pool.stats().waiting == 1)
            return super().clone()

    is_made = threading.Event()
    background = threading.Thread(target=lambda: use(pool), daemon=True)
    pool = ClientPool(Renewed(mc.addresses), 1, timeout=60)
    app = MemcachedPoolMiddleware(count_and_greet, pool)
    environ = {"wsgi.multithread": False, "REQUEST_METHOD": "GET"}
    assert serve(app, dict(environ)) == [b"visit 1"]
    pool.disconnect_all()
    background.start()
    assert is_made.wait(DEADLINE)
    assert serve(app, dict(environ)) == [b"visit 2"]
    background.join(DEADLINE)
    assert pool.stats().timeouts == 0


def test_only_thread_of_a_server_waits_for_no_request_whose_thread_has_a_client(
    mc: Client,
) -> None:
    """Threads of two requests reserve their lazy clients, while the server's thread waits."""
    pool = ClientPool(mc, 1, timeout=60)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        visits: list[bytes] = []
        in_thread(lambda: visits.extend(count_and_greet(environ, start_response)))
        return visits

    lazy_app = MemcachedPoolMiddleware(app, pool, lazy=True)
    eager_app = MemcachedPoolMiddleware(app, pool)
    environ = {"wsgi.multithread": False, "REQUEST_METHOD": "GET"}
    running = request(lazy_app, dict(environ))
    began = time.monotonic()
    for other_app in (lazy_app, eager_app):
        response = request(other_app, dict(environ))
        assert b"in use" in b"".join(response)
        response.close()
    assert time.monotonic() - began < DEADLINE
    running.close()
    assert pool.stats().in_use == 0


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


@pytest.mark.parametrize("tells_requests", [False, True])
def test_lazy_request_that_finds_no_client_is_answered_by_on_exhausted(
    mc: Client, tells_requests: bool
) -> None:
    pool = ClientPool(mc, 1, timeout=0)
    if tells_requests:
        PooledClient(pool)
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


class Page:
    """A response that asks for its value when it is asked for its chunks."""

    def __init__(self, environ: Any, start_response: Any) -> None:
        self.mc, self.start_response = get_client(environ), start_response

    def __iter__(self) -> Iterator[bytes]:
        value = self.mc.get("key")
        self.start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([str(value).encode()])


class GeneratingPage(Page):
    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[bytes]:
        yield from super().__iter__()


@pytest.mark.parametrize("page", [Page, GeneratingPage])
def test_lazy_response_that_asks_in_its_iter_is_answered_by_on_exhausted(
    mc: Client, page: type[Page]
) -> None:
    pool = ClientPool(mc, 1, timeout=0)
    app = TestApp(MemcachedPoolMiddleware(page, pool, lazy=True))
    with pool.reserve():
        app.get("/", status=503)
    assert app.get("/").text == "None"


def test_lazy_response_has_its_length(mc: Client) -> None:
    middleware = MemcachedPoolMiddleware(GeneratingPage, ClientPool(mc, 1), lazy=True)
    assert len(request(middleware)) == 1


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
    assert serve(middleware) == [b"one", b"two"]


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


def test_empty_response_that_has_not_started_is_sent(mc: Client) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield from ()

    pool = ClientPool(mc, 1)
    assert TestApp(MemcachedPoolMiddleware(app, pool, lazy=True)).get("/").body == b""


def test_response_of_on_exhausted_is_closed(mc: Client) -> None:
    busy = Closable()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        yield get_client(environ).get("key")

    pool = ClientPool(mc, 1, timeout=0)
    with pool.reserve():
        middleware = MemcachedPoolMiddleware(app, pool, lazy=True, on_exhausted=responding(busy))
        response = request(middleware)
        assert list(response) == [b"chunk"]
        assert busy.closed == 0
        response.close()
    assert busy.closed == 1


def test_lazy_request_passes_exc_info_on(mc: Client) -> None:
    started: list[Any] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        start_response("500 Oops", [], exc_info=None)
        start_response("500 Oops", [], (None, None, None))
        return []

    middleware: Any = MemcachedPoolMiddleware(app, ClientPool(mc, 1), lazy=True)
    middleware({}, lambda *args: started.append(args)).close()
    assert started == [("200 OK", []), ("500 Oops", []), ("500 Oops", [], (None, None, None))]


def test_time_out_of_another_pool_in_a_stream_is_the_apps(mc: Client) -> None:
    other = ClientPool(mc, 1, timeout=0)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        yield other.reserve().__enter__().get("key")

    with other.reserve(), pytest.raises(PoolTimeout):
        list(request(MemcachedPoolMiddleware(app, ClientPool(mc, 1), lazy=True)))


def test_lazy_middleware_works_once_its_pool_is_filled(mc: Client) -> None:
    pool = ClientPool()
    app = TestApp(MemcachedPoolMiddleware(count_and_greet, pool, lazy=True))
    pool.fill(mc, 1)
    assert app.get("/").text == "visit 1"


def test_lazy_middleware_over_a_pool_of_plain_clients_is_refused_at_once(address: str) -> None:
    pool = ClientPool(pylibmc.Client([address]), 1)
    with pytest.raises(TypeError, match="lazy"):
        MemcachedPoolMiddleware(count_and_greet, pool, lazy=True)
