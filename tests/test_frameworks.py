"""The examples for the frameworks. Each does the same work in its own idiom."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import EXAMPLES, demand, django_settings, eventually, free_port, running
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


class Example:
    """The app of an example, and its pool."""

    def __init__(
        self, name: str, address: str, monkeypatch: pytest.MonkeyPatch, stack: ExitStack
    ) -> None:
        module = importlib.import_module(name)
        self.pauses: list[float] = []
        self.pool: Any = None
        if hasattr(module, "ClientPool"):
            monkeypatch.setattr(module, "ClientPool", self.make_pool)
        if name == "plain_streaming":
            monkeypatch.setattr(module, "time", SimpleNamespace(sleep=self.pauses.append))
        if name == "django_app":
            # Django is configured once in a process. Later its settings are overridden.
            settings = SimpleNamespace(
                configure=lambda **given: stack.enter_context(django_settings(**given))
            )
            monkeypatch.setattr(module, "settings", settings)
        self.app = module.make_app([address])
        self.pool = self.pool or module.cache.pool
        stack.callback(self.pool.close)  # Bottle keeps its last request, and so the pool

    def make_pool(self, mc: Client, n_slots: int) -> ClientPool:
        self.pool = pool = ClientPool(mc, n_slots)
        return pool

    def get(self, path: str = "/", status: int = 200) -> Any:
        return TestApp(self.app).get(path, status=status)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def example(name: str, address: str, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> Example:
    return Example(name, address, monkeypatch, stack)


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"app", "serving", *NEEDS}


@pytest.mark.servers
@pytest.mark.parametrize("name", ["app", *sorted(NEEDS)])
def test_example_works_where_it_is_copied_to(name: str, address: str, tmp_path: Path) -> None:
    demand(NEEDS.get(name, "werkzeug"))
    shutil.copy(EXAMPLES / f"{name}.py", tmp_path)
    command = f"import {name}; {name}.make_app(['{address}'])"
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True, timeout=60)


@pytest.mark.slow
def test_visits_count_up(example: Example) -> None:
    for visit in range(1, 16):  # more than the pool has slots
        response = example.get()
        assert response.content_type == "text/plain"
        assert re.match(rf"Visit {visit}: the news of \d\d:\d\d:\d\d\n", response.text)


def test_news_are_cached(example: Example, name: str, mc: Client) -> None:
    key = ":1:news" if name == "django_app" else "news"
    example.get()
    assert re.fullmatch(r"the news of \d\d:\d\d:\d\d", mc.get(key))
    mc.set(key, "cold coffee")
    assert example.get().text.startswith("Visit 2: cold coffee\n")
    mc.delete(key)
    assert "the news of" in example.get().text


def test_client_is_released_after_each_request(example: Example) -> None:
    for reservations in range(1, 4):
        example.get()
        stats = example.pool.stats()
        assert (stats.in_use, stats.size, stats.reservations) == (0, 1, reservations)


def test_outage_gives_news_without_a_count(
    name: str, monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    example = Example(name, "127.0.0.1:1", monkeypatch, stack)
    for _ in range(2):
        assert re.match(r"Visit \?: the news of \d\d:\d\d:\d\d\n", example.get().text)


def test_restart_of_memcached_between_two_commands_gives_news_without_a_count(
    example: Example, mc: Client
) -> None:
    stop = example.pool.observe(lambda event: event.command == "add" and mc.delete("visits"))
    text = example.get().text
    stop()  # the pool of an example may live on, and with it the connection of mc
    assert re.match(r"Visit \?: the news of \d\d:\d\d:\d\d\n", text)


@pytest.mark.slow
def test_answer_is_503_if_all_clients_are_in_use(example: Example, stack: ExitStack) -> None:
    reserve_all(example.pool, stack)
    assert example.get(status=503).headers["Retry-After"] == "1"


@pytest.mark.parametrize("name", ["django_app", "flask_app"])
def test_health_check_takes_no_client(
    name: str, address: str, monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    demand(NEEDS[name])
    example = Example(name, address, monkeypatch, stack)
    reserve_all(example.pool, stack)
    assert example.get("/healthz").text == "ok\n"


def reserve_all(pool: ClientPool, stack: ExitStack) -> None:
    """Reserve all clients, so that the next one who wants one waits in vain."""
    for _ in range(12):
        stack.enter_context(pool.reserve(block=False))
    pool.timeout = 0


def test_service_works_without_a_request(
    address: str, mc: Client, monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    demand("flask")
    app: Any = Example("flask_app", address, monkeypatch, stack).app
    result = app.test_cli_runner().invoke(args=["pages", "refresh"])
    assert result.output == f"{mc.get('news')}\n"


def test_stream_continues_without_the_client(
    address: str, monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    example = Example("plain_streaming", address, monkeypatch, stack)
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
