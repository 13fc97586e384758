"""The status page in a real browser: what a person sees there, and that it stays up to date."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser
from harness import eventually, free_port
from mortal import Mortal
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.serving import make_server

from mcpool_wsgi import Client, ClientPool, PoolClosed, PoolTimeout, ThreadMappedPool
from mcpool_wsgi.status import StatusApp, report

pytestmark = pytest.mark.servers

SLOW = 30.0  # seconds: a browser on a machine that has other work


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def tab(chromium: Browser) -> Iterator[Browser]:
    """A tab at the beginning, whose console has nothing to say in the end."""
    chromium.resize(1280)
    chromium.prefer("light")
    chromium.open("about:blank")
    chromium.errors.clear()
    chromium.requests.clear()
    yield chromium
    chromium.open("about:blank")
    assert chromium.errors == []


@pytest.fixture(autouse=True)
def _always_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "KEPT", 0)
    monkeypatch.setattr(logging.getLogger("werkzeug"), "level", logging.ERROR)


def not_found(environ: Any, start_response: Any) -> list[bytes]:
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return []


@contextmanager
def served(pools: Any, port: int = 0) -> Iterator[str]:
    """The URL of a page for *pools*, mounted below the root of a server."""
    app = DispatcherMiddleware(not_found, {"/-/memcached": StatusApp(pools)})
    server = make_server("127.0.0.1", port, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}/-/memcached"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def shows(tab: Browser, text: str, selector: str = "body") -> None:
    """Sooner or later *text* is there."""
    eventually(lambda: text in " ".join(tab.text(selector).split()), text, deadline=SLOW)


def count(tab: Browser, selector: str) -> int:
    return int(tab.evaluate(f"document.querySelectorAll({selector!r}).length"))


def test_page_follows_the_load_by_itself(tab: Browser, mc: Client) -> None:
    pool = ClientPool(mc, 3, name="shop")
    with served(pool) as url:
        tab.open(url)
        tab.evaluate("window.same = true")
        shows(tab, "Nobody holds a client")
        with pool.reserve() as one:
            one.set("key", 1)
            one.get("key")
            with pool.reserve():
                shows(tab, "Slots in use 2 of 3")
                shows(tab, threading.current_thread().name, ".holders")
                shows(tab, "Hit rate at most 100 %", ".charts")
                assert count(tab, ".slots .used, .slots .long") == 2
                assert count(tab, ".holders tbody tr") == 2
            shows(tab, "Slots in use 1 of 3")
            assert count(tab, ".holders tbody tr") == 1
        shows(tab, "Slots in use 0 of 3")
        assert tab.evaluate("window.same") is True
    assert {status for address, status in tab.requests if address.startswith("http")} == {200}


def test_exhausted_pool_in_the_browser(tab: Browser, mc: Client) -> None:
    pool = ClientPool(mc, 2, name="shop", timeout=0)
    with served(pool) as url, pool.reserve(), pool.reserve():
        tab.open(url)
        shows(tab, "all slots in use", "h2")
        assert tab.text("#summary") == "All pools and servers work."
        with pytest.raises(PoolTimeout):
            pool.reserve().__enter__()

        def wait() -> None:
            with pytest.raises(PoolClosed):
                pool.reserve(timeout=60).__enter__()

        waiter = threading.Thread(target=wait)
        waiter.start()
        shows(tab, "shop: requests got no client in the last minute.", "#summary")
        shows(tab, "Threads waiting 1")
        assert count(tab, ".slots .waiter") == 1
        shows(tab, "2 in use for more than 1 s", ".legend")
        assert tab.evaluate("document.title") == "(!) Memcached pools"
        pool.close()
        waiter.join(10)
        shows(tab, "shop: the pool is closed.", "#summary")


def test_memcached_that_dies_and_comes_back_in_the_browser(tab: Browser, mortal: Mortal) -> None:
    pool = ClientPool(Client([mortal.address], fail_soft=True), 2, name="shop")
    with served(pool) as url, pool.reserve() as mc:
        tab.open(url)
        shows(tab, "All pools and servers work.", "#summary")
        shows(tab, f"{mortal.address} memcached", ".servers")
        mortal.kill()
        mc.get("key")
        shows(tab, f"memcached {mortal.address} does not answer.", "#summary")
        shows(tab, "shop: commands failed in the last minute.", "#summary")
        shows(tab, "CONNECTION FAILURE", ".servers")
        mortal.start()
        eventually(lambda: "does not answer" not in tab.text(".servers"), deadline=SLOW)


def test_page_refreshes_without_javascript(tab: Browser, mc: Client) -> None:
    pool = ClientPool(mc, 2)
    tab.do("Emulation.setScriptExecutionDisabled", value=True)
    try:
        with served(pool) as url:
            tab.open(url)
            assert tab.evaluate("document.getElementById('pause').hidden")
            with pool.reserve():
                shows(tab, "Slots in use 1 of 2")
    finally:
        tab.do("Emulation.setScriptExecutionDisabled", value=False)


def test_reader_keeps_what_is_open_and_where_the_focus_is(tab: Browser, mc: Client) -> None:
    pool = ClientPool(mc, 2)
    with served(pool) as url:
        tab.open(url)
        tab.evaluate("document.querySelector('summary').focus()")
        tab.evaluate("document.querySelector('details').open = true")
        with pool.reserve():
            shows(tab, "Slots in use 1 of 2")
        shows(tab, "Reservations 1", "details")
        assert tab.evaluate("document.querySelector('details').open") is True
        assert tab.evaluate("document.activeElement.localName") == "summary"


def test_paused_page_asks_for_nothing(tab: Browser, mc: Client) -> None:
    pool = ClientPool(mc, 2)
    with served(pool) as url:
        tab.open(url)
        tab.evaluate("pause.click()")
        assert tab.text("#pause") == "Go on"
        tab.evaluate("new Promise((done) => setTimeout(done))")
        before = len(tab.requests)
        with pool.reserve():
            tab.evaluate("refresh()")
            assert len(tab.requests) == before
            assert "0 of 2" in tab.text("main")
            tab.evaluate("pause.click()")
            assert tab.text("#pause") == "Pause"
            shows(tab, "Slots in use 1 of 2")


def test_page_says_when_it_is_no_longer_up_to_date(tab: Browser, mc: Client) -> None:
    port = free_port()
    pool = ClientPool(mc, 2)
    with served(pool, port) as url:
        tab.open(url)
        assert tab.evaluate("stale.hidden")
    shows(tab, "This page is no longer up to date:", "#stale:not([hidden])")
    with served(pool, port), pool.reserve():
        shows(tab, "Slots in use 1 of 2")
        eventually(lambda: tab.evaluate("stale.hidden"))
        tab.open("about:blank")
    tab.errors.clear()  # the browser has complained of the server that was gone


WORKER = """
from mcpool_wsgi import Client, ClientPool
from mcpool_wsgi.status import StatusApp

pool = ClientPool(Client([{address!r}]), 2)
app = StatusApp(pool)
"""


def test_page_stays_with_one_worker_while_it_lives(
    tab: Browser, address: str, tmp_path: Path
) -> None:
    port = free_port()
    tmp_path.joinpath("status_of_workers.py").write_text(WORKER.format(address=address))
    command = [sys.executable, "-m", "gunicorn", "-w", "3", "-b", f"127.0.0.1:{port}"]
    command += ["--preload", "--chdir", str(tmp_path), "--log-level", "critical"]
    server = subprocess.Popen([*command, "status_of_workers:app"])
    try:
        eventually(lambda: listens(port), deadline=SLOW)
        tab.open(f"http://127.0.0.1:{port}")
        (worker,) = [json.loads(tab.text(".when b"))]
        os.kill(worker, 0)
        for _ in range(10):
            tab.evaluate("refresh()")
            os.kill(worker, 0)  # it lives
            assert json.loads(tab.text(".when b")) == worker
        assert 204 in {status for _, status in tab.requests}
        os.kill(worker, signal.SIGKILL)  # gunicorn starts another one
        eventually(lambda: json.loads(tab.text(".when b")) != worker, deadline=SLOW)
    finally:
        tab.open("about:blank")
        tab.errors.clear()  # if the worker was killed while it answered
        server.terminate()
        server.wait(30)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


CONTRAST = """
(() => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map(Number).map((value) => {
      const part = value / 255;
      return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let it = element; it; it = it.parentElement) {
      const color = getComputedStyle(it).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)") return color;
    }
    return "rgb(255, 255, 255)";
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const texts = [...element.childNodes].filter((it) => it.nodeType === 3 && it.data.trim());
    if (!texts.length || !element.checkVisibility()) continue;
    const pair = [light(getComputedStyle(element).color), light(behind(element))].sort();
    const [low, high] = pair[0] < pair[1] ? pair : pair.reverse();
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) poor.push([texts[0].data, contrast]);
  }
  return poor;
})()
"""


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_page_is_readable(
    tab: Browser, mortal: Mortal, address: str, width: int, color_scheme: str
) -> None:
    full = ClientPool(Client([address, mortal.address]), 30, timeout=0, name="shop" * 12)
    threads = ThreadMappedPool(Client([address]))
    closed = ClientPool(Client([address]), 2)
    closed.close()
    tab.resize(width)
    tab.prefer(color_scheme)
    with served([full, threads, closed, ClientPool()]) as url, threads.reserve() as mc:
        lent = [full.reserve() for _ in range(30)]
        for one in lent:
            one.__enter__()
        with pytest.raises(PoolTimeout):
            full.reserve().__enter__()
        mc.get("key")
        mortal.kill()
        tab.open(url)
        for badge in ("timeouts", "all slots in use", "works", "closed", "no slots"):
            shows(tab, badge)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        (red, *_) = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)")
        assert (int(red) > 128) is (color_scheme == "light")
        assert tab.evaluate(CONTRAST) == []


@pytest.mark.parametrize("width", [1280, 390])
def test_screen_reader_is_given_landmarks_tables_and_words(
    tab: Browser, mc: Client, width: int
) -> None:
    pool = ClientPool(mc, 3, name="shop")
    tab.resize(width)
    with served(pool) as url, pool.reserve() as client:
        client.get("key")
        tab.open(url)
        tree = tab.tree()
    assert {
        ("banner", ""),
        ("main", ""),
        ("contentinfo", ""),
        ("heading", "Memcached pools"),
        ("button", "Pause"),
        ("region", "Servers"),
        ("table", "Who holds a client"),
        ("columnheader", "Where the thread is"),
        ("columnheader", "Evictions"),
        ("image", "Slots: 1 in use, 2 not needed yet"),
        ("image", "Hit rate, last 5 minutes: 0.0 %"),
    } <= set(tree)
    roles = [role for role, _ in tree]
    assert roles.count("table") == 2
    assert roles.count("row") == 4
    assert roles.count("rowheader") == 2
