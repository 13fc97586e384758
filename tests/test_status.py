"""The status page: what it shows, to whom, and that it stands in nobody's way."""

from __future__ import annotations

import gc
import json
import logging
import os
import queue
import re
import textwrap
import threading
import time
import urllib.request
import weakref
from contextlib import ExitStack
from typing import Any, Callable

import hostile
import pylibmc
import pytest
import status_page
from forking import FORKS, succeeds
from harness import Connections, demand, eventually, in_threads, no_collection, run_python
from mortal import Mortal
from status_page import Mute, Page, facts, look
from webtest import TestApp
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from mcpool_wsgi import (
    Client,
    ClientPool,
    MemcachedPoolMiddleware,
    PooledClient,
    PoolTimeout,
    ThreadMappedPool,
    get_client,
    status,
)
from mcpool_wsgi.devserver import Memcached
from mcpool_wsgi.status import StatusApp, report, servers
from mcpool_wsgi.status.servers import Question

pytestmark = pytest.mark.slow


@pytest.fixture
def pool(mc: Client) -> ClientPool:
    return ClientPool(mc, 3, timeout=0.01, name="shop")


@pytest.fixture(autouse=True)
def _always_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "KEPT", 0)


# -- What it shows


def test_page_shows_slots_commands_and_servers(pool: ClientPool) -> None:
    app = StatusApp(pool)
    with pool.reserve() as first, pool.reserve():
        first.set("key", 1)
        first.get("key")
        first.get("missing")
        page = Page(TestApp(app).get("/").text)
    assert f"Process {os.getpid()} on" in page.text()
    assert "shop works ClientPool of 3 slots, waits for 10 ms at most" in page.text()
    assert "Slots in use 2 of 3 Threads waiting 0" in page.text()
    assert "Hit rate, 5 min 50.0 %" in page.text()
    assert page.labels()[:4] == [
        "Slots: 2 in use, 1 not needed yet",
        "Commands per second (red: failed), last 5 minutes: 3 commands, 0 failed",
        "Hit rate, last 5 minutes: 50.0 %",
        "Waits in 5 s (red: timed out), last 5 minutes: 0 waits, 0 of them timed out",
    ]
    assert pool.master.addresses[0] in page.text()
    assert "All pools and servers work." in page.text()
    assert [kind["class"] for kind in page.all("i")][:3] == ["used", "used", "free"]


def test_json_has_the_figures_of_the_pool_and_the_servers(pool: ClientPool, address: str) -> None:
    app = StatusApp(pool)
    with pool.reserve() as mc:
        mc.get("missing")
        mc.set("key", 1)
        found = facts(app)
        stats = pool.stats()
    assert found["process"] == os.getpid()
    (shown,) = found["pools"]
    assert shown["name"] == "shop"
    assert shown["kind"] == "ClientPool"
    assert shown["states"] == []
    assert shown["stats"] == json.loads(json.dumps(vars(stats)))
    assert [holder["request"] for holder in shown["holders"]] == [None]
    assert shown["history"]["total"]["misses"] == 1
    assert shown["history"]["total"]["hit_rate"] == 0
    (server,) = found["servers"]
    assert server["address"] == address
    assert server["pools"] == ["shop"]
    assert server["error"] is None
    assert server["items"] >= 1
    assert server["connections"] >= 2  # the pool's and the page's
    assert server["max_bytes"] == 64 * 1024 * 1024


def test_holders_are_shown_with_request_thread_and_place(pool: ClientPool) -> None:
    seen: list[Page] = []

    def view(environ: dict[str, Any]) -> bytes:
        get_client(environ).get("key")
        seen.append(look(pool))
        return b""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [view(environ)]

    TestApp(MemcachedPoolMiddleware(app, pool)).get("/basket?token=secret")
    (page,) = seen
    assert "Who holds a client" in page.text()
    assert f"GET /basket {threading.current_thread().name}" in page.text()
    assert re.search(r"test_status\.py:\d+ in view", page.text())
    assert "secret" not in page.text()
    assert "Nobody holds a client" in look(pool).text()


def test_place_in_the_code_is_shown_without_its_root(pool: ClientPool) -> None:
    with pool.reserve():
        places = look(pool).inside("code")
        (holder,) = facts(StatusApp(pool))["pools"][0]["holders"]
    assert places[0].startswith("status_page.py:")
    assert holder["frames"][0].startswith(f"{status_page.__file__}:")


def test_many_holders_are_cut_on_the_page_and_not_in_the_json(mc: Client) -> None:
    pool = ClientPool(mc, 400)
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(pool.reserve())
        page = look(pool)
        assert len(facts(StatusApp(pool))["pools"][0]["holders"]) == 300
    assert "Who holds a client, the longest 50 of 300" in page.text()
    assert "300 in use" in page.text()
    assert len(page.all("i")) < 300


def test_names_and_paths_are_escaped(mc: Client) -> None:
    evil = '<script>alert("1")</script>&amp;'
    pool = ClientPool(mc, 2, name=evil)
    pages: list[Page] = []

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        pages.append(look({f"'{evil}": pool}))
        return [b""]

    threading.current_thread().name, name = evil, threading.current_thread().name
    try:
        TestApp(MemcachedPoolMiddleware(app, pool)).get("/<script>alert(2)</script>")
    finally:
        threading.current_thread().name = name
    (page,) = pages
    assert len(page.all("script")) == 1
    assert f"'{evil}" in page.text()
    assert f"GET /<script>alert(2)</script> {evil}" in page.text()


def test_no_key_and_no_value_is_shown(address: str) -> None:
    pool = ClientPool(Client([address], fail_soft=True), 2)
    app = StatusApp(pool)
    cache = PooledClient(pool)
    cache.set("secret-key", "secret-value")
    cache.get("secret-key")
    with pytest.raises(pylibmc.ClientError):
        cache.incr("secret-key")
    with pytest.raises(ValueError, match="secret key"):
        cache.get("secret key")
    assert "secret" not in TestApp(app).get("/").text
    assert "secret" not in TestApp(app).get("/?format=json").text


def test_pools_have_the_names_that_they_are_given(mc: Client) -> None:
    one, two = ClientPool(mc, 1, name="one"), ThreadMappedPool(mc, name="two")
    for pools, names in (
        (one, ["one"]),
        ([one, two], ["one", "two"]),
        ({"a": two, "b": one}, ["a", "b"]),
        (iter([two]), ["two"]),
    ):
        found = facts(StatusApp(pools))
        assert [pool["name"] for pool in found["pools"]] == names
        (server,) = found["servers"]  # which both use
        assert server["pools"] == names
    assert "used by one and two" in look([one, two]).text()


# -- States


def test_exhausted_pool_is_shown_and_not_asked_for_a_client(pool: ClientPool) -> None:
    app = StatusApp(pool)
    with pool.reserve(), pool.reserve(), pool.reserve():
        with pytest.raises(PoolTimeout):
            pool.reserve().__enter__()
        ended = threading.Event()

        def wait() -> None:
            with pool.reserve(timeout=10):
                ended.set()

        waiter = threading.Thread(target=wait)
        waiter.start()
        eventually(lambda: pool.stats().waiting == 1)
        before = pool.stats()
        page = Page(TestApp(app).get("/").text)
        assert pool.stats() == before
    waiter.join(10)
    assert ended.is_set()
    assert "shop timeouts threads wait all slots in use" in page.text()
    assert "shop: requests got no client in the last minute." in page.text()
    assert "Slots in use 3 of 3 Threads waiting 1" in page.text()
    assert page.labels()[0] == "Slots: 3 in use, 1 waiting"
    assert page.labels()[3].endswith(": 1 waits, 1 of them timed out")
    assert page.inside("title") == ["(!) Memcached pools"]


def test_mounted_outside_of_the_middleware_it_answers_while_the_pool_is_exhausted(
    pool: ClientPool,
) -> None:
    def bare(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"app"]

    app = TestApp(
        DispatcherMiddleware(
            MemcachedPoolMiddleware(bare, pool), {"/-/memcached": StatusApp(pool)}
        )
    )
    with pool.reserve(), pool.reserve(), pool.reserve():
        app.get("/", status=503)
        for path in ("/-/memcached", "/-/memcached/"):
            assert "all slots in use" in app.get(path).text
        app.get("/-/memcached/other", status=404)
    assert app.get("/").text == "app"


def test_code_of_the_documentation_runs(
    pool: ClientPool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("werkzeug"), "level", logging.ERROR)
    blocks = re.findall(r"code-block:: python\n\n((?:    .*\n|\n)+)", status.__doc__ or "")
    beside, own = map(textwrap.dedent, blocks)
    names: dict[str, Any] = {
        "MemcachedPoolMiddleware": MemcachedPoolMiddleware,
        "app": lambda environ, start_response: [],
        "pool": pool,
    }
    exec(beside, names)
    assert "Slots in use" in TestApp(names["app"]).get("/-/memcached").text
    exec(own, names)
    url = capsys.readouterr().out.partition(": ")[2].strip()
    with pool.reserve(), pool.reserve(), pool.reserve():
        assert b"all slots in use" in urllib.request.urlopen(url, timeout=10).read()
    names["server"].shutdown()
    names["server"].server_close()


def test_closed_pool_is_shown_as_closed(pool: ClientPool) -> None:
    with pool.reserve():
        pool.close()
        assert "shop closed" in look(pool).text()
    page = look(pool)
    assert "Slots in use 0 of 3" in page.text()
    assert "shop: the pool is closed." in page.text()


def test_pool_without_slots_is_shown_as_such() -> None:
    pool = ClientPool(name="later")
    page = look(pool)
    assert "later no slots ClientPool of 0 slots" in page.text()
    assert "No pool has servers yet." in page.text()
    pool.close()
    assert "later closed ClientPool of 0 slots" in look(pool).text()


def test_thread_mapped_pool_is_shown_without_a_number_of_slots(mc: Client) -> None:
    pool = ThreadMappedPool(mc, name="threads")
    with pool.reserve():
        page = look(pool)
    assert "threads works ThreadMappedPool, a client for each thread" in page.text()
    assert page.labels()[0] == "Slots: 1 in use"
    pool.close()
    assert "threads closed" in look(pool).text()


def version(mc: Client) -> str:
    return str(mc.get_stats()[0][1]["version"], "ascii")


def test_servers_of_plain_pylibmc_clients_are_shown(address: str, mc: Client) -> None:
    pool = ClientPool(pylibmc.Client([address, address]), 2)
    with pool.reserve():
        found = facts(StatusApp(pool))
    assert found["pools"][0]["stats"]["in_use"] == 1
    assert [server["version"] for server in found["servers"]] == [version(mc)] * 2


def test_pool_of_other_clients_is_shown_without_servers() -> None:
    page = look(ClientPool(Mute(), 2))
    assert "ClientPool of 2 slots" in page.text()
    assert "No pool has servers yet." in page.text()


@pytest.mark.parametrize("fail_soft", [False, True])
def test_page_works_while_memcached_is_down(fail_soft: bool) -> None:
    with hostile.refusing() as nowhere:
        pool = ClientPool(Client([nowhere], fail_soft=fail_soft), 1, name="shop")
        app = StatusApp(pool)
        page = Page(TestApp(app).get("/").text)
        assert pool.stats().failures == 0  # those of the app only
        with pool.reserve() as mc:
            if fail_soft:
                mc.get("key")
            else:
                with pytest.raises(pylibmc.Error):
                    mc.get("key")
        failing = Page(TestApp(app).get("/").text)
        (server,) = facts(app)["servers"]
    assert f"memcached {nowhere} does not answer." in page.text()
    assert "CONNECTION FAILURE" in page.text()
    assert server["error"]
    assert server["items"] is None
    assert "shop works" in page.text()
    assert "shop memcached fails" in failing.text()
    assert "shop: commands failed in the last minute." in failing.text()


@pytest.mark.servers
def test_page_works_while_memcached_hangs(mortal: Mortal, address: str) -> None:
    pool = ClientPool(Client([mortal.address, address]), 1)
    app = StatusApp(pool)
    assert [server["error"] for server in facts(app)["servers"]] == [None, None]
    mortal.stop()
    try:
        hangs, works = facts(app)["servers"]
        assert hangs["error"]
        assert works["error"] is None
        assert works["items"] is not None
    finally:
        mortal.go_on()
    eventually(lambda: not facts(app)["servers"][0]["error"])


@pytest.mark.servers
def test_page_shows_a_memcached_that_comes_back(mortal: Mortal) -> None:
    app = StatusApp(ClientPool(Client([mortal.address]), 1))
    mortal.kill()
    assert facts(app)["servers"][0]["error"]
    mortal.start()
    assert facts(app)["servers"][0]["error"] is None


@pytest.mark.parametrize(
    "script",
    [
        hostile.answers(b"ERROR\r\n"),
        hostile.answers_once(b"STAT curr_it"),
        hostile.endless(b"STAT items 1\r\n", 0.01),
        hostile.answers(b"STAT curr_items <b>\r\nSTAT version <i>1</i>\r\nEND\r\n"),
        hostile.answers(b"END\r\n"),
    ],
    ids=["error", "cut", "endless", "no number", "nothing"],
)
def test_strange_answers_of_a_server_are_shown(script: hostile.Script) -> None:
    with hostile.fake(script) as server:
        page = look(ClientPool(Client([server.address]), 1))
        assert server.address in page.text()
        assert page.all("b") == [{}, {}]  # the process and its host


class Late(Mute):
    """It answers when *over* is set.

    :param figures: what it answers, after so many questions.
    """

    def __init__(self, figures: Callable[[int], dict[str, bytes]]) -> None:
        self.figures = figures
        self.begun: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.over = threading.Event()

    def get_stats(self) -> Any:
        self.begun.put(None)
        self.over.wait(10)
        return [(b"late", self.figures(self.begun.qsize()))]


def test_server_that_is_late_is_not_asked_again_meanwhile() -> None:
    late = Late(lambda questions: {"curr_items": b"7", "bytes": b"many"})
    app = StatusApp(ClientPool(late, 1))
    for _ in range(2):
        (server,) = facts(app)["servers"]
        assert server["error"] == "no answer within 1 s"
    assert late.begun.qsize() == 1
    late.over.set()
    eventually(lambda: facts(app)["servers"][0]["items"] == 7)
    assert facts(app)["servers"][0]["bytes"] is None


def test_late_answer_is_not_shown_when_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    late = Late(lambda questions: {"curr_items": b"%d" % questions})
    app = StatusApp(ClientPool(late, 1))
    assert facts(app)["servers"][0]["error"] == "no answer within 1 s"
    (question,) = (each for each in gc.get_objects() if type(each) is Question)
    late.over.set()
    assert question.wait(time.monotonic() + 10)
    monkeypatch.setattr(servers, "LATE", 0)
    assert facts(app)["servers"][0]["items"] == 2


def test_page_works_if_no_thread_can_be_started(
    mc: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: Question) -> None:
        raise RuntimeError("can't start new thread")

    app = StatusApp(ClientPool(mc, 1))
    with monkeypatch.context() as patched:
        patched.setattr(Question, "start", start)
        assert facts(app)["servers"][0]["error"] == "RuntimeError: can't start new thread"
    assert facts(app)["servers"][0]["error"] is None


def test_server_of_binary_clients_is_shown_with_its_version(real_memcached: Memcached) -> None:
    pool = ClientPool(Client([real_memcached.address], binary=True), 1)
    assert facts(StatusApp(pool))["servers"][0]["version"] == real_memcached.version


HANGING = """
import threading
from mcpool_wsgi import ClientPool
from mcpool_wsgi.status import StatusApp
from webtest import TestApp

class Late:
    def clone(self):
        return self

    def get_stats(self):
        threading.Event().wait()

print(TestApp(StatusApp(ClientPool(Late(), 1))).get("/?format=json").json["servers"][0]["error"])
"""


def test_server_that_is_late_does_not_keep_the_program_from_ending() -> None:
    done = run_python(HANGING)
    assert (done.returncode, done.stdout) == (0, "no answer within 1 s\n"), done.stderr


PATCHED_LATER = """
import sys
from mcpool_wsgi import ClientPool
from mcpool_wsgi.status import StatusApp
from webtest import TestApp

page = TestApp(StatusApp(ClientPool.from_servers([sys.argv[1]], 1)))

from gevent import monkey
monkey.patch_all()
import gevent

looks = [gevent.spawn(page.get, "/?format=json") for _ in range(3)]
gevent.joinall(looks, raise_error=True)
print({look.value.json["servers"][0]["error"] for look in looks})
"""


def test_page_works_if_gevent_patches_later(address: str) -> None:
    """As in a worker of gunicorn with --preload, which patches after it has loaded the app."""
    demand("gevent")
    done = run_python(PATCHED_LATER, address)
    assert done.stdout == "{None}\n", done.stderr


MEMCACHED_IN_A_GREENLET = """
from gevent import monkey
monkey.patch_all()
from gevent.server import StreamServer
from mcpool_wsgi import ClientPool
from mcpool_wsgi.status import StatusApp
from webtest import TestApp

def serve(connection, address):
    while connection.recv(1000):
        connection.sendall(b"STAT version 1.2.3\\r\\nEND\\r\\n")

server = StreamServer(("127.0.0.1", 0), serve)
server.start()
app = StatusApp(ClientPool.from_servers([f"127.0.0.1:{server.server_port}"], 1))
(found,) = TestApp(app).get("/?format=json").json["servers"]
print(found["error"], found["version"])
"""


def test_other_greenlets_run_while_memcached_is_asked() -> None:
    demand("gevent")
    done = run_python(MEMCACHED_IN_A_GREENLET)
    assert done.stdout == "None 1.2.3\n", done.stderr


def test_server_of_a_subclass_with_another_constructor_is_shown(address: str, mc: Client) -> None:
    class Fixed(Client):
        def __init__(self) -> None:
            super().__init__([address])

    (server,) = facts(StatusApp(ClientPool(Fixed(), 1)))["servers"]
    assert (server["error"], server["version"]) == (None, version(mc))


# -- What it costs


def test_look_reserves_no_client_and_leaves_no_connection(
    connections: Connections, mc: Client
) -> None:
    def questions() -> list[Question]:
        return [it for it in gc.get_objects() if type(it) is Question]

    pool = ClientPool(mc, 1)
    with no_collection():
        before = questions()  # other tests may have left some in cycles
        look(pool)
        with hostile.refusing() as nowhere:
            look(ClientPool(Client([nowhere]), 1))
        eventually(lambda: connections.count() == 0)
        assert questions() == before
    assert pool.stats().reservations == 0
    assert pool.stats().clients_made == 0


def test_memcached_is_asked_once_for_all_who_look(
    connections: Connections, mc: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "KEPT", 60)
    app = StatusApp(ClientPool(mc, 1))
    before = connections.opened()
    in_threads([lambda: TestApp(app).get("/")] * 8)
    assert connections.opened() == before + 1


def test_app_that_is_freed_counts_no_more_and_frees_its_pools(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    app = StatusApp(pool)
    assert len(pool._listeners) == 1
    with no_collection():
        del app
        assert pool._listeners == []
        find_pool, app = weakref.ref(pool), StatusApp(pool)
        del pool, app
        assert find_pool() is None


def test_app_that_a_listener_of_its_pool_refers_to_is_freed(mc: Client) -> None:
    """As in a module: a function that listens to the pool has the module's names."""
    pool = ClientPool(mc, 1)
    find_pool = weakref.ref(pool)
    app = StatusApp(pool)
    pool.observe(lambda event, names=app: None)  # type: ignore[misc]
    del app, pool
    gc.collect()
    assert find_pool() is None


# -- Children


@pytest.mark.servers
@pytest.mark.parametrize("fork", FORKS)
def test_child_shows_itself_and_begins_anew(fork: Any, pool: ClientPool) -> None:
    app = StatusApp(pool)
    with pool.reserve() as mc:
        mc.get("key")
    facts(app)

    def work() -> None:
        found = facts(app)
        assert found["process"] == os.getpid()
        assert found["pools"][0]["history"]["total"]["commands"] == 0
        with pool.reserve() as mc:
            mc.get("key")
            mc.get("key")
        assert facts(app)["pools"][0]["history"]["total"]["commands"] == 2
        assert facts(app)["servers"][0]["error"] is None

    succeeds(fork(work))
    assert facts(app)["pools"][0]["history"]["total"]["commands"] == 1


@pytest.mark.servers
@pytest.mark.parametrize("fork", FORKS)
def test_child_does_not_show_the_report_of_its_parent(
    fork: Any, pool: ClientPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "KEPT", 60)
    app = StatusApp(pool)
    assert facts(app)["process"] == facts(app)["process"] == os.getpid()

    def work() -> None:
        assert facts(app)["process"] == os.getpid()

    succeeds(fork(work))


@pytest.mark.servers
@pytest.mark.parametrize("fork", FORKS)
def test_child_does_not_wait_for_the_threads_of_its_parent(fork: Any) -> None:
    parent = os.getpid()
    over = threading.Event()

    class LateInParent(Mute):
        def get_stats(self) -> Any:
            if os.getpid() == parent:
                over.wait(30)
            return [(b"late", {"curr_items": b"7"})]

    app = StatusApp(ClientPool(LateInParent(), 1))
    assert facts(app)["servers"][0]["error"]

    def work() -> None:
        assert facts(app)["servers"][0]["items"] == 7

    succeeds(fork(work))
    over.set()


# -- For all who read it


def test_page_has_what_a_screen_reader_needs(pool: ClientPool) -> None:
    app = StatusApp(pool)
    with pool.reserve() as mc:
        mc.set("key", "value")
        page = Page(TestApp(app).get("/").text)
    assert page.all("html")[0]["lang"] == "en"
    assert {"header", "main", "footer", "h1"} <= {name for name, _ in page.elements}
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert all(section["aria-labelledby"] in ids for section in page.all("section"))
    assert len(page.all("table")) == len(page.inside("caption")) == 2
    assert all(head["scope"] in ("col", "row") for head in page.all("th"))
    drawings = [it for name, it in page.elements if name == "svg"]
    assert drawings
    assert all(it.get("aria-label") or it.get("aria-hidden") for it in drawings)
    live = [it for _, it in page.elements if it.get("role") in ("status", "alert")]
    assert len(live) == 2
    assert not [it for _, it in page.elements if "aria-live" in it]


def test_summary_says_nothing_that_changes_all_the_time(pool: ClientPool) -> None:
    def summary() -> str:
        return look(pool).text().partition("shop")[0].partition("UTC")[2]

    quiet = summary()
    with pool.reserve(), pool.reserve() as mc:
        mc.get("key")
        assert summary() == quiet


# -- What it refuses


@pytest.mark.parametrize(
    ("pools", "error", "text"),
    [
        ([], ValueError, "needs one pool or more"),
        ({}, ValueError, "needs one pool or more"),
        (None, TypeError, "not None"),
        ({"a": None}, TypeError, "not None"),
        ([Mute()], TypeError, "of this package, not <"),
        (pylibmc.ClientPool(), TypeError, "of this package, not <"),
        ({1: ClientPool()}, TypeError, "must be a str, not 1"),
        ([ClientPool(name="a"), ClientPool(name="a")], ValueError, "two pools have the name 'a'"),
    ],
)
def test_object_that_is_no_pool_is_refused(pools: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        StatusApp(pools)
