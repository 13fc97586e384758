"""
The apps of end_to_end.py, for gunicorn to import: each answers with the value of one key.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pylibmc

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SERVERS = [os.environ["BENCHMARK_MEMCACHED"]]
SLOTS = int(os.environ["BENCHMARK_THREADS"])

blog_pool = pylibmc.ClientPool(pylibmc.Client(SERVERS), SLOTS)


def answer(mc: Any, start_response: StartResponse) -> Iterable[bytes]:
    value: bytes = mc.get("key")
    start_response("200 OK", [("Content-Length", str(len(value)))])
    return [value]


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return answer(environ["mc.client"], start_response)


ours = MemcachedPoolMiddleware(app, ClientPool(Client(SERVERS), SLOTS))


def blog(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    with blog_pool.reserve(block=True) as mc:
        return answer(mc, start_response)


def client_per_request(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return answer(pylibmc.Client(SERVERS), start_response)
