"""The examples, as a newcomer starts them."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
from typing import Any

import pytest
from harness import EXAMPLES, Connections, Running, eventually, running
from webtest import TestApp

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware

pytestmark = pytest.mark.servers


def without_memcached() -> dict[str, str]:
    """An environment in which no memcached is installed."""
    return {"PATH": os.path.dirname(sys.executable), "MEMCACHED_SERVERS": ""}


def works(example: Running) -> None:
    assert example.get("/greeting") == (200, "'Hello from memcached!'")
    assert example.get("/answer") == (200, "42")
    assert example.get("/nothing") == (200, "0")
    assert example.get("/missing")[0] == 404


def test_app_uses_the_servers_it_is_given(address: str) -> None:
    with running("app.py", MEMCACHED_SERVERS=f" {address} ") as example:
        assert example.uses == f"Using the memcached of MEMCACHED_SERVERS: {address}"
        works(example)
    assert Client([address]).get("answer") == 42


@pytest.mark.skipif(not shutil.which("memcached"), reason="needs the real memcached")
def test_app_uses_the_memcached_that_is_installed() -> None:
    with running("app.py", MEMCACHED_SERVERS="") as example:
        assert re.match(r"Using memcached 1\.\d+\.\d+ at 127\.0\.0\.1:\d+$", example.uses)
        works(example)


def test_app_uses_the_embedded_server_otherwise() -> None:
    with running("app.py", **without_memcached()) as example:
        assert re.match(r"Using the embedded .* at 127\.0\.0\.1:\d+$", example.uses)
        works(example)


ODD_PATHS = [
    "/",
    "/%C3%A9",
    "/" + "x" * 300,
    "/a%20b",
    "/%00",
    "/%07",
    "/%7f",
    "/a%0d%0ab",
    "/%ff",
]
ODD_PATHS += ["/greeting%0d%0aflush_all%0d%0a", "/greeting%0aget%20answer", "//", "/\xff"]


def test_no_path_reaches_memcached_as_a_command(address: str) -> None:
    with running("app.py", MEMCACHED_SERVERS=address) as example:
        for path in ODD_PATHS:
            status, _ = example.get(path)
            assert 400 <= status < 500, path
            works(example)


@pytest.mark.parametrize(
    ("servers", "options", "error"),
    [
        ("a:b:c", [], "MEMCACHED_SERVERS is 'a:b:c' and should be servers like"),
        ("127.0.0.1:1", [], "cannot use the memcached at 127.0.0.1:1: "),
        ("127.0.0.1", ["--port=70000"], "usage: "),
        ("127.0.0.1", ["--port=-1"], "usage: "),
    ],
)
def test_what_cannot_work_is_said_without_a_traceback(
    servers: str, options: list[str], error: str
) -> None:
    app = subprocess.run(
        [sys.executable, EXAMPLES / "app.py", *options],
        env={**os.environ, "MEMCACHED_SERVERS": servers},
        capture_output=True,
        text=True,
    )
    assert app.returncode > 0
    assert app.stderr.startswith(error)
    assert "Traceback" not in app.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("memcached", ["installed", "embedded"])
def test_app_ends_cleanly_with_its_memcached(number: int, memcached: str) -> None:
    environ = {"MEMCACHED_SERVERS": ""} if memcached == "installed" else without_memcached()
    with running("app.py", **environ) as example:
        server = example.uses.rpartition(" ")[2]
        works(example)
        example.process.send_signal(number)
        _, errors = example.process.communicate(timeout=30)
        assert example.process.returncode == 0
        assert "Traceback" not in errors
    with pytest.raises(OSError, match="refused"):
        http.client.HTTPConnection(server, timeout=5).connect()


@pytest.fixture
def app(mc: Client) -> Any:
    from app import my_app

    mc.set_multi({"zero": 0, "empty": "", "false": False, "list": ["a", {"b": None}], "ä": "ä"})
    return TestApp(MemcachedPoolMiddleware(my_app, ClientPool(mc, 2)))


def test_stored_values_that_are_false_are_values(app: Any) -> None:
    assert app.get("/zero").text == "0"
    assert app.get("/empty").text == "''"
    assert app.get("/false").text in ("False", "0")  # pylibmc stores booleans as numbers
    assert app.get("/list").text == "['a', {'b': None}]"
    assert app.get("/%C3%A4").text == "'ä'"


def test_connections_stay_in_step(connections: Connections, app: Any) -> None:
    for path in ODD_PATHS[:-1]:
        assert 400 <= app.get(path, expect_errors=True).status_int < 500
        assert app.get("/zero").text == "0"
    eventually(lambda: connections.count() == 2)  # that of mc, and the pool's
