"""mcpool_wsgi.client.sockets: which sockets a client has open, and how they are ended."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Callable
from unittest.mock import Mock

import _pylibmc
import pylibmc
import pytest
from forking import FORKS, succeeds
from harness import eventually, open_sockets
from mortal import Mortal

from mcpool_wsgi.client import libmemcached, sockets
from mcpool_wsgi.devserver import memcached

pytestmark = pytest.mark.slow

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="fills the backlog of a listener as on Linux"
)

LONG = {"connect_timeout": 20_000, "_poll_timeout": 20_000}  # milliseconds
SOON = 5.0  # seconds, much less than LONG, and enough for a machine under load


@contextmanager
def listener(backlog: int = 50) -> Iterator[tuple[socket.socket, str]]:
    """A server that accepts connections and never answers, and its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as server:
        yield server, "{}:{}".format(*server.getsockname())


@contextmanager
def unanswered_connections() -> Iterator[str]:
    """The address of a listener that answers no attempt to connect, on Linux."""
    with listener(backlog=0) as (server, address), ExitStack() as stack:
        for _ in range(4):  # more than fit
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield address


def connected(address: str) -> Any:
    """A client that has a connection, and has sent nothing."""
    client = pylibmc.Client([address], behaviors=LONG)
    client.get_behaviors()
    return client


def peer(descriptor: int) -> Any:
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        return connection.getpeername()


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_client_without_connection_has_no_sockets(address: str) -> None:
    assert open_sockets(pylibmc.Client([address])) == []
    assert open_sockets(pylibmc.Client.__new__(pylibmc.Client)) == []


def test_socket_of_a_client_is_found(address: str) -> None:
    client = pylibmc.Client([address])
    client.set("key", 1)
    (descriptor,) = open_sockets(client)
    assert "{}:{}".format(*peer(descriptor)) == address
    client.disconnect_all()
    assert open_sockets(client) == []


def test_sockets_of_a_client_of_several_servers_are_found_in_their_order() -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(listener()) for _ in range(5)]
        addresses = [address for _, address in listeners]
        client = pylibmc.Client(addresses, behaviors={"_noreply": True})
        client.set_multi({str(number): number for number in range(1000)})
        peers = [peer(descriptor) for descriptor in open_sockets(client)]
        assert peers == [server.getsockname() for server, _ in listeners]


def test_unix_socket_of_a_client_is_found(tmp_path: Path) -> None:
    path = str(tmp_path / "memcached.sock")
    with memcached(unix_socket=path) as server:
        client = pylibmc.Client([server.address])
        client.set("key", 1)
        (descriptor,) = open_sockets(client)
        assert peer(descriptor) == path


class Slotted(pylibmc.Client):  # type: ignore[misc]
    __slots__ = ("extra", "more")


@pytest.mark.parametrize("kind", [_pylibmc.client, pylibmc.Client, Slotted])
@pytest.mark.parametrize("binary", [False, True])
def test_sockets_of_subclasses_and_clones_are_found(kind: Any, binary: bool) -> None:
    with listener() as (server, address):
        host, port = server.getsockname()
        servers = [address] if kind is not _pylibmc.client else [(1, host, port)]
        client = kind(servers, binary=binary)
        for each in (client, client.clone()):
            assert open_sockets(each) == []
            each.get_behaviors()
            (descriptor,) = open_sockets(each)
            assert peer(descriptor) == server.getsockname()


class Liar:
    """Its fields are where those of a client are, and isinstance() takes it for one."""

    __slots__ = ("field",)
    __class__ = pylibmc.Client

    def __init__(self) -> None:
        self.field = "value"


def test_objects_of_other_types_have_no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        libmemcached._library, "_count", lambda _: 1 / 0
    )  # it would read no struct
    for thing in (None, object(), "client", Mock(spec=pylibmc.Client), Liar(), pylibmc.Client):
        assert open_sockets(thing) == []
        assert sockets.abort(thing) == 0
        sockets.close_inherited(thing)


def test_other_files_are_no_sockets() -> None:
    with listener() as (_, address):
        client = connected(address)
        (descriptor,) = open_sockets(client)
        with open(os.devnull) as other:
            os.dup2(other.fileno(), descriptor)
            assert open_sockets(client) == []
            assert sockets.abort(client) == 0
            assert is_open(descriptor)
        os.close(descriptor)
        assert open_sockets(client) == []
        assert sockets.abort(client) == 0


# abort()


class Running:
    """A command that runs in a thread."""

    def __init__(self, command: Callable[[], object]) -> None:
        self._command = command
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error: Exception | None = None
        self._thread.start()

    def _run(self) -> None:
        try:
            self._command()
        except pylibmc.Error as error:
            self.error = error

    def is_running(self) -> bool:
        # In a child by C, CPython 3.13 crashes when it frees a thread that nobody has joined.
        self._thread.join(0)
        return self._thread.is_alive()


def ends_when_aborted(client: Any, command: Callable[[], object]) -> None:
    running = Running(command)
    shut_down = 0

    def ended() -> bool:
        nonlocal shut_down
        shut_down += sockets.abort(client)
        return not running.is_running()

    try:
        eventually(lambda: open_sockets(client))
        time.sleep(0.05)
        assert running.is_running()
        eventually(ended, deadline=SOON)
        assert shut_down
    finally:
        eventually(lambda: not running.is_running(), "the command hangs", deadline=60)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("command", ["get", "delete", "get_stats"])
def test_abort_ends_a_command_that_waits_for_an_answer(command: str, binary: bool) -> None:
    with listener() as (_, address):
        client = pylibmc.Client([address], behaviors=LONG, binary=binary)
        arguments = [] if command == "get_stats" else ["key"]
        ends_when_aborted(client, lambda: getattr(client, command)(*arguments))


def test_abort_ends_a_command_that_sends() -> None:
    with listener() as (_, address):
        client = pylibmc.Client([address], behaviors=LONG)
        value = os.urandom(1_000_000) * 40  # more than the buffers of the sockets take
        ends_when_aborted(client, lambda: client.set("key", value))


@on_linux
def test_abort_ends_a_command_that_connects() -> None:
    with unanswered_connections() as address:
        client = pylibmc.Client([address], behaviors=LONG)
        ends_when_aborted(client, lambda: client.get("key"))


def test_abort_works_with_too_many_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def dup(descriptor: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "dup", dup)
    with listener() as (_, address):
        client = pylibmc.Client([address], behaviors=LONG)
        ends_when_aborted(client, lambda: client.get("key"))


def test_abort_of_a_client_without_connection_does_nothing(address: str) -> None:
    assert sockets.abort(pylibmc.Client([address])) == 0


def test_abort_says_how_many_sockets_were_shut_down() -> None:
    with listener() as (_, one), listener() as (_, other):
        client = pylibmc.Client([one, other], behaviors={"_noreply": True})
        client.set_multi({str(number): number for number in range(100)})
        assert sockets.abort(client) == 2


def test_abort_between_commands_gives_no_wrong_value(address: str) -> None:
    client = pylibmc.Client([address])
    client.set_multi({f"key-{number}": number for number in range(20)})
    for number in range(20):
        assert sockets.abort(client) == 1
        with suppress(pylibmc.Error):
            assert client.get(f"key-{number}") in (None, number)
        client.disconnect_all()
        assert client.get(f"key-{number}") == number


def test_abort_asks_before_it_shuts_a_socket_down(address: str) -> None:
    client = pylibmc.Client([address])
    client.set("key", 1)
    assert sockets.abort(client, lambda: False) == 0
    assert client.get("key") == 1


def test_abort_spares_what_has_the_number_of_a_closed_socket(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = pylibmc.Client([address])
    client.set("key", 1)
    with connection_to(address) as other:
        dup = os.dup
        monkeypatch.setattr(os, "dup", lambda descriptor: dup(other.fileno()))
        # The client notes that its socket is closed only after the duplication.
        monkeypatch.setattr(libmemcached._library, "usleep", lambda _: client.disconnect_all())
        assert sockets.abort(client) == 0
        answers(other)


@contextmanager
def connection_to(address: str) -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        yield connection


def answers(connection: socket.socket) -> None:
    """The connection to a memcached works."""
    connection.sendall(b"version\r\n")
    assert connection.recv(100).startswith(b"VERSION")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_no_descriptor_is_left_open(address: str) -> None:
    client = pylibmc.Client([address])
    client.set("key", 1)
    libmemcached.calibrated()
    before = os.listdir("/proc/self/fd")
    for _ in range(10):
        sockets.abort(client)
        open_sockets(client)
    assert os.listdir("/proc/self/fd") == before


# close_inherited()


@pytest.mark.parametrize("fork", FORKS)
def test_child_closes_what_it_inherited(fork: Callable[..., int], mortal: Mortal) -> None:
    client = pylibmc.Client([mortal.address])
    client.set("key", "value")
    descriptors = open_sockets(client)

    def work() -> None:
        sockets.close_inherited(client)
        assert not any(map(is_open, descriptors))
        assert open_sockets(client) == []

    succeeds(fork(work))
    assert client.get("key") == "value"
    assert open_sockets(client) == descriptors


@on_linux
@pytest.mark.parametrize("fork", FORKS)
def test_child_closes_what_its_parent_was_connecting(fork: Callable[..., int]) -> None:
    with unanswered_connections() as address:
        client = pylibmc.Client([address], behaviors=LONG)

        def work() -> None:
            sockets.close_inherited(client)
            assert not is_open(descriptor)

        running = Running(lambda: client.get("key"))
        eventually(lambda: open_sockets(client))
        (descriptor,) = open_sockets(client)
        try:
            succeeds(fork(work))
            assert open_sockets(client) == [descriptor]
        finally:
            eventually(lambda: sockets.abort(client) or not running.is_running())
            eventually(lambda: not running.is_running())


@pytest.mark.parametrize("fork", FORKS)
def test_memcached_notices_that_the_parent_disconnects(fork: Callable[..., int]) -> None:
    with listener() as (server, address):
        client = connected(address)
        accepted, _ = server.accept()
        ready, is_ready = os.pipe()
        go_on, may_go_on = os.pipe()

        def work() -> None:
            sockets.close_inherited(client)
            os.write(is_ready, b".")
            os.read(go_on, 1)

        child = fork(work)
        os.read(ready, 1)
        with closing(accepted):
            accepted.settimeout(10)
            client.disconnect_all()
            while accepted.recv(100):
                pass
        os.write(may_go_on, b".")
        succeeds(child)
        for descriptor in (ready, is_ready, go_on, may_go_on):
            os.close(descriptor)


@pytest.mark.parametrize("fork", FORKS)
def test_socket_that_has_the_same_number_later_stays_open(
    fork: Callable[..., int], address: str
) -> None:
    client = pylibmc.Client([address])
    client.set("key", 1)
    (descriptor,) = open_sockets(client)

    def work() -> None:
        sockets.close_inherited(client)
        with connection_to(address) as connection:
            if connection.fileno() != descriptor:
                os.dup2(connection.fileno(), descriptor)
            sockets.close_inherited(client)
            sockets.abort(client)
            answers(connection)

    succeeds(fork(work))


def test_child_leaves_other_files_open(address: str) -> None:
    client = pylibmc.Client([address])
    client.set("key", 1)
    (descriptor,) = open_sockets(client)

    def work() -> None:
        with open(os.devnull) as other:
            os.dup2(other.fileno(), descriptor)
        sockets.close_inherited(client)
        assert is_open(descriptor)

    succeeds(FORKS[0](work))
