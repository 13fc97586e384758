"""The middleware: what the app finds, what the server sees, and which arguments are refused."""

from __future__ import annotations

import wsgiref.validate
from collections.abc import Iterator
from typing import Any, Callable

import pylibmc
import pytest
from apps import Closable, count_and_greet, generating, request, responding
from webtest import TestApp
from webtest.lint import middleware as lint

from mcpool_wsgi import (
    Client,
    ClientPool,
    LentClient,
    MemcachedPoolMiddleware,
    ThreadMappedPool,
    get_client,
)


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


@pytest.mark.parametrize(
    "options", [{}, {"lazy": True}, {"server_timing": True}], ids=lambda options: str([*options])
)
def test_length_is_the_apps_or_none(pool: ClientPool, options: dict[str, Any]) -> None:
    for inner, length in ([b"a"], 1), ((b"a", b"b"), 2), ([], 0):
        response = request(MemcachedPoolMiddleware(responding(inner), pool, **options))
        assert len(response) == length
        assert list(response) == list(response) == list(inner)
        response.close()
    for app in generating(b"a"), responding(Closable()):
        response = request(MemcachedPoolMiddleware(app, pool, **options))
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


@pytest.mark.parametrize("lazy", [False, True])
def test_server_gets_the_iterator_of_the_app(pool: ClientPool, lazy: bool) -> None:
    """So a chunk costs no more than without the middleware."""
    chunks = iter([b"a", b"b"])
    response = request(MemcachedPoolMiddleware(responding(chunks), pool, lazy=lazy))
    assert iter(response) is chunks
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
