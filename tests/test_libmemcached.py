"""mcpool_wsgi.client.libmemcached: its functions are checked before they are used."""

from __future__ import annotations

import _socket
import ctypes
import logging
import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import Any, Callable

import hostile
import pylibmc
import pytest
from forking import FORKS, succeeds
from harness import in_threads, open_sockets, run_python, signal_handler

from mcpool_wsgi.client import libmemcached, sockets

pytestmark = pytest.mark.slow


def test_sockets_are_found_with_this_pylibmc() -> None:
    assert libmemcached.calibrated()


@pytest.fixture
def uncalibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libmemcached, "_is_calibrated", False)
    monkeypatch.setattr(libmemcached, "_library", None)
    monkeypatch.setattr(libmemcached, "_warnings", [])


def fails(*args: object, **kwargs: object) -> Any:
    raise OSError("not here")


BREAKAGES: dict[str, tuple[Any, str, object]] = {
    "another offset": (libmemcached, "FD_OFFSET", 24),
    "another peer": (libmemcached, "peer", lambda descriptor: ("127.0.0.1", 1)),
    "no library": (ctypes, "PyDLL", fails),
    "no function": (ctypes, "PyDLL", lambda name: object()),
    "another struct": (libmemcached, "POINTER_SIZE", 16),
    "no loopback": (_socket, "socket", fails),
}


@pytest.mark.usefixtures("uncalibrated")
@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES.keys())
def test_no_sockets_are_found_after_a_calibration_that_failed(
    breakage: tuple[Any, str, object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with hostile.fake(hostile.silent) as server:
        client = pylibmc.Client([server.address])
        client.get_behaviors()  # connects
        with monkeypatch.context() as broken:
            broken.setattr(*breakage)
            sockets.abort(client)
        assert caplog.records == []  # the watchdog's thread must not log
        for _ in range(3):
            libmemcached.log_failure()
            assert not libmemcached.calibrated()
            assert open_sockets(client) == []
            assert sockets.abort(client) == 0
            sockets.close_inherited(client)
        (record,) = caplog.records
        assert (record.levelno, record.name) == (logging.WARNING, libmemcached.logger.name)
        assert "do not work" in record.getMessage()


@pytest.mark.usefixtures("uncalibrated")
def test_interrupted_calibration_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        interrupted.setattr(libmemcached.Library, "calibrate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            libmemcached.calibrated()
    assert libmemcached.calibrated()


@pytest.mark.usefixtures("uncalibrated")
def test_calibration_works_in_a_signal_handler_during_a_calibration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calibrate = libmemcached.Library.calibrate
    results: list[str] = []

    def interrupted(self: Any) -> None:
        if not results:
            results.append("begun")
            signal.raise_signal(signal.SIGUSR1)
        calibrate(self)

    def handle(number: int, frame: FrameType | None) -> None:
        results.append(type(libmemcached.calibrated()).__name__)

    monkeypatch.setattr(libmemcached.Library, "calibrate", interrupted)
    with signal_handler(signal.SIGUSR1, handle):
        assert libmemcached.calibrated()
    assert results == ["begun", "Library"]


@pytest.mark.usefixtures("uncalibrated")
def test_calibration_works_in_many_threads_at_once() -> None:
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        assert libmemcached.calibrated()

    in_threads([work] * 8)


@pytest.mark.usefixtures("uncalibrated")
@pytest.mark.parametrize("fork", FORKS)
def test_calibration_works_in_a_child(fork: Callable[..., int], address: str) -> None:
    client = pylibmc.Client([address])
    client.set("key", 1)

    def work() -> None:
        sockets.close_inherited(client)
        assert libmemcached.calibrated()
        assert open_sockets(client) == []

    succeeds(fork(work))
    assert client.get("key") == 1


@pytest.mark.usefixtures("uncalibrated")
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_calibration_leaves_nothing_behind() -> None:
    before = os.listdir("/proc/self/fd"), threading.active_count()
    assert libmemcached.calibrated()
    assert (os.listdir("/proc/self/fd"), threading.active_count()) == before


@pytest.mark.usefixtures("uncalibrated")
def test_calibration_works_with_a_default_timeout() -> None:
    socket.setdefaulttimeout(0.001)
    try:
        assert libmemcached.calibrated()
    finally:
        socket.setdefaulttimeout(None)


@pytest.mark.usefixtures("uncalibrated")
def test_calibration_takes_little_time() -> None:
    start = time.monotonic()
    assert libmemcached.calibrated()
    assert time.monotonic() - start < 1


TOO_MANY_FILES = """
import os, resource, sys
import pylibmc
from mcpool_wsgi import Client
from mcpool_wsgi.client import libmemcached
from mcpool_wsgi.client.watchdog import watchdog

client = Client([sys.argv[1]])
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
files = []
try:
    while True:
        files.append(os.open(os.devnull, os.O_RDONLY))
except OSError:
    pass
for _ in range(int(sys.argv[2])):
    os.close(files.pop())
for _ in range(2):
    try:
        client.get("key")
    except pylibmc.Error as error:
        print("fails")
for file in files:
    os.close(file)
print(Client([sys.argv[1]]).set("key", 1), libmemcached.has_failed(), watchdog.wakes_at > 0)
"""


@pytest.mark.parametrize("free", [0, 1, 2])
def test_too_many_open_files_do_not_count_as_a_failure_for_ever(address: str, free: int) -> None:
    """The calibration needs three, one of them for a socket of libmemcached."""
    done = run_python(TOO_MANY_FILES, address, str(free))
    fails = ["fails", "fails"] if free == 0 else []
    assert done.stdout.splitlines() == [*fails, "True False True"], done.stderr
    assert not done.stderr
