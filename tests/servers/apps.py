"""What the servers serve: every app bare and behind the middleware, and the pools' own stats.

=====================  ==================================================================
``/bare/<app>``        the app alone
``/wrapped/<app>``     behind the middleware, on a pool with plenty of time
``/busy/<app>``        the same, on a pool of its own
``/hurried/<app>``     on a pool whose waits are short
``/narrow/<app>``      on a pool with one slot
``/-/stats``           the pools' stats and what the server put into environ
=====================  ==================================================================

A 503 on busy, hurried and narrow says in a header how long it took.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any, Callable
from urllib.parse import parse_qs
from wsgiref.util import FileWrapper

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware

from .catalogue import HOLD, HURRIED_TIMEOUT, SLOTS, TIMEOUT

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Any]

MEMCACHED = os.environ["TEST_MEMCACHED"]
FILE = os.environ["TEST_FILE"]

PLAIN = ("Content-Type", "text/plain")
APPS: dict[str, App] = {}


def app(function: App) -> App:
    APPS[function.__name__] = function
    return function


def greet(environ: Environ) -> bytes:
    """Use the client, if there is one: bare apps have none."""
    mc = environ.get("mc.client")
    if mc is not None:
        mc.get("greeting")
    return b"hello"


@app
def one_item(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [PLAIN])
    return [greet(environ)]


@app
def two_items(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [PLAIN])
    return [greet(environ), b" world"]


@app
def no_item(environ: Environ, start_response: StartResponse) -> Any:
    greet(environ)
    start_response("200 OK", [PLAIN])
    return []


@app
def empty_item(environ: Environ, start_response: StartResponse) -> Any:
    greet(environ)
    start_response("200 OK", [PLAIN])
    return [b""]


@app
def one_item_tuple(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [PLAIN])
    return (greet(environ),)


@app
def with_length(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [PLAIN, ("Content-Length", "5")])
    return [greet(environ)]


@app
def no_content(environ: Environ, start_response: StartResponse) -> Any:
    greet(environ)
    start_response("204 No Content", [])
    return []


@app
def generator(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [PLAIN])
    return (greet(environ) for _ in range(3))


@app
def lazy_generator(environ: Environ, start_response: StartResponse) -> Any:
    start_response("201 Created", [PLAIN, ("X-Lazy", "yes")])
    yield greet(environ)
    yield b" world"


@app
def write(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [PLAIN])(greet(environ))
    return [b" world"]


def wrap_file(environ: Environ, file: Any) -> Any:
    return environ.get("wsgi.file_wrapper", FileWrapper)(file, 8192)


@app
def file(environ: Environ, start_response: StartResponse) -> Any:
    greet(environ)
    start_response("200 OK", [PLAIN])
    return wrap_file(environ, open(FILE, "rb"))


@app
def file_with_length(environ: Environ, start_response: StartResponse) -> Any:
    greet(environ)
    start_response("200 OK", [PLAIN, ("Content-Length", str(os.path.getsize(FILE)))])
    return wrap_file(environ, open(FILE, "rb"))


@app
def file_in_memory(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [PLAIN])
    return wrap_file(environ, io.BytesIO(greet(environ) * 4000))


@app
def raises(environ: Environ, start_response: StartResponse) -> Any:
    raise RuntimeError(f"{greet(environ)!r}, says the test")


@app
def raises_at_first_chunk(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [PLAIN])
    return (1 / 0 if greet(environ) else b"" for _ in range(1))


@app
def raises_at_later_chunk(environ: Environ, start_response: StartResponse) -> Any:
    def chunks() -> Iterator[bytes]:
        yield greet(environ)
        raise RuntimeError("says the test")

    start_response("200 OK", [PLAIN])
    return chunks()


@app
def start_response_never_called(environ: Environ, start_response: StartResponse) -> Any:
    return [greet(environ)]


@app
def none(environ: Environ, start_response: StartResponse) -> Any:
    greet(environ)
    start_response("200 OK", [PLAIN])


class RaisesInClose:
    def __init__(self, item: bytes) -> None:
        self.item = item

    def __iter__(self) -> Iterator[bytes]:
        yield self.item

    def close(self) -> None:
        raise RuntimeError("says the test")


@app
def raises_in_close(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [PLAIN, ("Content-Length", "5")])
    return RaisesInClose(greet(environ))


class FileUsingItsClientAtClose(io.FileIO):
    environ: Environ

    def close(self) -> None:
        if not self.closed:
            use_at_close(self.environ)
        super().close()


def use_at_close(environ: Environ) -> None:
    environ["mc.client"].set("closed", environ["QUERY_STRING"])


@app
def file_using_its_client_at_close(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [PLAIN, ("Content-Length", str(os.path.getsize(FILE)))])
    opened = FileUsingItsClientAtClose(FILE)
    opened.environ = environ
    return wrap_file(environ, opened)


@app
def generator_using_its_client_at_close(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [PLAIN, ("Content-Length", "5")])
    try:
        yield greet(environ)
    finally:
        use_at_close(environ)


@app
def stream(environ: Environ, start_response: StartResponse) -> Any:
    """More than any socket buffer takes, so that it ends only when the client goes away."""
    start_response("200 OK", [PLAIN])
    greet(environ)
    return (b"x" * 65536 for _ in range(4000))


@app
def remember(environ: Environ, start_response: StartResponse) -> Any:
    """Store the value under the key, and answer with what memcached then has there."""
    query = parse_qs(environ["QUERY_STRING"])
    mc = environ["mc.client"]
    mc.set(query["key"][0], query["value"][0])
    value = mc.get(query["key"][0])
    start_response("200 OK", [PLAIN])
    return [repr(value).encode()]


@app
def hold(environ: Environ, start_response: StartResponse) -> Any:
    """Keep the client for a while."""
    time.sleep(HOLD)
    return remember(environ, start_response)


def pool(slots: int, timeout: float) -> ClientPool:
    return ClientPool(Client([MEMCACHED]), slots, timeout=timeout)


POOLS = {
    "wrapped": pool(SLOTS, TIMEOUT),
    "busy": pool(SLOTS, TIMEOUT),
    "hurried": pool(SLOTS, HURRIED_TIMEOUT),
    "narrow": pool(1, TIMEOUT),
}
ROADS: dict[str, dict[str, App]] = {"bare": APPS}
ROADS.update(
    (road, {name: MemcachedPoolMiddleware(function, pool) for name, function in APPS.items()})
    for road, pool in POOLS.items()
)


def telling_how_long(start_response: StartResponse) -> StartResponse:
    """Add to a 503 how many seconds it took."""
    began = time.monotonic()

    def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
        if status.startswith("503"):
            headers = [*headers, ("X-Waited", str(time.monotonic() - began))]
        return start_response(status, headers, *more)

    return start


def stats(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    report = {
        "pools": {name: dataclasses.asdict(pool.stats()) for name, pool in POOLS.items()},
        "multithread": bool(environ["wsgi.multithread"]),
        "multiprocess": bool(environ["wsgi.multiprocess"]),
        "pid": os.getpid(),
    }
    body = json.dumps(report).encode()
    start_response(
        "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    )
    return [body]


def application(environ: Environ, start_response: StartResponse) -> Any:
    _, road, name = environ["PATH_INFO"].split("/")
    if road == "-":
        return stats(environ, start_response)
    if road not in ("bare", "wrapped"):
        start_response = telling_how_long(start_response)
    return ROADS[road][name](environ, start_response)
