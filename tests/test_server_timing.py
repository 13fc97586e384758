"""The header that says what memcached did for a request."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import hostile
import pytest
from apps import responding
from harness import in_threads
from webtest import TestApp

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware, PooledClient, get_client


def answer(app: Any, pool: ClientPool, **options: Any) -> Any:
    middleware = MemcachedPoolMiddleware(app, pool, server_timing=True, **options)
    return TestApp(middleware).get("/")


def started(start_response: Any) -> None:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Server-Timing", "db;dur=5")])


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_header_counts_commands_and_misses(mc: Client, lazy: bool, stream: bool) -> None:
    pool = ClientPool(mc, 1)
    cache = PooledClient(pool)

    def generate(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        client = get_client(environ)
        client.set("key", 1)
        client.get("missing")
        client.delete("missing")
        cache.get("key")
        client.get_multi(["key", "a", "b"])
        client.disconnect_all()  # sends nothing
        client.get_multi([])
        started(start_response)
        yield b"body"
        client.get("uncounted")

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        chunks = generate(environ, start_response)
        return chunks if stream else [next(chunks)]

    for _ in range(2):  # the second request does not count what the first has done
        response = answer(app, pool, lazy=lazy)
        own, ours = response.headers.getall("Server-Timing")
        assert own == "db;dur=5"
        assert re.fullmatch(r'memcached;dur=\d+\.\d;desc="5 commands, 4 misses"', ours)
        assert response.text == "body"


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("kind", ["list", "generator", "write"])
def test_app_may_call_start_response_before_its_commands(
    mc: Client, lazy: bool, kind: str
) -> None:
    def generate(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        get_client(environ).get("missing")
        if kind == "write":
            write(b"bo")
            get_client(environ).get("uncounted")
            write(b"dy")
        yield b"" if kind == "write" else b"body"

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        chunks = generate(environ, start_response)
        return list(chunks) if kind == "list" else chunks

    response = answer(app, ClientPool(mc, 1), lazy=lazy)
    assert response.headers["Server-Timing"].endswith('desc="1 command, 1 miss"')
    assert response.text == "body"


def test_server_gets_a_start_response_before_an_error_of_the_app(pool: ClientPool) -> None:
    started: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        raise ZeroDivisionError

    middleware: Any = MemcachedPoolMiddleware(app, pool, server_timing=True)
    with pytest.raises(ZeroDivisionError):
        middleware({}, lambda *args: started.append(args))
    assert started == [("200 OK", [])]


def test_response_is_closed_if_the_server_refuses_its_headers(pool: ClientPool) -> None:
    closed: list[bool] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"body"])

        def close(self) -> None:
            closed.append(True)

    def app(environ: dict[str, Any], start_response: Any) -> Body:
        start_response("200 OK", [("bad", "header\n")])
        return Body()

    def refuse(*args: Any) -> Any:
        raise ValueError("bad header")

    middleware: Any = MemcachedPoolMiddleware(app, pool, server_timing=True)
    with pytest.raises(ValueError, match="bad header"):
        middleware({}, refuse)
    assert closed == [True]
    assert pool.stats().in_use == 0


def test_header_counts_failures_and_has_singular_forms() -> None:
    with hostile.refusing() as address:
        pool = ClientPool(Client([address], fail_soft=True), 1)

        def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
            get_client(environ).get("key")
            started(start_response)
            return [b""]

        (_, ours) = answer(app, pool).headers.getall("Server-Timing")
    assert ours.endswith('desc="1 command, 1 failure"')


def test_request_without_commands_has_no_header(mc: Client) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        started(start_response)
        return [b""]

    assert answer(app, ClientPool(mc, 1)).headers.getall("Server-Timing") == ["db;dur=5"]


def test_no_header_unless_it_is_asked_for(pool: ClientPool) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        get_client(environ).get("missing")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    assert "Server-Timing" not in TestApp(MemcachedPoolMiddleware(app, pool)).get("/").headers


def test_app_may_name_the_parameter_of_start_response(mc: Client) -> None:
    """PEP 3333 forbids it, but every server takes it."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        get_client(environ).get("missing")
        start_response("200 OK", [("Content-Type", "text/plain")], exc_info=None)
        return [b""]

    assert answer(app, ClientPool(mc, 1)).headers.getall("Server-Timing")


def test_start_response_gets_what_the_app_gives_it(pool: ClientPool) -> None:
    started: list[Any] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        start_response("500 Oops", [], (None, None, None))
        return []

    middleware: Any = MemcachedPoolMiddleware(app, pool, server_timing=True)
    middleware({}, lambda *args: started.append(args)).close()
    assert started == [("200 OK", []), ("500 Oops", [], (None, None, None))]


def test_commands_after_a_subrequest_are_counted(mc: Client) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if "test.inner" not in environ:
            middleware({**environ, "test.inner": True}, lambda *_: lambda data: None)
        get_client(environ).get("key")
        started(start_response)
        return [b""]

    middleware: Any = MemcachedPoolMiddleware(app, ClientPool(mc, 2), server_timing=True)
    (_, ours) = TestApp(middleware).get("/").headers.getall("Server-Timing")
    assert ours.endswith('desc="1 command, 1 miss"')


def test_commands_outside_of_a_request_are_nobodys(
    pool: ClientPool, caplog: pytest.LogCaptureFixture
) -> None:
    MemcachedPoolMiddleware(responding([]), pool, server_timing=True)
    with pool.reserve() as client:
        client.get("missing")
    assert caplog.records == []


def test_requests_of_other_threads_are_not_counted(mc: Client) -> None:
    pool = ClientPool(mc, 4)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        for number in range(50):
            get_client(environ).set("key", number)
        started(start_response)
        return [b""]

    def work() -> None:
        (_, ours) = answer(app, pool).headers.getall("Server-Timing")
        assert '"50 commands"' in ours
        assert "dur=0.0;" not in ours

    in_threads([work] * 4)


class _Chunk(bytes):
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("a chunk was compared")

    __hash__ = bytes.__hash__


@pytest.mark.parametrize("lazy", [False, True])
def test_chunks_are_not_compared(mc: Client, lazy: bool) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        started(start_response)
        yield from (_Chunk(b"a"), _Chunk(b"b"))

    assert answer(app, ClientPool(mc, 1), lazy=lazy).body == b"ab"


def test_start_response_raises_the_error_of_an_app_whose_headers_were_sent(mc: Client) -> None:
    went_on = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        if exc_info is not None:
            raise exc_info[1]

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        get_client(environ).get("key")
        start_response("200 OK", [])
        yield b"chunk"
        try:
            raise LookupError("late")
        except LookupError:
            start_response("500 Internal Server Error", [], sys.exc_info())
        went_on.append(True)

    middleware = MemcachedPoolMiddleware(app, ClientPool(mc, 1), server_timing=True)
    response: Any = middleware({}, start_response)
    with pytest.raises(LookupError, match="late"):
        list(response)
    response.close()
    assert went_on == []
