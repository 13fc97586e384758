"""What many tests need: waits with a deadline, threads, signal handlers, examples that run."""

from __future__ import annotations

import gc
import http.client
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, NoReturn

import pylibmc
import pytest

from mcpool_wsgi import Client
from mcpool_wsgi.client import libmemcached, sockets

DEADLINE = 10.0  # seconds after which a test gives up waiting for a condition


def eventually(
    condition: Callable[[], object], what: str = "", *, deadline: float = DEADLINE
) -> None:
    """Wait until *condition* holds."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"not within {deadline} s: {what or condition}"
        time.sleep(0.002)


@contextmanager
def limited_time(least: float = 0.0, most: float = DEADLINE) -> Iterator[None]:
    """The block takes so many seconds."""
    start = time.monotonic()
    yield
    assert least <= time.monotonic() - start < most


def clock(module: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that puts the clock of *module* forward, by so many seconds."""
    skipped = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: time.monotonic() + sum(skipped))
    return skipped.append


def missing(what: str, problem: str = "is not installed") -> NoReturn:
    """Skip the test, for want of *what*; or fail it, where all must be installed."""
    if os.environ.get("MCPOOL_REQUIRE_ALL", "0") != "0":
        pytest.fail(f"{what} {problem}")
    pytest.skip(f"{what} {problem}")


def demand(module: str) -> None:
    """Skip the test if *module* is not installed."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # nor the package that it is in
        found = None
    if found is None:
        missing(module)


def has_libmemcached_1_1() -> bool:
    """Whether pylibmc has libmemcached 1.1, as Debian's package and the wheels for macOS have.

    It says that it is 1.0.18. But it has no number of failures for ``remove_failed``.
    """
    client = pylibmc.Client(["/nowhere"], behaviors={"remove_failed": 7})
    return int(client.behaviors["remove_failed"]) == 1


def skip_if_not_spoken(binary: bool, embedded: bool) -> None:
    """Skip the test if it is *binary* and its server is *embedded*."""
    if binary and embedded:
        pytest.skip("the embedded server speaks no binary protocol")


def open_sockets(client: object) -> list[int]:
    """The descriptors of the connections that *client* has open, to all its servers."""
    return [number for number in sockets.numbers(client) if libmemcached.is_socket(number)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Connections:
    """Counts the connections that a memcached has besides this one."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.mc = Client([address])
        self.ignore_those_open()

    def ignore_those_open(self) -> None:
        self._ignored = self._stat("curr_connections")

    def count(self) -> int:
        return self._stat("curr_connections") - self._ignored

    def opened(self) -> int:
        """How many there have been, this one included."""
        return self._stat("total_connections")

    def _stat(self, name: str) -> int:
        ((_, stats),) = self.mc.get_stats()
        return int(stats[name])


def in_thread(work: Callable[[], object]) -> None:
    """Do *work* in a thread of its own; what it raises is raised here."""
    in_threads([work])


def in_threads(works: list[Callable[[], object]]) -> None:
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def use(pool: Any) -> None:
    """Reserve a client for one command."""
    with pool.reserve() as mc:
        mc.get("key")


@contextmanager
def waiting(pool: Any, work: Callable[[], object]) -> Iterator[None]:
    """A thread that does *work*, and waits for a slot of *pool*. It goes on after the block."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    eventually(lambda: pool.stats().waiting == 1)
    yield
    thread.join(DEADLINE)
    assert not thread.is_alive(), "the thread still waits"


def in_spite_of_errors(command: Callable[..., Any], *args: Any) -> Any:
    """What *command* returns, or None if memcached fails."""
    with suppress(pylibmc.Error):
        return command(*args)


@contextmanager
def signal_handler(number: int, handler: Any) -> Iterator[None]:
    """*handler* is the one of this signal."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def no_collection() -> Iterator[None]:
    """Only reference counts free what is in here, and nothing that earlier tests have left."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class FakeClient:
    """A client that can be cloned, and talks to no memcached."""

    def clone(self) -> FakeClient:
        return FakeClient()

    def set(self, key: str, value: object) -> None:
        pass


def run_python(
    script: str, *arguments: str, options: Sequence[str] = (), **others: Any
) -> subprocess.CompletedProcess[str]:
    """Run *script* in a process of its own, which ends within a minute.

    :param options: those of Python, such as ``-W``.
    """
    command = [sys.executable, *options, "-c", script, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, **others
    )


@contextmanager
def django_settings(**settings: Any) -> Iterator[None]:
    """Django with these *settings*. It can be configured only once in a process."""
    from django.conf import settings as django
    from django.test.utils import override_settings

    if not django.configured:
        django.configure(SECRET_KEY="Django asks for one")
    with override_settings(**settings):
        yield


def source_distribution(directory: Path, name: str, version: str) -> Path:
    """The file of the source distribution, which pip downloads once into *directory*."""

    def found() -> list[Path]:
        return [path for path in directory.iterdir() if path.name.lower() == file]

    file = f"{name}-{version}.tar.gz"
    if not found():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--retries=1"]
        command += ["--no-binary", name, "--dest", str(directory), f"{name}=={version}"]
        pip = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if not found():
            reason = (pip.stderr.strip().splitlines() or [f"it ended with {pip.returncode}"])[-1]
            missing(file, f"cannot be had from pip: {reason}")
    return found()[0]


EXAMPLES = Path(__file__).parent.parent / "examples"


class Running:
    """An example that has been started: what it printed, and where it listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        assert process.stdout is not None
        self.uses = process.stdout.readline().rstrip()
        self.hint = process.stdout.readline().rstrip()
        match = re.fullmatch(r"Try: curl http://([\d.]+):(\d+)(/\w*)", self.hint)
        assert match, f"{self.uses!r} {self.hint!r}"
        self.host, self.port, self.path = match[1], int(match[2]), match[3]

    def get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        # As curl sends it; http.client itself refuses some of these paths.
        connection._validate_path = lambda url: None  # type: ignore[attr-defined]
        connection._encode_request = lambda line: line.encode("latin-1")  # type: ignore[attr-defined]
        connection.request("GET", path)
        response = connection.getresponse()
        status, body = response.status, response.read().decode()
        connection.close()
        return status, body


@contextmanager
def running(script: str, **environ: str) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / script), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environ},
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        yield Running(process)
    finally:
        watchdog.cancel()
        process.terminate()  # not killed: it has a memcached to end
        try:
            process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
