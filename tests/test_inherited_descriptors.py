"""A forked child keeps none of its parent's sockets open, and the parent loses no connection."""

from __future__ import annotations

import contextlib
import gc
import math
import multiprocessing
import os
import signal
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from multiprocessing.process import BaseProcess
from typing import Any, Callable

import pylibmc
import pytest
from forking import FORKS, in_child, in_child_by_c, succeeds
from harness import Connections, eventually, no_collection, open_sockets
from mortal import Mortal

from mcpool_wsgi import Client, ClientPool, ThreadMappedPool
from mcpool_wsgi.client import sockets
from mcpool_wsgi.devserver import memcached

DESCRIPTORS = "/proc/self/fd"
pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(not os.path.isdir(DESCRIPTORS), reason=f"needs {DESCRIPTORS}"),
]
GENERATIONS = 60

Fork = Callable[[Callable[[], object]], Any]


def in_child_by_multiprocessing(work: Callable[[], object]) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def ends_well(child: int | BaseProcess) -> None:
    if isinstance(child, int):
        succeeds(child)
    else:
        child.join(60)
        assert child.exitcode == 0


EVERY_FORK = pytest.mark.parametrize("fork", [*FORKS, in_child_by_multiprocessing])


def sockets_to(address: str) -> set[int]:
    """The descriptors of this process that are connected to *address*."""
    host, _, port = address.rpartition(":")
    found = set()
    for descriptor in map(int, os.listdir(DESCRIPTORS)):
        with contextlib.suppress(OSError):  # not connected, or the descriptor of listdir() itself
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                with socket.socket(fileno=os.dup(descriptor)) as connection:
                    if connection.getpeername() == (host, int(port)):
                        found.add(descriptor)
    return found


def identity(descriptor: int) -> int:
    """What tells one socket from all others, in the parent and in the child."""
    return os.fstat(descriptor).st_ino


def identities(address: str) -> set[int]:
    return {identity(descriptor) for descriptor in sockets_to(address)}


def number_of_descriptors() -> int:
    return len(os.listdir(DESCRIPTORS))


# -- What a parent may have open, and the first use of it in a child


class Held:
    """Connections of this process: each is used once and then held, idle or busy."""

    def __init__(self, use: Callable[[], object], connections: int) -> None:
        #: Uses it, here or in a child.
        self.use = use
        #: How many connections there are.
        self.connections = connections


@contextlib.contextmanager
def idle_in_pool(pool: Any) -> Iterator[Held]:
    with ExitStack() as lent:
        for mc in [lent.enter_context(pool.reserve()) for _ in range(3)]:
            assert mc.set("key", "value")
    yield Held(lambda: used(pool), 3)


@contextlib.contextmanager
def busy_in_pool(pool: Any) -> Iterator[Held]:
    with ExitStack() as lent:
        clients = [lent.enter_context(pool.reserve()) for _ in range(3)]
        for mc in clients:
            assert mc.set("key", "value")
        yield Held(lambda: used(pool), 3)
        for mc in clients:
            assert mc.get("key") == "value"


@contextlib.contextmanager
def idle_and_busy_in_pool(pool: Any) -> Iterator[Held]:
    with idle_in_pool(pool), pool.reserve() as mc:
        assert mc.get("key") == "value"
        yield Held(lambda: used(pool), 3)
        assert mc.get("key") == "value"


@contextlib.contextmanager
def single(mc: Any) -> Iterator[Held]:
    assert mc.set("key", "value")

    def use() -> None:
        assert mc.get("key") == "value"

    yield Held(use, 1)
    use()


@contextlib.contextmanager
def clones(mc: Any) -> Iterator[Held]:
    clients = [mc.clone() for _ in range(3)]
    for client in clients:
        assert client.set("key", "value")

    def use() -> None:
        for client in clients:
            assert client.get("key") == "value"

    yield Held(use, 3)
    use()


def used(pool: Any) -> None:
    with (
        pool.reserve(timeout=0) if not isinstance(pool, ThreadMappedPool) else pool.reserve() as mc
    ):
        assert mc.get("key") == "value"


Hold = Callable[[str], contextlib.AbstractContextManager[Held]]

HOLDS: dict[str, Hold] = {
    "idle": lambda address: idle_in_pool(ClientPool(Client([address]), 4)),
    "busy": lambda address: busy_in_pool(ClientPool(Client([address]), 4)),
    "idle and busy": lambda address: idle_and_busy_in_pool(ClientPool(Client([address]), 4)),
    "idle, thread-mapped": lambda address: idle_in_pool(ThreadMappedPool(Client([address]))),
    "busy, thread-mapped": lambda address: busy_in_pool(ThreadMappedPool(Client([address]))),
    "idle, pylibmc's": lambda address: idle_in_pool(ClientPool(pylibmc.Client([address]), 4)),
    "busy, pylibmc's": lambda address: busy_in_pool(ClientPool(pylibmc.Client([address]), 4)),
    "thread-mapped, pylibmc's": lambda address: idle_and_busy_in_pool(
        ThreadMappedPool(pylibmc.Client([address]))
    ),
    "single": lambda address: single(Client([address])),
    "single, without pickle": lambda address: single(Client([address], allow_pickle=False)),
    "clones": lambda address: clones(Client([address])),
}
EVERY_HOLD = pytest.mark.parametrize("hold", HOLDS.values(), ids=list(HOLDS))


def test_sockets_are_told_apart(address: str) -> None:
    """What this module relies on."""
    before = sockets_to(address)
    mc = pylibmc.Client([address])
    mc.get("key")
    assert sockets_to(address) - before == set(open_sockets(mc)) != set()


# -- The child


@EVERY_FORK
@EVERY_HOLD
def test_child_keeps_no_socket_after_its_first_use(
    fork: Fork, hold: Hold, server_connections: Connections, address: str
) -> None:
    before = identities(address)
    with hold(address) as held:
        mine = identities(address) - before
        assert len(mine) == held.connections
        opened = server_connections.opened()

        def work() -> None:
            if fork is not in_child_by_c:  # where hooks run, at once
                assert not identities(address) & mine
            held.use()
            assert not identities(address) & mine
            assert identities(address) - before  # what it has used is its own

        ends_well(fork(work))
        # The parent has the same connections as before, and they work.
        assert identities(address) - before == mine
        held.use()
        in_child_opened = 3 if hold is HOLDS["clones"] else 1
        assert server_connections.opened() <= opened + in_child_opened + 1  # a fourth client
        assert mine <= identities(address)


@EVERY_FORK
def test_parent_makes_no_new_connection(
    fork: Fork, server_connections: Connections, address: str
) -> None:
    with ClientPool(Client([address]), 4) as pool, ExitStack() as lent:
        busy = [lent.enter_context(pool.reserve()) for _ in range(2)]
        with pool.reserve() as idle:
            for mc in (*busy, idle):
                assert mc.set("key", "value")
        opened = server_connections.opened()
        for _ in range(5):
            ends_well(fork(lambda: used(pool)))
            used(pool)
            for mc in busy:
                assert mc.get("key") == "value"
        assert server_connections.opened() == opened + 5  # one for each child


@pytest.mark.parametrize("fork", [in_child, in_child_by_multiprocessing])
def test_child_that_uses_nothing_makes_no_connection(
    fork: Fork, server_connections: Connections, address: str
) -> None:
    with HOLDS["idle"](address) as held:
        opened = server_connections.opened()
        ends_well(fork(lambda: None))
        held.use()
        assert server_connections.opened() == opened


@EVERY_FORK
def test_child_closes_sockets_of_all_when_it_uses_one(fork: Fork, address: str) -> None:
    """Pools and clients that the child never uses are among them."""
    before = identities(address)
    with ExitStack() as holds:
        held = [holds.enter_context(hold(address)) for hold in HOLDS.values()]
        mine = identities(address) - before
        assert len(mine) == sum(one.connections for one in held)

        def work() -> None:
            held[0].use()
            assert not identities(address) & mine

        ends_well(fork(work))
        assert identities(address) - before == mine


@EVERY_FORK
def test_child_closes_sockets_of_garbage_that_it_collects_first(fork: Fork, address: str) -> None:
    pool = ClientPool(Client([address]), 1)
    mc: Any = pool.reserve().__enter__()
    mc.set("key", "parent's")
    mc.circle = mc  # only the garbage collector frees it
    inherited = {identity(descriptor) for descriptor in open_sockets(mc._client)}
    assert len(inherited) == 1

    def work() -> None:
        nonlocal mc
        mc = None
        gc.collect()  # nothing has noticed the fork before, where no hooks run
        assert not identities(address) & inherited

    with no_collection():
        ends_well(fork(work))
    assert mc.get("key") == "parent's"
    assert inherited <= identities(address)
    pool.close()
    mc.release()
    del mc.__dict__["circle"]


@EVERY_FORK
@pytest.mark.parametrize("circle", [False, True])
def test_child_closes_what_it_has_opened_in_place_of_a_dropped_client(
    circle: bool, fork: Fork, address: str
) -> None:
    pool = ClientPool(Client([address]), 1)
    mc: Any = pool.reserve().__enter__()
    mc.set("key", "parent's")
    if circle:
        mc.circle = mc  # only the garbage collector frees it

    def work() -> None:
        nonlocal mc
        pool.stats()  # closes what the child inherits
        before = identities(address)
        assert mc.get("key") == "parent's"
        assert len(identities(address) - before) == 1
        mc = None
        gc.collect()
        assert identities(address) == before

    with no_collection():
        ends_well(fork(work))
    mc.__dict__.clear()
    mc.release()
    pool.close()


@pytest.mark.parametrize("fork", FORKS)
def test_child_keeps_no_socket_of_another_thread_of_its_parent(fork: Fork, address: str) -> None:
    pool = ThreadMappedPool(Client([address]))
    before = identities(address)
    ready, done = threading.Event(), threading.Event()
    values = []

    def work_in_thread() -> None:
        with pool.reserve() as mc:
            mc.set("key", "value")
            ready.set()
            done.wait(60)
            values.append(mc.get("key"))

    thread = threading.Thread(target=work_in_thread, daemon=True)
    thread.start()
    assert ready.wait(10)
    mine = identities(address) - before
    assert len(mine) == 1

    def work() -> None:
        used(pool)
        assert not identities(address) & mine

    try:
        ends_well(fork(work))
    finally:
        done.set()
        thread.join(10)
    assert values == ["value"]


# -- Sockets that the child's copy of a client does not name. Linux copies the descriptors before
# the memory, and another thread of the parent may connect or disconnect in between.


@contextlib.contextmanager
def used_by_another_thread(mortal: Mortal) -> Iterator[Any]:
    """A client with a command that does not end before the block."""
    mc: Any = Client(
        [mortal.address], {"_poll_timeout": 60_000, "receive_timeout": 0}, command_timeout=60
    )
    mc.set("key", "value")
    mortal.stop()
    values: list[Any] = []
    thread = threading.Thread(target=lambda: values.append(mc.get("key")), daemon=True)
    thread.start()
    try:
        eventually(lambda: mc._deadline < math.inf)
        yield mc
    finally:
        mortal.go_on()
        thread.join(60)
    assert values == ["value"]
    mc.disconnect_all()


def limit_sending(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 1, 0))


@EVERY_FORK
def test_child_closes_a_socket_that_another_thread_was_closing(
    fork: Fork, mortal: Mortal, address: str
) -> None:
    with used_by_another_thread(mortal) as mc:
        (number,) = open_sockets(mc)
        unnamed = os.dup(number)
        mine = {identity(unnamed)}

        def work() -> None:
            assert Client([address]).set("key", "value")
            assert not identities(mortal.address) & mine

        ends_well(fork(work))
        os.close(unnamed)


@EVERY_FORK
def test_child_closes_a_socket_that_another_thread_was_opening(
    fork: Fork, mortal: Mortal, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "PATIENCE", 60_000)
    with used_by_another_thread(mortal), socket.socket() as opened:
        opened.setblocking(False)
        number = opened.fileno()

        def work() -> None:
            assert Client([address]).set("key", "value")
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(number)

        child = fork(work)
        limit_sending(opened)  # the child waits for it
        ends_well(child)


@EVERY_FORK
def test_child_keeps_sockets_that_are_not_libmemcacheds(
    fork: Fork, mortal: Mortal, address: str
) -> None:
    host, _, port = mortal.address.rpartition(":")
    elsewhere, _, other_port = address.rpartition(":")
    with ExitStack() as stack:
        stack.enter_context(used_by_another_thread(mortal))
        same, blocking, other, listener = (stack.enter_context(socket.socket()) for _ in range(4))
        same.connect((host, int(port)))
        same.setblocking(False)
        blocking.connect((host, int(port)))
        limit_sending(blocking)
        other.connect((elsewhere, int(other_port)))
        other.setblocking(False)
        limit_sending(other)
        listener.setblocking(False)
        limit_sending(listener)
        listener.listen()
        theirs = [identity(one.fileno()) for one in (same, blocking, other, listener)]

        def work() -> None:
            assert Client([address]).set("key", "value")
            kept = [identity(one.fileno()) for one in (same, blocking, other, listener)]
            assert kept == theirs

        ends_well(fork(work))


@EVERY_FORK
def test_no_socket_to_several_servers_is_kept(fork: Fork, address: str, embedded: bool) -> None:
    with memcached(embedded=embedded) as other:
        addresses = [address, other.address]
        before = [identities(one) for one in addresses]
        mc = Client(addresses)
        keys: dict[str | bytes, int] = {f"key{number}": number for number in range(50)}
        assert mc.set_multi(keys) == []
        mine = [identities(one) - was for one, was in zip(addresses, before)]
        assert [len(one) for one in mine] == [1, 1]

        def work() -> None:
            assert mc.get_multi(list(keys)) == keys
            for one, theirs in zip(addresses, mine):
                assert not identities(one) & theirs

        ends_well(fork(work))
        assert mc.get_multi(list(keys)) == keys
        assert [identities(one) - was for one, was in zip(addresses, before)] == mine
        mc.disconnect_all()


# -- Generations


@pytest.mark.parametrize("fork", FORKS)
def test_descriptors_do_not_grow_with_the_generations(fork: Fork, address: str) -> None:
    """Each child forks the next one, as a chain of reloads does."""
    pool = ClientPool(Client([address]), 4)
    mc = Client([address])

    def use() -> None:
        assert mc.set("key", "value")
        with pool.reserve() as one, pool.reserve() as two:
            assert one.get("key") == two.get("key") == "value"

    def generation(number: int, first: int) -> None:
        use()
        count = number_of_descriptors()
        assert count == first or number == 1, (number, count, first)
        if number < GENERATIONS:
            ends_well(fork(lambda: generation(number + 1, first or count)))

    use()
    opened = identities(address)
    ends_well(fork(lambda: generation(1, 0)))
    assert identities(address) == opened
    use()


@pytest.mark.parametrize("fork", FORKS)
def test_descriptors_do_not_grow_with_the_children(fork: Fork, address: str) -> None:
    pool = ClientPool(Client([address]), 4)
    used_first = Client([address])
    used_first.set("key", "value")
    used(pool)
    gc.collect()  # what earlier tests have left must not go while this one counts
    before = number_of_descriptors()
    for _ in range(10):
        ends_well(fork(lambda: used(pool)))
        used(pool)
    assert number_of_descriptors() == before


# -- A parent that is killed


@pytest.mark.parametrize("fork", FORKS)
@EVERY_HOLD
def test_connections_of_a_killed_parent_are_gone(
    fork: Fork, hold: Hold, connections: Connections, address: str
) -> None:
    """Here the test is the grandparent. Its child is the parent that is killed."""
    read, write = os.pipe()
    end_read, end_write = os.pipe()

    def be_parent() -> None:
        os.close(end_write)
        with hold(address) as held:

            def be_child() -> None:
                held.use()
                os.write(write, f"{os.getpid()} {len(sockets_to(address))}".encode())
                os.read(end_read, 1)  # until the test ends it

            fork(be_child)
            signal.pause()

    parent = in_child(be_parent)
    os.close(write)
    os.close(end_read)
    try:
        child, own = map(int, os.read(read, 100).split())
        assert connections.count() >= own + 1
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        # Those of the child stay.
        eventually(lambda: connections.count() == own, "the parent's are still open")
        os.kill(child, 0)  # the child lives
    finally:
        os.close(end_write)
        os.close(read)
        eventually(lambda: connections.count() == 0)


# -- A descriptor that is used for something else


@contextlib.contextmanager
def files() -> Iterator[dict[str, int]]:
    """Descriptors of several kinds."""
    with ExitStack() as opened:
        pair = [opened.enter_context(one) for one in socket.socketpair()]
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        connection = opened.enter_context(socket.create_connection(listener.getsockname()))
        null = opened.enter_context(open(os.devnull))
        yield {
            "a file": null.fileno(),
            "a Unix socket": pair[0].fileno(),
            "a socket that listens": listener.fileno(),
            "a socket that is connected": connection.fileno(),
        }


@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.parametrize(
    "kind", ["a file", "a Unix socket", "a socket that listens", "a socket that is connected"]
)
def test_descriptor_that_a_child_uses_again_is_never_closed(
    fork: Fork, kind: str, address: str
) -> None:
    """As a child does that closes all descriptors and opens others, which get their numbers."""
    before = sockets_to(address)
    mc = Client([address])
    pool = ClientPool(Client([address]), 2)
    mc.set("key", "value")
    used(pool)
    mine = sockets_to(address) - before
    assert len(mine) == 2

    def work() -> None:
        for descriptor in mine:
            os.dup2(replacement, descriptor)
        for _ in range(2):
            assert mc.get("key") == "value"
            used(pool)
            mc.disconnect_all()
        pool.close()
        for descriptor in mine:
            assert identity(descriptor) == identity(replacement), "it was closed"

    with files() as replacements:
        replacement = replacements[kind]
        ends_well(fork(work))
    assert mc.get("key") == "value"
    used(pool)
