"""The example app.py, started as a newcomer starts it."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import EXAMPLES, Connections, Running, eventually, running
from webtest import TestApp

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware
from mcpool_wsgi.devserver import format_address

pytestmark = pytest.mark.servers


def without_memcached() -> dict[str, str]:
    """An environment without an installed memcached."""
    return {"PATH": os.path.dirname(sys.executable), "MEMCACHED_SERVERS": ""}


def works(example: Running) -> None:
    """The example answers all its paths."""
    assert example.get("/greeting") == (200, "'Hello from memcached!'")
    assert example.get("/answer") == (200, "42")
    assert example.get("/nothing") == (200, "0")
    assert example.get("/missing")[0] == 404


def test_app_uses_the_servers_of_the_environment(address: str) -> None:
    with running("app.py", MEMCACHED_SERVERS=f" {address} ") as example:
        assert example.uses == f"Using the memcached of MEMCACHED_SERVERS: {address}"
        works(example)
    assert Client([address]).get("answer") == 42


@pytest.mark.skipif(not shutil.which("memcached"), reason="needs the real memcached")
def test_app_uses_the_installed_memcached() -> None:
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


def fails(*options: str, **environ: str) -> tuple[int, str]:
    """The exit status of app.py, and what it prints as its error."""
    app = subprocess.run(
        [sys.executable, EXAMPLES / "app.py", *options],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert app.stdout == ""
    return app.returncode, app.stderr


@pytest.mark.parametrize(
    ("servers", "error"),
    [
        ("a:b:c", "MEMCACHED_SERVERS must be servers like .*, not 'a:b:c'"),
        (
            "me:secret@cache",
            "MEMCACHED_SERVERS must be .*, not a text that may contain a password",
        ),
        ("127.0.0.1:1", "cannot use the memcached of MEMCACHED_SERVERS, 127.0.0.1:1: .*"),
        ("/no/such/socket", "cannot use the memcached of MEMCACHED_SERVERS, /no/such/socket: .*"),
    ],
)
def test_servers_that_cannot_be_used_are_an_error_of_one_line(servers: str, error: str) -> None:
    status, shown = fails("--port=0", MEMCACHED_SERVERS=servers)
    assert status == 1
    assert re.fullmatch(f"{error}\n", shown)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_port_in_use_is_an_error_of_one_line(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        taken = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"needs {host}")
    with taken:
        port = taken.getsockname()[1]
        assert fails(f"--host={host}", f"--port={port}", MEMCACHED_SERVERS="") == (
            1,
            f"cannot listen on {format_address(host, port)}: Address already in use;"
            " choose another --port or --host\n",
        )


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_wrong_host_is_an_error_of_one_line(host: str) -> None:
    status, error = fails(f"--host={host}", "--port=5050", MEMCACHED_SERVERS="")
    assert status == 1
    assert re.fullmatch(f"cannot listen on {host}:5050: .*; choose another --port .*\n", error)


def test_memcached_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    binary = tmp_path / "memcached"
    binary.write_text("#!/bin/sh\necho no luck today >&2\nexit 3\n")
    binary.chmod(0o755)
    status, error = fails("--port=0", PATH=str(tmp_path), MEMCACHED_SERVERS="")
    assert status == 1
    assert error.endswith("has ended: no luck today\n")
    assert "Traceback" not in error


@pytest.mark.parametrize("port", ["70000", "-1"])
def test_wrong_port_is_an_error_of_usage(port: str) -> None:
    status, error = fails(f"--port={port}")
    assert status == 2
    assert error.startswith("usage: ")


@pytest.fixture
def sigint() -> Iterator[None]:
    """Undo an ignored SIGINT. Background jobs of a shell ignore it, and children inherit this."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint")
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


def test_stored_values_that_are_false_are_shown(app: Any) -> None:
    assert app.get("/zero").text == "0"
    assert app.get("/empty").text == "''"
    assert app.get("/false").text in ("False", "0")  # pylibmc stores a bool as a number
    assert app.get("/list").text == "['a', {'b': None}]"
    assert app.get("/%C3%A4").text == "'ä'"


def test_connection_stays_in_sync(connections: Connections, app: Any) -> None:
    for path in ODD_PATHS[:-1]:
        assert 400 <= app.get(path, expect_errors=True).status_int < 500
        assert app.get("/zero").text == "0"
    eventually(lambda: connections.count() == 2)  # one of mc, and one of the pool
