"""No error waits for the garbage collector: it would keep a client and its connection."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable

import hostile
import pylibmc
import pytest

from mcpool_wsgi import Client, ClientPool, PooledClient

FAULTS: dict[str, hostile.Script] = {
    "client error": hostile.answers(b"CLIENT_ERROR no\r\n"),
    "server error": hostile.answers(b"SERVER_ERROR busy\r\n"),
    "closed": hostile.answers_once(b""),
    "nonsense": hostile.answers(b"nonsense\r\n"),
    "silent": hostile.silent,
}
COMMANDS: dict[str, Callable[[Any], object]] = {
    "get": lambda mc: mc.get("key"),
    "gets": lambda mc: mc.gets("key"),
    "get_multi": lambda mc: mc.get_multi(["key", "other"]),
    "set": lambda mc: mc.set("key", 1),
    "set_multi": lambda mc: mc.set_multi({"key": 1}),
    "add_multi": lambda mc: mc.add_multi({"key": 1}),
    "incr": lambda mc: mc.incr("key"),
    "incr_multi": lambda mc: mc.incr_multi(["key", "other"]),
    "cas": lambda mc: mc.cas("key", 1, 1),
    "delete": lambda mc: mc.delete("key"),
    "delete_multi": lambda mc: mc.delete_multi(["key", "other"]),
    "touch": lambda mc: mc.touch("key", 1),
    "get_stats": lambda mc: mc.get_stats(),
    "flush_all": lambda mc: mc.flush_all(),
}


@contextlib.contextmanager
def keeping_garbage() -> Iterator[None]:
    """From here on, what only the garbage collector can free is in ``gc.garbage``."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2], ids=["one server", "two servers"])
@pytest.mark.parametrize("fault", [*FAULTS, "refused", "login", "expired"])
def test_error_is_freed_without_the_garbage_collector(fault: str, number: int) -> None:
    options: dict[str, Any] = {}
    if fault == "expired":
        options = {"command_timeout": 0.05}
    elif fault == "login":
        options = {"username": "user", "password": "secret", "binary": True}
    with ExitStack() as stack:
        addresses = [stack.enter_context(hostile.refusing()) for _ in range(number)]
        if fault not in ("refused", "login"):
            script = FAULTS.get(fault, hostile.silent)
            addresses = [stack.enter_context(hostile.fake(script)).address for _ in range(number)]
        stack.enter_context(keeping_garbage())
        for command in COMMANDS.values():
            mc = Client(addresses, {"_poll_timeout": 50, "cas": True}, **options)
            cache = PooledClient(ClientPool(mc, 1))
            for client in (mc, cache):
                with contextlib.suppress(pylibmc.Error):
                    command(client)
            with contextlib.suppress(pylibmc.Error), cache.pool.reserve() as lent:
                command(lent)
            del mc, cache, client, lent
        gc.collect()
        assert [it for it in gc.garbage if isinstance(it, (pylibmc.Error, Client))] == []
