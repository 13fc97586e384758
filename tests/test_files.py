"""Responses that are files."""

from __future__ import annotations

import contextlib
import gc
import io
import weakref
from collections.abc import Iterator
from typing import Any, Callable
from wsgiref.util import FileWrapper

import pytest
from apps import Closable, request, wrapping_a_file

from mcpool_wsgi import (
    Client,
    ClientPool,
    LentClient,
    MemcachedPoolMiddleware,
)


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
