"""
Contenders
==========

The pools and apps that are compared, each with the shortest correct way to use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Callable
from wsgiref.util import setup_testing_defaults

import pylibmc
from pymemcache import Client as PymemcacheClient
from pymemcache.pool import ObjectPool

from mcpool_wsgi import Client, ClientPool, ThreadMappedPool

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

OURS = "mcpool_wsgi.ClientPool"
OURS_BY_THREAD = "mcpool_wsgi.ThreadMappedPool"
BLOG = "the blog's ClientPool(list)"
PYLIBMC = "pylibmc.ClientPool"
PYLIBMC_BY_THREAD = "pylibmc.ThreadMappedPool"
BY_THREAD = (OURS_BY_THREAD, PYLIBMC_BY_THREAD)
PYMEMCACHE = "pymemcache ObjectPool"

NOWHERE = ["127.0.0.1:1"]  # no command is sent, so no connection is opened
HEADERS = [("Content-Type", "text/plain")]


class BlogPool(list):  # type: ignore[type-arg]
    """The pool of the blog post and of pylibmc's documentation."""

    @contextmanager
    def reserve(self) -> Iterator[Any]:
        mc = self.pop()
        try:
            yield mc
        finally:
            self.append(mc)


class PymemcachePool(ObjectPool):  # type: ignore[misc]
    """The pool of pymemcache's PooledClient."""

    reserve = ObjectPool.get_and_release


#: Makes a pool of so many slots. Its reserve() returns a context manager.
POOLS: dict[str, Callable[[int], Any]] = {
    OURS: lambda slots: ClientPool(Client(NOWHERE), slots),
    OURS_BY_THREAD: lambda slots: ThreadMappedPool(Client(NOWHERE)),
    BLOG: lambda slots: BlogPool(pylibmc.Client(NOWHERE) for _ in range(slots)),
    PYLIBMC: lambda slots: pylibmc.ClientPool(pylibmc.Client(NOWHERE), slots),
    PYLIBMC_BY_THREAD: lambda slots: pylibmc.ThreadMappedPool(pylibmc.Client(NOWHERE)),
    PYMEMCACHE: lambda slots: PymemcachePool(lambda: PymemcacheClient(NOWHERE[0]), max_size=slots),
}


def bare(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", HEADERS)
    return [b"hello"]


def streaming(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", HEADERS)
    for _ in range(100):
        yield b"hello"


def reserving(pool: Any) -> WSGIApplication:
    """The blog's app: it reserves a client for as long as the app runs."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with pool.reserve():
            start_response("200 OK", HEADERS)
            return [b"hello"]

    return app


#: As large as gunicorn's.
ENVIRON: WSGIEnvironment = {f"HTTP_X_HEADER_{number}": "value" for number in range(8)}
setup_testing_defaults(ENVIRON)


def request(app: WSGIApplication) -> None:
    """Call *app* as servers do."""
    response = app(ENVIRON.copy(), ignore)
    try:
        for _ in response:
            pass
    finally:
        close = getattr(response, "close", None)
        if close is not None:
            close()


def ignore(status: str, headers: Any, exc_info: Any = None) -> Any:
    """The server's ``start_response``."""
