"""
End to end
==========

Requests per second of gunicorn, one worker with twelve threads, whose app does 1, 10 or 50 gets a
request. One server of each app runs, and another process loads them in turn.
"""

from __future__ import annotations

import http.client
import multiprocessing
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pylibmc
import pymemcache
from cachelib import MemcachedCache
from measure import Figures, interleaved

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware, PooledClient, get_client
from mcpool_wsgi.devserver import memcached

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

THREADS, SECONDS = 12, 1.0
GETS = (1, 10, 50)
OURS, POOLED = "the middleware", "mcpool_wsgi.PooledClient"
BLOG, PYMEMCACHE, CACHELIB = "the blog's app", "pymemcache.PooledClient", "cachelib"
NO_POOL = "a client per request"
KINDS = (OURS, POOLED, BLOG, CACHELIB, PYMEMCACHE, NO_POOL)


def make_app(kind: str, server: str) -> WSGIApplication:
    """What gunicorn calls to make its app. Its path is the number of gets."""
    plain = pylibmc.ClientPool(pylibmc.Client([server]), THREADS)
    pool = ClientPool(Client([server]), THREADS)
    shared = {
        POOLED: PooledClient(pool),
        PYMEMCACHE: pymemcache.PooledClient(server, max_pool_size=THREADS),
        CACHELIB: MemcachedCache([server], pool_size=THREADS),
    }

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if kind == OURS:
            return answer(get_client(environ), environ, start_response)
        if kind == BLOG:
            with plain.reserve(block=True) as mc:
                return answer(mc, environ, start_response)
        client = shared.get(kind) or pylibmc.Client([server])
        return answer(client, environ, start_response)

    return MemcachedPoolMiddleware(app, pool) if kind == OURS else app


def answer(mc: Any, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    for _ in range(int(environ["PATH_INFO"][1:])):
        value: bytes = mc.get("key")
    start_response("200 OK", [("Content-Length", str(len(value)))])
    return [value]


@contextmanager
def gunicorn(app: str) -> Iterator[int]:
    """A server of *app*, and its port."""
    # Bound here, so no two servers take the same port and nobody has to wait for them.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "gunicorn", f"--bind=fd://{listener.fileno()}"]
        command += ["--worker-class=gthread", f"--threads={THREADS}", "--log-level=warning", app]
        here = Path(__file__).resolve().parent
        process = subprocess.Popen(command, cwd=here, pass_fds=[listener.fileno()])
        try:
            yield listener.getsockname()[1]
        finally:
            process.terminate()
            process.wait()  # gunicorn itself kills a worker that does not end


def requests_per_second(rounds: int, gets: int) -> Figures:
    with ExitStack() as stack:
        server = stack.enter_context(memcached(embedded=False))
        pylibmc.Client([server.address]).set("key", b"v" * 100)
        spawn = multiprocessing.get_context("spawn")
        process = stack.enter_context(ProcessPoolExecutor(1, spawn))
        loads = {}
        for kind in KINDS:
            port = stack.enter_context(gunicorn(f"end_to_end:make_app{kind, server.address}"))
            loads[kind] = lambda port=port: process.submit(load, port, gets).result()
            loads[kind]()  # warms up
        return interleaved(loads, rounds)


def load(port: int, gets: int) -> float:
    """Requests per second that a server answers on twelve kept-alive connections."""
    end = time.monotonic() + SECONDS

    def ask(connection: http.client.HTTPConnection) -> int:
        answered = 0
        while time.monotonic() < end:
            connection.request("GET", f"/{gets}")
            response = connection.getresponse()
            if len(response.read()) != 100:
                raise RuntimeError(f"answered {response.status} {response.reason}")
            answered += 1
        connection.close()
        return answered

    with ThreadPoolExecutor(THREADS) as threads:
        connections = [http.client.HTTPConnection("127.0.0.1", port, 10) for _ in range(THREADS)]
        return sum(threads.map(ask, connections)) / SECONDS
