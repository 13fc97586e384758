"""The app that tests/monitoring.py runs: it uses a pool, and answers scrapes."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import pylibmc
from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app, multiprocess

from mcpool_wsgi import Client, ClientPool, LentClient, PoolTimeout
from mcpool_wsgi.metrics import PoolCollector

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

#: Milliseconds. The machine may be so busy that nothing answers for a while.
LIMITS = {"connect_timeout": 10_000, "_poll_timeout": 10_000}

client = Client([os.environ["TEST_MEMCACHED"]], LIMITS, command_timeout=10)
pool = ClientPool(client, int(os.environ["TEST_SLOTS"]), timeout=20, name="default")
REGISTRY.register(PoolCollector([pool]))


def app(environ: dict[str, Any], start_response: StartResponse) -> Any:
    """Answers with the number of the worker."""
    if environ["PATH_INFO"] == "/metrics":
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return make_wsgi_app(registry)(environ, start_response)
    if environ["PATH_INFO"] != "/":
        with pool.reserve() as mc:
            {"/read": read, "/trouble": trouble}[environ["PATH_INFO"]](mc)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % os.getpid()]


def read(mc: LentClient) -> None:
    """A hit and a miss."""
    mc.set("key", 1)
    assert mc.get("key") == 1
    assert mc.get("missing") is None


def trouble(mc: LentClient) -> None:
    """A command that fails, clients that are renewed, a reservation that times out."""
    with contextlib.suppress(pylibmc.Error):
        mc.set("large", b"x" * (1 << 21))
    pool.set_servers(mc.addresses)
    with contextlib.ExitStack() as stack, contextlib.suppress(PoolTimeout):
        while True:
            stack.enter_context(pool.reserve(timeout=0.01))
