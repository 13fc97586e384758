"""slow_after: a client that is held too long is logged once, with the place."""

from __future__ import annotations

import logging
import re
import sys
import threading
from types import FrameType
from typing import Any

import pylibmc
import pytest
from apps import request
from forking import in_child, in_child_by_c, succeeds
from harness import demand, eventually, run_python
from interrupts import interrupted_everywhere, tracing

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware, get_client
from mcpool_wsgi.middleware.slow import SlowHolders

pytestmark = pytest.mark.servers


def slow_app(over: threading.Event) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        get_client(environ).get("key")
        over.wait(10)
        return [b""]

    return app


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "middleware" in record.name]


@pytest.mark.parametrize("lazy", [False, True])
def test_slow_request_is_logged_once(
    mc: Client, caplog: pytest.LogCaptureFixture, lazy: bool
) -> None:
    caplog.set_level(logging.WARNING, "mcpool_wsgi")
    pool = ClientPool(mc, 2, name="sessions")
    over = threading.Event()
    app = MemcachedPoolMiddleware(slow_app(over), pool, slow_after=0.05, lazy=lazy)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/slow", "QUERY_STRING": "secret"}
    for number in range(2):
        over.clear()
        thread = threading.Thread(target=lambda: request(app, environ).close(), name="worker")
        thread.start()
        eventually(lambda: len(lines(caplog)) == number + 1)  # noqa: B023
        reserved_at = pool.holders()[0].reserved_at
        assert re.match(
            r"sessions: a client is held for 0\.\d s by worker, GET /slow, at .*\.py:\d+ in ",
            lines(caplog)[-1],
        )
        # It is looked at a few times more, and not logged again.
        eventually(lambda: pool.holders()[0].seconds > 0.3)
        assert pool.holders()[0].reserved_at == reserved_at
        over.set()
        thread.join()
    assert len(lines(caplog)) == 2


def test_two_middlewares_of_one_pool_log_a_slow_request_once(
    mc: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mcpool_wsgi")
    pool = ClientPool(mc, 2)
    over = threading.Event()
    apps = [MemcachedPoolMiddleware(slow_app(over), pool, slow_after=0.05) for _ in range(2)]
    for app in apps:
        over.clear()
        thread = threading.Thread(
            target=lambda: request(app, {}).close()  # noqa: B023
        )
        thread.start()
        eventually(lambda: pool.holders(longer_than=0.2))
        over.set()
        thread.join(10)
    assert len(lines(caplog)) == 2


def test_log_handler_that_raises_does_not_end_the_thread(mc: Client) -> None:
    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError

    logger, failing = logging.getLogger("mcpool_wsgi.middleware"), Failing()
    pool = ClientPool(mc, 1)
    app = MemcachedPoolMiddleware(lambda *_: [b""], pool, slow_after=0.02)
    logger.addHandler(failing)
    eventually(lambda: threads() == 0)
    try:
        response = request(app, {})
        eventually(lambda: pool.holders()[0].seconds > 0.2)
        assert threads() == 1
        response.close()
    finally:
        logger.removeHandler(failing)


def test_quick_request_is_not_logged(mc: Client, caplog: pytest.LogCaptureFixture) -> None:
    pool = ClientPool(mc, 1)
    over = threading.Event()
    over.set()
    app = MemcachedPoolMiddleware(slow_app(over), pool, slow_after=5)
    for _ in range(10):
        request(app, {}).close()
    assert lines(caplog) == []


@pytest.mark.parametrize(
    ("fork", "is_used"), [(in_child, False), (in_child, True), (in_child_by_c, False)]
)
def test_child_has_a_thread_of_its_own(
    mc: Client, caplog: pytest.LogCaptureFixture, fork: Any, is_used: bool
) -> None:
    """It starts with the first request of the child."""
    pool = ClientPool(mc, 1)
    over = threading.Event()
    app = MemcachedPoolMiddleware(slow_app(over), pool, slow_after=0.05)
    if is_used:
        over.set()
        request(app, {}).close()

    def work() -> None:
        over.clear()

        def end_when_logged() -> None:
            eventually(lambda: lines(caplog))
            over.set()

        threading.Thread(target=end_when_logged).start()
        request(app, {}).close()
        assert len(lines(caplog)) == 1

    succeeds(fork(work))


def threads() -> int:
    return sum(is_in(frame, SlowHolders._run) for frame in sys._current_frames().values())


def is_in(frame: FrameType | None, function: Any) -> bool:
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame is not None


def test_thread_ends_with_the_pool(mc: Client) -> None:
    eventually(lambda: threads() == 0)
    app = MemcachedPoolMiddleware(lambda *_: [b""], ClientPool(mc, 1), slow_after=1)
    for _ in range(3):
        request(app, {}).close()
    eventually(lambda: threads() == 1)
    del app
    eventually(lambda: threads() == 0)


def test_thread_ends_when_another_one_was_started(mc: Client) -> None:
    eventually(lambda: threads() == 0)
    pool = ClientPool(mc, 1)
    slow = SlowHolders(pool, 0.05)
    for _ in range(3):
        slow._process = None  # as an interrupt of the request before has left it
        slow.watching(pool.reserve)()
    eventually(lambda: threads() == 1)


@tracing
def test_interrupt_of_the_first_request_leaves_the_thread_to_the_next(mc: Client) -> None:
    class Noting(SlowHolders):
        def __init__(self) -> None:
            super().__init__(ClientPool(mc, 1), 10)
            self.ran = threading.Event()

        def _run(self, *args: Any) -> None:
            self.ran.set()

    slow = Noting()

    def serve_the_first_request() -> None:
        slow.watching(int)()

    def serve_the_next_request() -> None:
        nonlocal slow
        slow.watching(int)()
        assert slow.ran.wait(10)
        slow = Noting()

    interrupted_everywhere(KeyboardInterrupt, serve_the_first_request, serve_the_next_request)


PROGRAM_WITH_GEVENT = """
from gevent import monkey
monkey.patch_all()
import signal
import time
from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it

class Pool(ClientPool):
    def holders(self, longer_than=0.0):
        signal.raise_signal(signal.SIGINT)

def app(environ, start_response):
    return []

middleware = MemcachedPoolMiddleware(app, Pool(Client(["127.0.0.1"]), 1), slow_after=0.01)
try:
    middleware({}, print).close()
    time.sleep(10)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_interrupt_of_the_greenlet_that_looks_reaches_the_program() -> None:
    """With gevent all greenlets are in the main thread, and signal handlers run in any of them."""
    demand("gevent")
    ended = run_python(PROGRAM_WITH_GEVENT)
    assert ended.stdout == "interrupted\n", ended.stderr


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf")])
def test_wrong_number_of_seconds_is_an_error_at_once(mc: Client, wrong: float) -> None:
    with pytest.raises(ValueError, match="slow_after must be a positive number of seconds, not"):
        MemcachedPoolMiddleware(lambda *_: [], ClientPool(mc, 1), slow_after=wrong)


@pytest.mark.parametrize("option", [{"slow_after": 1}, {"server_timing": True}, {"lazy": True}])
def test_other_peoples_pools_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="need a pool of this package"):
        MemcachedPoolMiddleware(lambda *_: [], pylibmc.ClientPool(), **option)
