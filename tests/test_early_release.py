"""Early release, and requests that share an environ."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Callable
from wsgiref.util import FileWrapper

import pytest
from apps import (
    BlogPool,
    Closable,
    generating,
    raising,
    request,
    responding,
    serve,
    wrapping_a_file,
)

from mcpool_wsgi import Client, ClientPool, ClientReleased, MemcachedPoolMiddleware


@pytest.mark.parametrize("before", [{}, {"mc.client": "somebody's"}])
def test_early_release_is_idempotent_and_final(pool: ClientPool, before: dict[str, Any]) -> None:
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

    response = request(MemcachedPoolMiddleware(app, pool), dict(before))
    assert list(response) == [b"streaming"]
    with pool.reserve():
        response.close()  # must not return it once more
        assert (pool.stats().in_use, pool.stats().idle) == (1, 0)


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
        {"mc.client.release": "somebody's"},
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
@pytest.mark.parametrize("third_party", [False, True])
def test_environ_is_as_it_was_whatever_the_app_does_with_the_function_that_releases(
    mc: Client, change: Callable[..., Any], before: dict[str, Any], third_party: bool
) -> None:
    """If a client of somebody else stayed, the app would use a client that it has released."""
    pool: Any = BlogPool([mc.clone()]) if third_party else ClientPool(mc, 1)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        change(environ)
        if third_party and change is take_release:
            assert "mc.client" not in environ
        return []

    environ = dict(before)
    response = request(MemcachedPoolMiddleware(app, pool), environ)
    response.close()
    assert environ == before
    environ["mc.client"] = "the next request's"
    response.close()
    assert environ["mc.client"] == "the next request's"
    environ.clear()
    response.close()
    assert environ == {}


class Response(Closable):
    """A response that finds the client of its request when it is closed, and uses it."""

    def __init__(self, environ: dict[str, Any]) -> None:
        super().__init__()
        self.environ = environ
        self.own = environ["mc.client"]

    def close(self) -> None:
        assert self.environ["mc.client"] is self.own
        assert self.own.set("key", "value")
        super().close()


def test_internal_redirect_whose_first_response_is_closed_late(mc: Client) -> None:
    pool = ClientPool(mc, 2, timeout=0)
    clients = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        clients.append(environ["mc.client"])
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
@pytest.mark.parametrize("third_party", [False, True])
def test_middlewares_in_a_row_leave_the_environ_as_it_was(
    mc: Client, depth: int, before: dict[str, Any], third_party: bool
) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        return [] if environ.get("list") else Response(environ)

    pool: Any = (
        BlogPool([mc.clone() for _ in range(depth)]) if third_party else ClientPool(mc, depth)
    )
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
def test_subrequest_from_inside_a_stream_leaves_the_stream_its_client(
    mc: Client, copy: bool
) -> None:
    """Werkzeug's test client copies the environ, other subrequests do not."""
    pool = ClientPool(mc, 2, timeout=0)
    environ: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        own = environ["mc.client"]
        yield b"before"
        if environ.get("inner") is None:
            inner_environ = {**environ, "inner": True} if copy else inner(environ)
            assert serve(middleware, inner_environ) == [b"before", b"after"]
            environ.pop("inner", None)
        assert environ["mc.client"] is own
        assert own.set("key", "value")
        yield b"after"

    def inner(environ: dict[str, Any]) -> dict[str, Any]:
        environ["inner"] = True
        return environ

    middleware = MemcachedPoolMiddleware(app, pool)
    assert serve(middleware, environ) == [b"before", b"after"]
    assert environ == {}
    assert pool.stats().in_use == 0


@pytest.mark.parametrize("third_party", [False, True])
def test_outer_app_uses_its_client_after_the_inner_one_has_ended(
    mc: Client, third_party: bool
) -> None:
    outer_pool: Any = BlogPool([mc.clone()]) if third_party else ClientPool(mc, 1)
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


def test_early_release_leaves_the_client_of_a_subrequest_though_both_have_the_same(
    mc: Client,
) -> None:
    class OneForAll:
        def reserve(self) -> contextlib.AbstractContextManager[Client]:
            return contextlib.nullcontext(mc)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ.setdefault("of the subrequest", False):
            return Closable()
        environ["of the subrequest"] = True
        release = environ["mc.client.release"]
        subresponse = request(middleware, environ)
        release()
        assert environ["mc.client"] is mc  # the subrequest goes on
        subresponse.close()
        assert "mc.client" not in environ
        return []

    middleware = MemcachedPoolMiddleware(app, OneForAll())
    environ: dict[str, Any] = {}
    request(middleware, environ).close()
    assert environ == {"of the subrequest": True}


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
