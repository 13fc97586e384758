"""Responses that the server drops without close(), and what is garbage."""

from __future__ import annotations

import contextlib
import gc
import queue
import sys
from collections.abc import Iterator
from typing import Any, Callable
from wsgiref.util import FileWrapper

import pytest
from apps import BlogPool, Closable, generating, raising, request, responding
from harness import no_collection

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware
from mcpool_wsgi.middleware.environ_keys import EnvironKeys


def test_client_is_released_when_the_server_drops_response_and_environ(pool: ClientPool) -> None:
    with no_collection():
        for inner in ([b"list"], Closable(), iter([b"iterator"])):
            environ: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper}
            response = request(MemcachedPoolMiddleware(responding(inner), pool), environ)
            del response
            assert pool.stats().in_use == 1
            del environ
            assert pool.stats().in_use == 0


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

    with no_collection():
        for inner in (OwnIterator(), Closable()):
            response = request(MemcachedPoolMiddleware(responding(inner), pool))
            chunks = iter(response)
            if half == "a chunk":
                next(chunks)
            del response, chunks
            assert pool.stats().in_use == 0


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


def test_nobody_else_gets_the_client_while_a_dropped_response_is_iterated(mc: Client) -> None:
    pool = ClientPool(mc, 1, timeout=0)
    middleware = MemcachedPoolMiddleware(generating(b"one", b"two"), pool)
    with no_collection():
        for _ in request(middleware):  # which keeps the iterator only
            with pytest.raises(queue.Empty):
                pool.reserve().__enter__()
        assert pool.stats().in_use == 0
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


@pytest.mark.parametrize("third_party", [False, True])
def test_interrupted_request_is_in_no_circle(
    mc: Client, monkeypatch: pytest.MonkeyPatch, third_party: bool
) -> None:
    """An interrupt may come before the end of a request has begun, after the app has raised."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    pool: Any = BlogPool(mc.clone() for _ in range(2)) if third_party else ClientPool(mc, 2)
    middleware = MemcachedPoolMiddleware(MemcachedPoolMiddleware(raising, pool), pool)
    monkeypatch.setattr(EnvironKeys, "end_request", interrupt)
    with no_collection():
        with contextlib.suppress(KeyboardInterrupt):
            request(middleware)
        assert len(pool) == 2 if third_party else pool.stats().in_use == 0
