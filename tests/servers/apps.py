"""The apps that the servers serve, bare and behind the middleware, and the stats of the pools.

=====================  ==================================================================
``/bare/<app>``        the app alone
``/wrapped/<app>``     behind the middleware, with a pool of several slots
``/busy/<app>``        the same, with another pool
``/hurried/<app>``     with a pool whose timeout is short
``/narrow/<app>``      with a pool of one slot
``/-/stats``           the stats of the pools, and some of the environ
=====================  ==================================================================

A 503 of busy, hurried and narrow has a header with the seconds that the request took.
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

from mcpool_wsgi import Client, ClientPool, ClientReleased, MemcachedPoolMiddleware

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
    """Use the client. A bare app has none."""
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
def bytes_alone(environ: Environ, start_response: StartResponse) -> Any:
    """Not WSGI, but some servers send it."""
    start_response("200 OK", [PLAIN, ("Content-Length", "5")])
    return greet(environ)


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


def release(environ: Environ) -> None:
    """Release the client early. From then on its commands raise. A bare app has none."""
    mc = environ.get("mc.client")
    if mc is not None:
        environ["mc.client.release"]()
        assert environ["mc.client"] is mc
        try:
            mc.get("greeting")
        except ClientReleased:
            return
        raise AssertionError("a released client must not work")


@app
def early_release(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [PLAIN])
    body = greet(environ)
    release(environ)
    return [body]


def endless() -> Iterator[bytes]:
    """More bytes than any socket buffer takes. It ends only when the HTTP client goes away."""
    return (b"x" * 65536 for _ in range(4000))


@app
def stream(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [PLAIN])
    greet(environ)
    return endless()


@app
def stream_after_release(environ: Environ, start_response: StartResponse) -> Any:
    start_response("200 OK", [PLAIN])
    greet(environ)
    release(environ)
    return endless()


@app
def remember(environ: Environ, start_response: StartResponse) -> Any:
    """Store the value under the key, and answer with the value that memcached then has."""
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


def with_duration(start_response: StartResponse) -> StartResponse:
    """Add a header to a 503: the seconds that the request took."""
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
        "leftovers": sorted(LEFTOVERS),
    }
    body = json.dumps(report).encode()
    start_response(
        "200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    )
    return [body]


#: The middleware's keys that an environ had at the beginning of a request. Some servers use an
#: environ for several requests.
LEFTOVERS: set[str] = set()


def application(environ: Environ, start_response: StartResponse) -> Any:
    LEFTOVERS.update(key for key in environ if key.startswith("mc."))
    _, road, name = environ["PATH_INFO"].split("/")
    if road == "-":
        return stats(environ, start_response)
    if road not in ("bare", "wrapped"):
        start_response = with_duration(start_response)
    return ROADS[road][name](environ, start_response)
