"""An app that uses a cache before its server forks, behind the middleware or not."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable
from typing import Any

from mcpool_wsgi import MemcachedPoolMiddleware

from .libraries import LIBRARIES

KEYS = 100
READS = 50  # per request

_open = LIBRARIES[os.environ["TEST_LIBRARY"]][1]
_opened = _open([os.environ["TEST_MEMCACHED"]], size=2)  # kept, or it would end
cache = _opened.__enter__()
for number in range(KEYS):
    cache.set(f"key{number}", f"value{number}")


def bare(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Reads values, and counts those that are wrong."""
    numbers = random.choices(range(KEYS), k=READS)
    wrong = sum(cache.get(f"key{number}") != f"value{number}" for number in numbers)
    stats = cache.pool.stats()
    answer = {"pid": os.getpid(), "wrong": wrong, "size": stats.size, "parent": parent}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


parent = os.getpid()
wrapped = MemcachedPoolMiddleware(bare, cache.pool)


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    app = wrapped if environ["PATH_INFO"] == "/wrapped" else bare
    return app(environ, start_response)
