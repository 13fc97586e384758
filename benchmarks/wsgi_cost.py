"""
Middleware
==========

What a request costs, as a server sees it: the app is called with an environ of its own (a
copy of one as large as gunicorn's) and a ``start_response`` that does nothing, and what
it returns is iterated and closed. What something costs *over* the bare app is the
difference to the bare app's time in the same round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import pylibmc
from contenders import BLOG, NOWHERE, OURS, OURS_BY_THREAD, PYLIBMC, make_blog_pool
from measure import Figures, Track, interleaved, over, timer
from werkzeug.wsgi import ClosingIterator

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware, ThreadMappedPool

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

BARE = "the bare app"
NOTHING = "a closing middleware that does nothing"
OURS_HERE = f"the middleware on {OURS}"
BLOG_INSIDE = f"{BLOG}, inside the app"
BEHIND = "behind the middleware"

SLOTS = 12
ENVIRON: WSGIEnvironment = {f"HTTP_X_HEADER_{number}": "value" for number in range(8)}
setup_testing_defaults(ENVIRON)
HEADERS = [("Content-Type", "text/plain")]


def bare_app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", HEADERS)
    return [b"hello"]


def streaming_app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", HEADERS)
    for _ in range(100):
        yield b"hello"


class NothingMiddleware:
    """The least that a middleware which must hear of the end can do."""

    def __init__(self, app: WSGIApplication) -> None:
        self._app = app

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return NothingResponse(self._app(environ, start_response))


class NothingResponse:
    __slots__ = ("_response",)

    def __init__(self, response: Iterable[bytes]) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._response)

    def close(self) -> None:
        close = getattr(self._response, "close", None)
        if close is not None:
            close()


def reserving_app(pool: Any) -> WSGIApplication:
    """The blog's: reserves in the app, for as long as the app runs."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with pool.reserve():
            start_response("200 OK", HEADERS)
            return [b"hello"]

    return app


def closing_iterator_app(pool: Any) -> WSGIApplication:
    """The same middleware as it is quickly written with Werkzeug."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reservation = pool.reserve()
        environ["mc.client"] = reservation.__enter__()
        response = bare_app(environ, start_response)
        return ClosingIterator(response, lambda: reservation.__exit__(None, None, None))

    return app


def request(app: WSGIApplication) -> None:
    """One, as every server does it."""
    response = app(ENVIRON.copy(), start_response)
    try:
        for _ in response:
            pass
    finally:
        close = getattr(response, "close", None)
        if close is not None:
            close()


def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
    pass


def run(quick: bool, track: Track) -> Figures:
    """Nanoseconds for one request over the bare app, by what stands before it or in it."""
    mc, plain = Client(NOWHERE), pylibmc.Client(NOWHERE)
    plain_pool = pylibmc.ClientPool(plain, SLOTS)
    apps: dict[str, WSGIApplication] = {
        BARE: bare_app,
        NOTHING: NothingMiddleware(bare_app),
        OURS_HERE: MemcachedPoolMiddleware(bare_app, ClientPool(mc, SLOTS)),
        BLOG_INSIDE: reserving_app(make_blog_pool(SLOTS)),
        f"{PYLIBMC}, inside the app": reserving_app(plain_pool),
        f"{PYLIBMC} and Werkzeug's ClosingIterator": closing_iterator_app(plain_pool),
    }
    rounds = 60 if quick else 400
    figures = over(times(apps, track("cost of the middleware", rounds)), BARE)
    for name, pool in {
        OURS_BY_THREAD: ThreadMappedPool(mc),
        BLOG: make_blog_pool(SLOTS),
        PYLIBMC: plain_pool,
    }.items():
        apps = {
            BARE: bare_app,
            f"the middleware on {name}": MemcachedPoolMiddleware(bare_app, pool),
        }
        figures |= over(times(apps, track(f"... on {name}", rounds)), BARE)
    return figures


def run_streaming(quick: bool, track: Track) -> Figures:
    """Nanoseconds for one response of a hundred chunks."""
    pool = ClientPool(Client(NOWHERE), SLOTS)
    apps: dict[str, WSGIApplication] = {
        BARE: streaming_app,
        NOTHING: NothingMiddleware(streaming_app),
        BEHIND: MemcachedPoolMiddleware(streaming_app, pool),
    }
    return times(apps, track("a response of 100 chunks", 60 if quick else 400))


def times(apps: dict[str, WSGIApplication], rounds: Iterable[int]) -> Figures:
    timers = {name: timer("request(app)", request=request, app=app) for name, app in apps.items()}
    return interleaved(timers, rounds)
