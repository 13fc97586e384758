"""The development server from the command line, and memcached() as a context manager."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Callable

import pylibmc
import pytest
from bytewise import ask, command_line, connected
from forking import in_child, succeeds
from harness import free_port

from mcpool_wsgi.devserver import Memcached, memcached

pytestmark = pytest.mark.servers


def works(address: str) -> bool:
    client = pylibmc.Client([address])
    stored = client.set("a", 1)
    client.disconnect_all()
    return bool(stored)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_server_and_it_prints_nothing(number: int) -> None:
    with command_line("--port=0") as (process, address), connected(address) as connection:
        connection.sendall(b"set a 0 0 10\r\nhalf")  # the client is in the middle of a request
        assert not address.endswith(":0")
        process.send_signal(number)

        assert process.communicate(timeout=10) == (b"", b"")
        assert process.returncode == 0


def test_server_removes_its_socket_when_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "memcached.sock"
    with command_line(f"--unix-socket={path}") as (process, address):
        assert address == str(path)
        assert path.stat().st_mode & 0o777 == 0o700
        process.send_signal(signal.SIGTERM)

        assert process.communicate(timeout=10) == (b"", b"")
        assert process.returncode == 0
        assert not path.exists()


def test_server_that_ends_keeps_the_socket_of_another(tmp_path: Path) -> None:
    path = tmp_path / "memcached.sock"
    option = f"--unix-socket={path}"
    # The second takes the path over, as memcached does.
    with command_line(option) as (first, _), command_line(option) as (second, address):
        first.send_signal(signal.SIGTERM)
        assert first.communicate(timeout=10) == (b"", b"")

        assert works(address)
        second.send_signal(signal.SIGTERM)
        assert second.communicate(timeout=10) == (b"", b"")
    assert not path.exists()


def test_server_takes_more_clients_than_the_soft_limit_of_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = len(os.listdir("/dev/fd")) + 64  # this process needs some itself
    with contextlib.ExitStack() as connections:
        resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
        try:
            process, address = connections.enter_context(command_line("--port=0"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        clients = [connections.enter_context(connected(address)) for _ in range(low)]
        for client in clients:
            client.sendall(b"version\r\n")
            assert client.recv(100).startswith(b"VERSION ")
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10) == (b"", b"")


KINDS = [
    pytest.param(True, id="devserver"),
    pytest.param(
        False,
        id="memcached",
        marks=pytest.mark.skipif(not shutil.which("memcached"), reason="needs memcached"),
    ),
]


def test_real_memcached_is_preferred() -> None:
    with memcached() as server:
        expected = "memcached" if shutil.which("memcached") else "devserver"
        assert server.kind == expected
        assert ask(server, b"get a\r\n") == b"END\r\n"
    assert server.process.returncode is not None


def test_devserver_starts_if_no_memcached_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with memcached() as server:
        assert server.kind == "devserver"
        assert str(server) == f"the embedded development server at {server.address}"
        assert works(server.address)
    with pytest.raises(FileNotFoundError, match="no memcached on the PATH"):
        memcached(embedded=False).__enter__()


def test_text_of_a_server_names_its_version(real_memcached: Memcached) -> None:
    assert re.fullmatch(r"memcached 1\.\S+ at 127\.0\.0\.1:\d+", str(real_memcached))


def test_child_needs_no_installation_and_no_current_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with memcached(embedded=True) as server:
        assert ask(server, b"get a\r\n") == b"END\r\n"


@pytest.mark.parametrize("embedded", KINDS)
def test_server_listens_on_a_unix_socket(embedded: bool, tmp_path: Path) -> None:
    path = tmp_path / "memcached.sock"
    with memcached(embedded=embedded, unix_socket=str(path)) as server:
        assert server.address == str(path)
        assert works(server.address)
        server.process.kill()
    assert not path.exists()


@pytest.mark.parametrize("embedded", KINDS)
def test_address_of_a_relative_path_is_absolute(
    embedded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with memcached(embedded=embedded, unix_socket="memcached.sock") as server:
        assert server.address == str(tmp_path / "memcached.sock")
        assert works(server.address)


@pytest.mark.parametrize("embedded", KINDS)
def test_child_that_leaves_the_block_keeps_the_socket_of_its_parent(
    embedded: bool, tmp_path: Path
) -> None:
    path = tmp_path / "memcached.sock"
    with contextlib.ExitStack() as block:
        server = block.enter_context(memcached(embedded=embedded, unix_socket=str(path)))
        succeeds(in_child(block.close))

        assert works(server.address)
    assert not path.exists()


@pytest.mark.parametrize("embedded", KINDS)
def test_path_in_use_is_refused(embedded: bool, tmp_path: Path) -> None:
    file, directory, path = tmp_path / "file", tmp_path / "directory", tmp_path / "socket"
    file.write_text("precious")
    directory.mkdir()
    with memcached(embedded=embedded, unix_socket=str(path)) as other:
        for taken in (file, directory, path):
            with pytest.raises(FileExistsError, match=str(taken)):
                memcached(embedded=embedded, unix_socket=str(taken)).__enter__()
        assert file.read_text() == "precious"
        assert works(other.address)


def test_path_of_a_silent_server_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(FileExistsError, match=str(path)):
            memcached(embedded=True, unix_socket=str(path)).__enter__()
        assert path.exists()


@pytest.mark.parametrize("embedded", KINDS)
def test_socket_of_a_killed_server_is_replaced(embedded: bool, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with memcached(embedded=embedded, unix_socket=str(path)) as server:
        assert works(server.address)


@pytest.mark.parametrize("embedded", KINDS)
def test_server_listens_on_ipv6(embedded: bool) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("needs IPv6")
    with memcached(embedded=embedded, host="::1") as server:
        assert re.fullmatch(r"\[::1\]:\d+", server.address)


@pytest.mark.parametrize("embedded", KINDS)
def test_server_listens_on_the_given_port_or_fails(embedded: bool, devserver: Memcached) -> None:
    taken = int(devserver.address.rpartition(":")[2])
    with pytest.raises(RuntimeError, match="in use"):
        memcached(embedded=embedded, port=taken).__enter__()

    free = free_port()
    with memcached(embedded=embedded, port=free) as server:
        assert server.address == f"127.0.0.1:{free}"
        server.process.kill()


@pytest.mark.parametrize("embedded", KINDS)
def test_killed_child_is_no_error(embedded: bool) -> None:
    with memcached(embedded=embedded) as server:
        server.process.kill()
        server.process.wait()
    assert server.process.returncode == -signal.SIGKILL


def test_child_that_hangs_is_killed() -> None:
    with memcached(embedded=True) as server:
        server.process.send_signal(signal.SIGSTOP)
    assert server.process.returncode is not None


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_child_ends_when_the_body_raises(error: type[BaseException]) -> None:
    with pytest.raises(error), memcached(embedded=True) as server:
        raise error
    assert server.process.returncode is not None


def test_child_has_a_session_of_its_own(devserver: Memcached) -> None:
    assert os.getsid(devserver.process.pid) == devserver.process.pid


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Installs a program in the place of memcached."""

    def write(program: str) -> None:
        binary = tmp_path / "memcached"
        binary.write_text(program)
        binary.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return write


def test_error_shows_what_the_child_printed(install: Callable[[str], None]) -> None:
    install("#!/bin/sh\necho no luck today >&2\nexit 3\n")
    with pytest.raises(RuntimeError, match="has ended: no luck today"):
        memcached().__enter__()


def test_child_that_never_answers_is_an_error(
    install: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    install("#!/bin/sh\necho still thinking >&2\nexec /bin/sleep 60\n")
    monkeypatch.setattr("mcpool_wsgi.devserver.launch.START_TIMEOUT", 0.2)
    with pytest.raises(RuntimeError, match="does not answer: still thinking"):
        memcached().__enter__()


LATE = """#!{python}
import os, pathlib, socket, time
listener = socket.create_server(("127.0.0.1", 0))
with open(os.environ["MEMCACHED_PORT_FILENAME"], "w") as file:
    file.write(str(listener.getsockname()[1]))
connection, _ = listener.accept()
connection.recv(100)
connection.sendall(b"VERSION 1.6.18\\r\\n")
time.sleep(0.2)
pathlib.Path("{closed}").touch()
connection.close()
time.sleep(60)
"""


def test_server_has_closed_the_first_connection_when_the_body_begins(
    install: Callable[[str], None], tmp_path: Path
) -> None:
    """So that nobody finds this connection in the statistics."""
    closed = tmp_path / "closed"
    install(LATE.format(python=sys.executable, closed=closed))
    with memcached() as server:
        assert server.version == "1.6.18"
        assert closed.exists()
