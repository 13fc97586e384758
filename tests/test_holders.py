"""Who holds the clients."""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Callable

import pylibmc
import pytest
from apps import request, serve
from forking import FORKS, succeeds
from harness import demand, eventually, no_collection, run_python

from mcpool_wsgi import (
    Client,
    ClientPool,
    MemcachedPoolMiddleware,
    PoolTimeout,
    ThreadMappedPool,
    get_client,
)
from mcpool_wsgi.pool import holders
from mcpool_wsgi.pool.holders import find_holders, requests_of


class Barrier:
    """Where a thread waits until it may go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.over = threading.Event()

    def stay(self) -> None:
        self.reached.set()
        self.over.wait(10)


@contextmanager
def holding(work: Any, name: str) -> Iterator[None]:
    """A thread that does *work* with a Barrier, and has reached it."""
    barrier = Barrier()
    thread = threading.Thread(target=work, args=(barrier,), name=name, daemon=True)
    thread.start()
    try:
        assert barrier.reached.wait(10)
        yield
    finally:
        barrier.over.set()
        thread.join(10)


def serving(pool: Any, path: str, lazy: bool = False) -> Any:
    """A thread's work: a request that stays in its app, or in its stream."""

    def view(environ: dict[str, Any], barrier: Barrier) -> bytes:
        get_client(environ).get("key")
        barrier.stay()
        return b""

    def work(barrier: Barrier) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", [])
            if environ["PATH_INFO"] == "/stream":
                return (view(environ, barrier) for _ in range(1))
            return [view(environ, barrier)]

        environ = {
            "REQUEST_METHOD": "POST",
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": "password=secret",
            "HTTP_COOKIE": "secret",
            "wsgi.input": io.BytesIO(),
        }
        serve(MemcachedPoolMiddleware(app, pool, lazy=lazy), environ)

    return work


@pytest.mark.slow
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("path", ["/slow", "/stream"])
def test_holder_names_the_request_the_thread_and_the_place(
    mc: Client, path: str, lazy: bool
) -> None:
    pool = ClientPool(mc, 2)
    with holding(serving(pool, path, lazy), "worker-3"):
        before = time.monotonic()
        (first,) = pool.holders()
        eventually(lambda: time.monotonic() - before > 0.05)
        (holder,) = pool.holders()
        assert holder.seconds >= first.seconds + 0.05
        assert holder.thread == "worker-3"
        assert holder.request == f"POST {path}"
        assert re.fullmatch(r".*test_holders\.py:\d+ in stay", holder.frames[0])
        assert re.fullmatch(r".*test_holders\.py:\d+ in view", holder.frames[1])
        assert "secret" not in repr(holder)
        assert str(holder) == (
            f"{holder.seconds:.1f} s by worker-3, POST {path}, at {holder.frames[0]}"
        )
    assert pool.holders() == []


def test_request_that_begins_during_the_search_is_not_taken_for_the_holder(
    mc: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ClientPool(mc, 1)
    slow = contextlib.ExitStack()
    slow.enter_context(holding(serving(pool, "/slow"), "worker-1"))
    with contextlib.ExitStack() as quick:

        def search(slots: Any) -> Any:
            slow.close()
            quick.enter_context(holding(serving(pool, "/quick"), "worker-2"))
            return requests_of(slots)

        monkeypatch.setattr(holders, "requests_of", search)
        assert pool.holders() == []


@pytest.mark.parametrize("pool_class", [ClientPool, ThreadMappedPool])
def test_holder_of_a_client_of_another_package_has_its_request(
    address: str, pool_class: Any
) -> None:
    slots = [1] if pool_class is ClientPool else []
    pool = pool_class(pylibmc.Client([address]), *slots)
    with holding(serving(pool, "/slow"), "worker"):
        (holder,) = pool.holders()
        assert holder.request == "POST /slow"
    assert pool.holders() == []


@pytest.mark.parametrize(
    "kinds", [[Client] * 3, [pylibmc.Client] * 3, [Client, Client, pylibmc.Client]]
)
def test_holder_has_its_request_while_others_have_its_environ(
    address: str, kinds: list[Any]
) -> None:
    """An app calls another one with its own environ, and this one calls a third."""
    pools = [ClientPool(kind([address]), 1) for kind in kinds]

    def last(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        return [str([holder.request for holder in pool.holders()]).encode() for pool in pools]

    app: Any = last
    for pool in pools:
        app = MemcachedPoolMiddleware(app, pool)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/slow"}
    assert serve(app, environ) == [b"['GET /slow']"] * 3
    assert [pool.holders() for pool in pools] == [[], [], []]


@pytest.mark.parametrize("pool_class", [ClientPool, ThreadMappedPool])
def test_holder_without_a_request_has_its_thread(address: str, pool_class: Any) -> None:
    pool = pool_class.from_servers([address], 2)

    def work(barrier: Barrier) -> None:
        with pool.reserve():
            barrier.stay()

    with holding(work, "first"), holding(work, "second"):
        holders = pool.holders()
        assert sorted((holder.thread, holder.request) for holder in holders) == [
            ("first", None),
            ("second", None),
        ]
        assert holders[0].seconds >= holders[1].seconds
    assert pool.holders() == []


GREENLET_THAT_ASKS = """
import sys
from mcpool_wsgi import ClientPool
if sys.argv[1] == "early":
    from gevent import monkey
    monkey.patch_all()

pool = ClientPool.from_servers(["127.0.0.1"], 2)

if sys.argv[1] == "late":
    from gevent import monkey
    monkey.patch_all()
import gevent

def hold():
    with pool.reserve():
        gevent.sleep(0)

def ask():
    print([holder.frames for holder in pool.holders()])

gevent.joinall([gevent.spawn(hold), gevent.spawn(ask)], raise_error=True)
"""


@pytest.mark.parametrize("patched", ["early", "late"])
def test_place_of_a_holder_is_not_that_of_the_greenlet_that_asks(patched: str) -> None:
    demand("gevent")
    done = run_python(GREENLET_THAT_ASKS, patched)
    assert done.stdout == "[()]\n", done.stderr


@pytest.mark.servers
@pytest.mark.parametrize("fork", FORKS)
def test_holders_in_a_child_are_found(mc: Client, fork: Callable[..., int]) -> None:
    """The child has threads that C has started, as uWSGI's are. The parent has a thread, too."""
    pool = ClientPool(mc, 5, timeout=0)
    barrier = threading.Barrier(6)

    def hold(_: int) -> None:
        with pool.reserve() as client:
            client.get("key")
            barrier.wait(10)
            barrier.wait(10)

    in_c = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(hold)

    def work() -> None:
        threads = [ctypes.c_void_p() for _ in range(5)]
        libc = ctypes.CDLL(None)
        for thread in threads:
            assert libc.pthread_create(ctypes.byref(thread), None, in_c, None) == 0
        barrier.wait(10)
        with pytest.raises(PoolTimeout, match="5 of 5 are in use"):
            pool.reserve().__enter__()
        assert len(pool.holders()) == 5
        barrier.wait(10)
        for thread in threads:
            libc.pthread_join(thread, None)

    with pool.reserve() as client:
        client.get("key")
    succeeds(fork(work))


def test_holders_leave_no_circle(mc: Client) -> None:
    pool = ClientPool(mc, 2)
    with no_collection():
        reservation = pool.reserve()
        reservation.__enter__()
        environ = {"REQUEST_METHOD": "GET", "mc.client": reservation}
        assert pool.holders()[0].request == "GET "
        del reservation, environ
        assert pool.stats().in_use == 0


@pytest.mark.parametrize("kind", [Client, pylibmc.Client])
def test_holders_of_requests_with_one_environ_leave_no_circle(address: str, kind: Any) -> None:
    pool = ClientPool(kind([address]), 2)

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        assert len(pool.holders()) == 2
        yield b""

    with no_collection():
        wrapped = MemcachedPoolMiddleware(MemcachedPoolMiddleware(app, pool), pool)
        next(iter(request(wrapped)))  # and its response is dropped
        assert pool.stats().in_use == 0


def test_keys_of_an_apps_own_dict_are_left_alone(mc: Client) -> None:
    class Key:
        def __str__(self) -> str:
            raise RuntimeError("not connected to the database")

    pool = ClientPool(mc, 1, timeout=0)
    with pool.reserve() as lent:
        kept = {Key(): lent}
        with pytest.raises(PoolTimeout), pool.reserve():
            pass
        assert [holder.request for holder in pool.holders()] == [None]
        kept.clear()


def test_path_of_a_request_cannot_forge_log_lines(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    with holding(serving(pool, "/caf\xc3\xa9\r\nWARNING all is well"), "worker"):
        (holder,) = pool.holders()
        assert holder.request == "POST /café??WARNING all is well"


def test_name_of_a_thread_cannot_forge_log_lines(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    with holding(serving(pool, "/slow"), "upload of é\nWARNING all is well"):
        (holder,) = pool.holders()
        assert holder.thread == "upload of é?WARNING all is well"


def test_holder_in_a_file_whose_path_is_no_utf_8_is_shown(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    source = "def work(barrier):\n    with pool.reserve():\n        barrier.stay()"
    names: dict[str, Any] = {"pool": pool}
    exec(compile(source, os.fsdecode(b"/srv/caf\xe9/app.py"), "exec"), names)
    with holding(names["work"], "worker"):
        (holder,) = pool.holders()
        assert holder.frames[1] == "/srv/caf?/app.py:3 in work"
        assert str(holder).isprintable()


def test_first_timeout_logs_the_holders(mc: Client, caplog: pytest.LogCaptureFixture) -> None:
    pool = ClientPool(mc, 2, timeout=0.01, name="sessions")
    with holding(serving(pool, "/slow"), "slow"), holding(serving(pool, "/next"), "next"):
        for _ in range(3):
            with pytest.raises(
                PoolTimeout,
                match=r"no client of sessions came free within 0\.01 s: 2 of 2 are in use;"
                r" the longest for [\d.]+ s by slow, POST /slow, at .*:\d+ in stay",
            ):
                pool.reserve().__enter__()
    records = [record for record in caplog.records if record.name == "mcpool_wsgi.pool"]
    assert [record.levelno for record in records] == [logging.WARNING] * 3
    assert records[0].getMessage().startswith("sessions: no client came free within 0.01 s;")
    held = [record.getMessage().partition(" at ")[0] for record in records[1:]]
    assert [re.sub(r"[\d.]+ s", "... s", text) for text in held] == [
        "sessions: a client is held for ... s by slow, POST /slow,",
        "sessions: a client is held for ... s by next, POST /next,",
    ]


@pytest.mark.parametrize("looker", [0, 1], ids=["first", "second"])
def test_timeout_while_another_one_looks_for_the_holders_counts_them_too(
    mc: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, looker: int
) -> None:
    """Both threads have timed out, and the first or the second of them looks first."""
    pool = ClientPool(mc, 2, timeout=0, name="sessions")
    texts: list[str] = []
    looked: list[bool] = []

    def time_out(is_first: bool) -> None:
        monkeypatch.setattr(pool._statistics, "note_wait", lambda *args, **kw: is_first)
        with pytest.raises(PoolTimeout) as caught:
            pool.reserve().__enter__()
        texts.append(str(caught.value))

    def find_and_time_out(*args: Any) -> Any:
        if not looked:
            looked.append(True)
            time_out(looker == 1)
        return find_holders(*args)

    monkeypatch.setattr("mcpool_wsgi.pool.timeouts.find_holders", find_and_time_out)
    with holding(serving(pool, "/slow"), "slow"), holding(serving(pool, "/next"), "next"):
        time_out(looker == 0)
    assert ["2 of 2 are in use" in text for text in texts] == [True, True]
    assert [text.partition("held")[1] for text in caplog.messages] == ["", "held", "held"]
    assert "2 of 2 are in use" in caplog.messages[0]


@pytest.mark.parametrize(
    "renew", [lambda pool: pool.disconnect_all(), lambda pool: pool.fill(pool.master, 1)]
)
def test_slot_that_is_just_being_reserved_has_no_holder_yet(
    address: str, renew: Callable[[ClientPool], None]
) -> None:
    """The time of the reservation before it would be a wrong one."""
    seen: list[Any] = []

    class Watching(Client):
        def clone(self) -> Any:
            seen.extend(pool.holders() if pools else [])
            return super().clone()

    pools: list[ClientPool] = []
    pool = ClientPool(Watching([address]), 1)
    pools.append(pool)
    with pool.reserve():
        pass
    renew(pool)
    with pool.reserve():  # makes a new client for the old slot
        pass
    assert seen == []


def test_method_that_is_not_printable_reaches_no_log(mc: Client) -> None:
    pool = ClientPool(mc, 1)
    environ: dict[str, Any] = {"REQUEST_METHOD": "\x1b[31mGET\n", "PATH_INFO": "/path"}

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        return [str(pool.holders()[0].request).encode()]

    assert serve(MemcachedPoolMiddleware(app, pool), environ) == [b"?[31mGET? /path"]


@pytest.mark.parametrize("seconds", ["x", None, -1, float("nan")])
def test_wrong_number_of_seconds_is_an_error_at_once(mc: Client, seconds: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="longer_than must be"):
        ClientPool(mc, 1).holders(seconds)
