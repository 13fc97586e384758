"""The examples for the frameworks. Each does the same work in its own idiom."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import EXAMPLES, eventually, free_port, missing, running
from webtest import TestApp
from werkzeug.test import Client as Browser

from mcpool_wsgi import Client, ClientPool

# Pyramid 2 imports pkg_resources, which warns that it is deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:pkg_resources is deprecated"),
    pytest.mark.filterwarnings("ignore:Deprecated call to `pkg_resources.declare_namespace"),
]

NEEDS = {
    "bottle_app": "bottle",
    "django_app": "django",
    "falcon_app": "falcon",
    "flask_app": "flask",
    "plain_streaming": "wsgiref",
    "pyramid_app": "pyramid",
}


@pytest.fixture(params=sorted(NEEDS))
def name(request: pytest.FixtureRequest) -> Any:
    demand(NEEDS[request.param])
    return request.param


def demand(module: str) -> None:
    if importlib.util.find_spec(module) is None:
        missing(module)


class Example:
    """The app of an example, and its pool."""

    def __init__(self, name: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
        module = importlib.import_module(name)
        self.pauses: list[float] = []
        monkeypatch.setattr(module, "ClientPool", self.make_pool)
        if name == "plain_streaming":
            monkeypatch.setattr(module, "time", SimpleNamespace(sleep=self.pauses.append))
        self.app = module.make_app([address])

    def make_pool(self, mc: Client, n_slots: int) -> ClientPool:
        self.pool = ClientPool(mc, n_slots)
        return self.pool

    def get(self) -> Any:
        return TestApp(self.app).get("/")


@pytest.fixture
def example(name: str, address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Example]:
    example = Example(name, address, monkeypatch)
    yield example
    example.pool.close()  # Bottle keeps its last request, and so the pool


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"app", "serving", *NEEDS}


def test_visits_count_up(example: Example) -> None:
    for visit in range(1, 16):  # more than the pool has slots
        response = example.get()
        assert response.content_type == "text/plain"
        assert re.match(rf"Visit {visit}: the news of \d\d:\d\d:\d\d\n", response.text)


def test_news_are_cached(example: Example, mc: Client) -> None:
    example.get()
    assert re.fullmatch(r"the news of \d\d:\d\d:\d\d", mc.get("news"))
    mc.set("news", "cold coffee")
    assert example.get().text.startswith("Visit 2: cold coffee\n")
    mc.delete("news")
    assert "the news of" in example.get().text


def test_client_is_released_after_each_request(example: Example) -> None:
    for reservations in range(1, 4):
        example.get()
        stats = example.pool.stats()
        assert (stats.in_use, stats.size, stats.reservations) == (0, 1, reservations)


def test_outage_gives_news_without_a_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    example = Example(name, "127.0.0.1:1", monkeypatch)
    for _ in range(2):
        assert re.match(r"Visit \?: the news of \d\d:\d\d:\d\d\n", example.get().text)
    example.pool.close()


def test_stream_continues_without_the_client(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = Example("plain_streaming", address, monkeypatch)
    browser = Browser(example.app)

    first = browser.get("/", buffered=False)
    chunks = first.iter_encoded()
    assert next(chunks).startswith(b"Visit 1: the news of ")
    assert example.pauses == []
    assert next(chunks) == b"10\n"
    assert example.pauses == [1]
    assert example.pool.stats().in_use == 0

    second = browser.get("/", buffered=False)
    assert next(second.iter_encoded()).startswith(b"Visit 2: the news of ")
    second.close()
    assert example.pool.stats().size == 1  # both used the same client

    assert list(chunks) == [b"%d\n" % number for number in range(9, 0, -1)]
    first.close()
    assert example.pool.stats().in_use == 0


@pytest.mark.servers
def test_example_starts_as_its_docstring_says(name: str, address: str) -> None:
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert f"\n$ python examples/{name}.py\n$ curl " in source
    with running(f"{name}.py", MEMCACHED_SERVERS=address) as example:
        url = f"http://{example.host}:{example.port}{example.path}"
        with urllib.request.urlopen(url, timeout=5) as response:
            assert response.status == 200
            # A stream takes ten seconds, but it begins at once.
            assert response.readline().startswith(b"Visit 1: the news of ")


@pytest.mark.servers
def test_pserve_runs_pyramid_ini(address: str, tmp_path: Path) -> None:
    for module in ("pyramid", "waitress"):
        demand(module)
    port = free_port()
    ini = (EXAMPLES / "pyramid.ini").read_text(encoding="utf-8")
    ini = ini.replace("servers = 127.0.0.1:11211", f"servers = {address}")
    ini = ini.replace("listen = 127.0.0.1:5050", f"listen = 127.0.0.1:{port}")
    (tmp_path / "pyramid.ini").write_text(ini, encoding="utf-8")

    def listening() -> bool:
        assert process.poll() is None, process.communicate()
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    process = subprocess.Popen(
        [sys.executable, "-m", "pyramid.scripts.pserve", str(tmp_path / "pyramid.ini")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
    )
    try:
        eventually(listening)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as response:
            assert response.read().startswith(b"Visit 1: the news of ")
    finally:
        process.kill()
        process.communicate()
