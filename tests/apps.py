"""Small WSGI apps, what they respond with, and how a server calls them."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Callable
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pylibmc


def request(app: Callable[..., Any], environ: dict[str, Any] | None = None) -> Any:
    """What *app* returns to a server."""
    base = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "wsgi.input": io.BytesIO(),
    }
    return app(base if environ is None else environ, lambda *_: lambda data: None)


def serve(app: Callable[..., Any], environ: dict[str, Any] | None = None) -> list[bytes]:
    """What a server sends that calls *app*."""
    response = request(app, environ)
    try:
        return list(response)
    finally:
        response.close()


class Quiet(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """*app* behind a server, and the URL of the server."""
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join(10)


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


def raising(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    raise RuntimeError("app")


class Interrupted(BaseException):
    pass


class BlogPool(list):  # type: ignore[type-arg]
    """As printed in the blog post."""

    @contextmanager
    def reserve(self) -> Iterator[Any]:
        mc = self.pop()
        try:
            yield mc
        finally:
            self.append(mc)


def third_party_pools(address: str) -> Iterable[Any]:
    mc = pylibmc.Client([address])
    return [
        BlogPool(mc.clone() for _ in range(2)),
        pylibmc.ClientPool(mc, 2),
        pylibmc.ThreadMappedPool(mc),
    ]
