"""Responses that are files."""

from __future__ import annotations

import contextlib
import io
import weakref
from collections.abc import Iterator
from typing import Any, Callable
from wsgiref.util import FileWrapper

import pytest
from apps import Closable, request, serve, wrapping_a_file
from harness import no_collection

from mcpool_wsgi import Client, ClientPool, LentClient, MemcachedPoolMiddleware


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


class Unclosing:
    """As bjoern has it: a type that is written in C and does not always close its file."""

    __slots__ = ("file",)

    def __init__(self, file: Any) -> None:
        self.file = file

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.file)


@pytest.mark.parametrize("wrapper", [Unclosing, lambda file: Closable()])
def test_response_is_closed_if_the_server_may_not_close_its_file(
    pool: ClientPool, wrapper: Any
) -> None:
    response = request(
        MemcachedPoolMiddleware(wrapping_a_file, pool), {"wsgi.file_wrapper": wrapper}
    )
    assert list(response) == [b"chunk"]
    assert pool.stats().in_use == 1
    response.close()
    assert pool.stats().in_use == 0


def test_file_is_closed_once(pool: ClientPool) -> None:
    file = Closable()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        return environ["wsgi.file_wrapper"](file)

    response = request(
        MemcachedPoolMiddleware(app, pool), {"wsgi.file_wrapper": lambda file: file}
    )
    response.close()
    response.close()
    assert (file.closed, pool.stats().in_use) == (1, 0)


def test_file_inside_another_response_leaves_the_client_alone(pool: ClientPool) -> None:
    """The app goes on using its client after it has closed the file."""
    used = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        file = environ["wsgi.file_wrapper"](io.BytesIO(b"chunk"))
        return around(file, environ["mc.client"])

    def around(file: Any, mc: LentClient) -> Iterator[bytes]:
        yield from file
        file.close()
        file.close()
        used.append(mc.set("key", "value"))

    environ = {"wsgi.file_wrapper": FileWrapper}
    assert serve(MemcachedPoolMiddleware(app, pool), environ) == [b"chunk"]
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


@pytest.mark.parametrize("wrapper", [FileWrapper, lambda file: file])
@pytest.mark.parametrize("is_over", [False, True])
def test_file_of_a_subrequest_is_in_no_circle(mc: Client, is_over: bool, wrapper: Any) -> None:
    """The copy of an environ has the wrapper of the outer request, which raises or ends."""
    pool = ClientPool(mc, 2)
    inner = MemcachedPoolMiddleware(wrapping_a_file, pool)
    copies: list[dict[str, Any]] = []
    made: list[Any] = []
    files: list[weakref.ref[Any]] = []

    def server_wrapper(file: Any) -> Any:
        made.append(wrapper(file))
        return made[-1]

    def subrequest(environ: dict[str, Any]) -> None:
        response = request(inner, environ)
        assert response is made.pop()
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
    with no_collection():
        with contextlib.suppress(RuntimeError):
            request(middleware, {"wsgi.file_wrapper": server_wrapper}).close()
        if is_over:
            subrequest(copies.pop())
        assert [find() for find in files] == [None]


class FileThatKnowsItsClient(io.BytesIO):
    """A file that notes, when it is closed, whether the environ has the client of its request."""

    def __init__(self, environ: dict[str, Any]) -> None:
        super().__init__(b"chunk")
        self.environ = environ
        self.own = environ["mc.client"]
        self.found_its_client: bool | None = None

    def close(self) -> None:
        if not self.closed:
            self.found_its_client = self.environ.get("mc.client") is self.own
            assert self.own.set("key", "value")
        super().close()


def responding_with_a_file_that_knows_its_client(
    environ: dict[str, Any], start_response: Callable[..., Any]
) -> Any:
    environ["test.file"] = file = FileThatKnowsItsClient(environ)
    return environ["wsgi.file_wrapper"](file)


@pytest.mark.parametrize("first_closed", [0, 1])
def test_file_finds_its_client_whenever_it_is_closed(mc: Client, first_closed: int) -> None:
    """Two requests have one environ."""
    pool = ClientPool(mc, 2, timeout=0)
    middleware = MemcachedPoolMiddleware(responding_with_a_file_that_knows_its_client, pool)
    environ: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper}
    responses, files = [], []
    for _ in range(2):
        responses.append(request(middleware, environ))
        files.append(environ.pop("test.file"))
    for number in (first_closed, 1 - first_closed):
        responses[number].close()
        assert files[number].found_its_client
    assert environ == {"wsgi.file_wrapper": FileWrapper}
    assert (pool.stats().in_use, pool.stats().idle) == (0, 2)


def test_file_behind_a_middleware_that_wraps_it_finds_its_client(mc: Client) -> None:
    """The server gets no file, and the outer of two middlewares with one key closes it."""
    pool = ClientPool(mc, 2, timeout=0)
    inner = MemcachedPoolMiddleware(responding_with_a_file_that_knows_its_client, pool)

    def wrapping(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        inner_response: Any = inner(environ, start_response)

        class Response:
            __iter__ = inner_response.__iter__
            close = inner_response.close

        return Response()

    environ: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper}
    request(MemcachedPoolMiddleware(wrapping, pool), environ).close()
    assert environ.pop("test.file").found_its_client
    assert environ == {"wsgi.file_wrapper": FileWrapper}
    assert (pool.stats().in_use, pool.stats().idle) == (0, 2)
