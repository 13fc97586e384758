"""Clusters whose nodes change. The nodes are real, the configuration endpoint is a test's own."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import socket
import socketserver
import threading
import time
import weakref
from _thread import start_new_thread
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable

import pylibmc
import pytest
from forking import FORKS, in_child, succeeds
from harness import demand, eventually, in_threads, run_python

from mcpool_wsgi import Client, ClientPool, ThreadMappedPool
from mcpool_wsgi.devserver import memcached
from mcpool_wsgi.discovery import Configuration, Discovery, read_configuration
from mcpool_wsgi.discovery.discovery import _started

pytestmark = pytest.mark.servers

INTERVAL = 0.01
BEFORE_A_FORK = 0.5  # an interval in which a test can fork before the next question
QUIET = ["127.0.0.1:1"]


def answer(version: int, *nodes: str) -> bytes:
    body = f"{version}\n{' '.join(nodes)}\n".encode()
    return b"CONFIG cluster 0 %d\r\n%s\r\nEND\r\n" % (len(body), body)


def nodes(*addresses: str) -> list[str]:
    return [f"node.invalid|{address.replace(':', '|')}" for address in addresses]


class Endpoint(socketserver.ThreadingTCPServer):
    """Answers ``config get cluster`` with ``say``, or calls it if it is a function."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Session)
        self.address = f"127.0.0.1:{self.server_address[1]}"
        self.say: bytes | Callable[[socket.socket], object] = b""
        self.questions = 0
        self.closing = threading.Event()

    def asked(self, times: int = 2) -> None:
        """Wait for this number of questions. The answer to the last but one has then been used."""
        enough = self.questions + times
        eventually(lambda: self.questions >= enough)


class Session(socketserver.StreamRequestHandler):
    server: Endpoint

    def handle(self) -> None:
        if self.rfile.readline() == b"config get cluster\r\n":
            say = self.server.say
            self.server.questions += 1
            with contextlib.suppress(OSError):
                if callable(say):
                    say(self.request)
                else:
                    self.wfile.write(say)


@contextlib.contextmanager
def serving(port: int = 0) -> Iterator[Endpoint]:
    with Endpoint(port) as server:

        def serve() -> None:  # serve_forever() would wake up twice a second
            while not server.closing.is_set():
                server.handle_request()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            with socket.create_connection(("127.0.0.1", server.server_address[1])):
                thread.join(10)


@pytest.fixture(scope="module")
def two_nodes(embedded: bool) -> Iterator[tuple[str, str]]:
    """Two memcacheds. Each stores its own address as ``name``."""
    with ExitStack() as running:
        addresses = [running.enter_context(memcached(embedded=embedded)).address for _ in range(2)]
        for address in addresses:
            Client([address]).set("name", address)
        yield addresses[0], addresses[1]


@pytest.fixture
def endpoint(two_nodes: tuple[str, str]) -> Iterator[Endpoint]:
    """It names the first of the two, until the test lets it say something else."""
    with serving() as server:
        server.say = answer(1, *nodes(two_nodes[0]))
        yield server


def name(pool: Any) -> Any:
    """The name of the memcached that the clients of a pool use."""
    with pool.reserve() as mc:
        try:
            return mc.get("name")
        except pylibmc.Error:
            return None


def never_ends(endpoint: Endpoint) -> Callable[[socket.socket], object]:
    return lambda connection: endpoint.closing.wait(30)


def refuse(*args: object) -> None:
    raise RuntimeError("can't start new thread")


def refuse_to_ask_again(function: Any, args: tuple[Any, ...]) -> int:
    """The thread of a look-up starts, and that of a discovery does not."""
    if isinstance(getattr(function, "__self__", None), Discovery):
        refuse()
    return start_new_thread(function, args)


def drips(connection: socket.socket) -> None:
    connection.sendall(b"CONFIG ")
    while True:
        connection.sendall(b"1")
        time.sleep(0.0005)


# -- The question


def test_addresses_are_preferred_to_names(endpoint: Endpoint) -> None:
    endpoint.say = answer(
        12, "a.cfg|10.0.0.1|11211", "b.cfg||11212", "c.cfg|fe80::1|11213", "|10.0.0.4|11214"
    )
    servers = ["10.0.0.1:11211", "b.cfg:11212", "[fe80::1]:11213", "10.0.0.4:11214"]
    assert read_configuration(endpoint.address) == Configuration(12, servers)


def test_answer_may_come_in_pieces(endpoint: Endpoint) -> None:
    def in_pieces(connection: socket.socket) -> None:
        whole = answer(1, "END|10.0.0.1|11211", "b|10.0.0.2|11211")
        for start in range(0, len(whole), 3):
            connection.sendall(whole[start : start + 3])
            time.sleep(0.001)

    endpoint.say = in_pieces
    found = read_configuration(endpoint.address, timeout=10)
    assert found.servers == ["10.0.0.1:11211", "10.0.0.2:11211"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"ERROR\r\n",
        b"CLIENT_ERROR no such thing\r\n",
        b"\x00\xff\r\n",
        b"END\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        answer(1, "node|10.0.0.1|11211")[:-8],
        answer(1, "node|10.0.0.1|11211").replace(b"\n1\n", b"\none\n"),
        answer(1),
        answer(1, "node|10.0.0.1|11211", "node|10.0.0.1"),
        answer(1, "node|10.0.0.1|11211", "||11211"),
        answer(1, "node|10.0.0.1|0"),
        answer(1, "node|10.0.0.1|70000"),
        answer(1, "node|10.0.0.1|port"),
        answer(1, "node|/run/memcached.sock|11211"),
        answer(1, "node|[::1]|11211"),
        answer(1, "node|\xe9|11211"),
        answer(1, "node,other||11211"),
    ],
    ids=lambda garbage: repr(garbage[:30]),
)
def test_garbage_is_no_configuration(endpoint: Endpoint, garbage: bytes) -> None:
    endpoint.say = garbage
    with pytest.raises(ValueError, match="no configuration of a cluster"):
        read_configuration(endpoint.address)


def test_answer_without_an_end_is_refused(endpoint: Endpoint) -> None:
    def flood(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"CONFIG " + b"1" * 65536)

    endpoint.say = flood
    with pytest.raises(ValueError, match="no configuration of a cluster"):
        read_configuration(endpoint.address, timeout=60)


def test_error_shows_the_answer_of_a_memcached_that_is_no_endpoint(address: str) -> None:
    with pytest.raises(ValueError, match="ERROR"):
        read_configuration(address)


def test_question_ends_in_time_if_the_endpoint_is_down_or_hangs_or_drips(
    endpoint: Endpoint,
) -> None:
    with pytest.raises(OSError, match="refused"):
        read_configuration(QUIET[0])
    for say in (never_ends(endpoint), drips):
        endpoint.say = say
        began = time.monotonic()
        with pytest.raises(OSError, match=r"timed out|answer is not complete"):
            read_configuration(endpoint.address, timeout=0.2)
        assert 0.1 < time.monotonic() - began < 1.5


def test_each_address_of_an_endpoint_is_tried(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_addresses(host: str, timeout: float) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    monkeypatch.setattr("mcpool_wsgi.discovery.system.addresses", two_addresses)
    endpoint.say = answer(1, "node|10.0.0.1|11211")
    port = endpoint.server_address[1]
    assert read_configuration(f"cluster.test:{port}").servers == ["10.0.0.1:11211"]
    with pytest.raises(OSError, match="refused"):
        read_configuration("cluster.test:1")


# -- The use of the answer


@pytest.mark.parametrize("kind", [ClientPool, ThreadMappedPool])
def test_start_applies_the_first_answer(
    kind: Any, endpoint: Endpoint, two_nodes: tuple[str, str]
) -> None:
    pool = kind.from_servers(QUIET, 1)
    with Discovery(pool, endpoint.address, interval=3600):
        assert name(pool) == two_nodes[0]
    assert endpoint.questions == 1


def test_pool_gets_the_servers_of_every_change(
    endpoint: Endpoint, two_nodes: tuple[str, str]
) -> None:
    pool = ClientPool(Client(QUIET), 2)
    with Discovery(pool, endpoint.address, interval=INTERVAL):
        endpoint.say = answer(2, *nodes(two_nodes[1]))
        eventually(lambda: name(pool) == two_nodes[1])
        endpoint.say = answer(3, *nodes(*two_nodes))
        endpoint.asked()
        with pool.reserve() as mc:
            assert mc.addresses == sorted(two_nodes)
        # A cluster that is made again counts from 1.
        endpoint.say = answer(1, *nodes(two_nodes[0]))
        eventually(lambda: name(pool) == two_nodes[0])


def test_unchanged_configuration_changes_nothing(
    endpoint: Endpoint, two_nodes: tuple[str, str]
) -> None:
    pool = ClientPool(Client(QUIET), 2)
    with Discovery(pool, endpoint.address, interval=INTERVAL):
        assert name(pool) == two_nodes[0]
        endpoint.asked(5)
        with pool.reserve():
            assert name(pool) == two_nodes[0]
            endpoint.asked(5)
        assert name(pool) == two_nodes[0]
    stats = pool.stats()
    assert (stats.clients_made, stats.clients_renewed) == (2, {})


def test_failure_keeps_the_servers_and_is_logged_once(
    endpoint: Endpoint, two_nodes: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mcpool_wsgi.discovery")
    pool = ClientPool(Client(QUIET), 2)
    with Discovery(pool, endpoint.address, interval=INTERVAL, timeout=0.05):
        version = 1
        for say in (b"ERROR\r\n", answer(9), never_ends(endpoint), drips):
            caplog.clear()
            endpoint.say = say
            endpoint.asked(4)
            assert name(pool) == two_nodes[(version + 1) % 2]
            version += 1
            endpoint.say = answer(version, *nodes(two_nodes[(version + 1) % 2]))
            eventually(lambda: name(pool) == two_nodes[(version + 1) % 2])  # noqa: B023
            eventually(lambda: "answers again" in caplog.text)
            levels = [record.levelname for record in caplog.records]
            assert levels == ["WARNING", "INFO", "INFO"]
    assert endpoint.address in caplog.text


def test_endpoint_that_ends_and_starts_again_is_followed(two_nodes: tuple[str, str]) -> None:
    pool = ClientPool(Client(QUIET), 2)
    with ExitStack() as first:
        endpoint = first.enter_context(serving())
        endpoint.say = answer(1, *nodes(two_nodes[0]))
        port = endpoint.server_address[1]
        discovery = Discovery(pool, endpoint.address, interval=INTERVAL)
        discovery.start()
    try:
        eventually(lambda: discovery._failing)
        assert name(pool) == two_nodes[0]
        with serving(port) as endpoint:
            endpoint.say = answer(2, *nodes(two_nodes[1]))
            eventually(lambda: name(pool) == two_nodes[1])
    finally:
        discovery.stop()


def test_discovery_starts_while_the_endpoint_is_down(
    endpoint: Endpoint, two_nodes: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    pool = ClientPool(Client([two_nodes[0]]), 2)
    endpoint.say = b"ERROR\r\n"
    discovery = Discovery(pool, endpoint.address, interval=INTERVAL)
    with pytest.raises(ValueError, match="no configuration"):
        discovery.refresh()
    with discovery:
        assert "keeping the servers" in caplog.text
        assert name(pool) == two_nodes[0]
        endpoint.say = answer(1, *nodes(two_nodes[1]))
        eventually(lambda: name(pool) == two_nodes[1])


def test_change_under_load_gives_no_error_and_no_wrong_value(
    endpoint: Endpoint, two_nodes: tuple[str, str]
) -> None:
    pool = ClientPool(Client(QUIET), 3)
    done = threading.Event()
    seen: set[str] = set()

    def work(who: str) -> None:
        written = 0
        while not done.is_set():
            written += 1
            key = f"{who}-{written % 20}"
            with pool.reserve() as mc:
                assert mc.set(key, (key, written))
                assert mc.get(key) == (key, written)
                found = mc.get_multi(["name", key])
                assert found[key] == (key, written)
                seen.add(found["name"])

    def change() -> None:
        try:
            for version in range(2, 22):
                where = two_nodes[version % 2]
                seen.clear()
                endpoint.say = answer(version, *nodes(where))
                eventually(lambda: where in seen)  # noqa: B023
        finally:
            done.set()

    with Discovery(pool, endpoint.address, interval=INTERVAL):
        in_threads([change, *(lambda who=f"thread{n}": work(who) for n in range(6))])
    stats = pool.stats()
    assert (stats.in_use, stats.waiting, stats.failures, stats.timeouts) == (0, 0, 0, 0)


# -- The thread


def test_stop_is_immediate(endpoint: Endpoint) -> None:
    discovery = Discovery(ClientPool(Client(QUIET), 1), endpoint.address, interval=3600)
    discovery.start()
    discovery.start()  # does nothing
    poll = discovery._poll
    began = time.monotonic()
    discovery.stop()
    discovery.stop()
    assert time.monotonic() - began < 0.5
    assert poll is not None
    assert poll.ended.is_set()
    assert endpoint.questions == 1


def test_stop_does_not_wait_for_an_endpoint_that_hangs(endpoint: Endpoint) -> None:
    discovery = Discovery(
        ClientPool(Client(QUIET), 1), endpoint.address, interval=INTERVAL, timeout=0.2
    )
    discovery.start()
    endpoint.say = never_ends(endpoint)
    endpoint.asked(1)
    began = time.monotonic()
    discovery.stop()
    assert time.monotonic() - began < 1


def test_answer_that_comes_after_stop_is_not_used(
    endpoint: Endpoint, two_nodes: tuple[str, str]
) -> None:
    pool = ClientPool(Client(QUIET), 1)
    discovery = Discovery(pool, endpoint.address, interval=INTERVAL, timeout=10)
    discovery.start()
    poll = discovery._poll
    assert poll is not None

    def late(connection: socket.socket) -> None:
        poll.stopped.wait(10)
        connection.sendall(answer(2, *nodes(two_nodes[1])))

    endpoint.say = late
    endpoint.asked(1)
    discovery.stop()
    assert poll.ended.is_set()
    assert name(pool) == two_nodes[0]


def test_discovery_can_start_again(endpoint: Endpoint, two_nodes: tuple[str, str]) -> None:
    pool = ClientPool(Client(QUIET), 1)
    discovery = Discovery(pool, endpoint.address, interval=INTERVAL)
    for address in (*two_nodes, *two_nodes):
        endpoint.say = answer(1, *nodes(address))
        with discovery:
            assert name(pool) == address


def test_servers_that_were_set_before_the_next_start_are_replaced(
    endpoint: Endpoint, two_nodes: tuple[str, str]
) -> None:
    pool = ClientPool(Client(QUIET), 1)
    discovery = Discovery(pool, endpoint.address, interval=INTERVAL)
    with discovery:
        pass
    pool.set_servers([two_nodes[1]])
    with discovery:
        assert name(pool) == two_nodes[0]


@pytest.mark.parametrize("starts", [refuse, refuse_to_ask_again])
def test_start_that_gets_no_thread_can_be_repeated(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, starts: Any
) -> None:
    discovery = Discovery(ClientPool(Client(QUIET), 1), endpoint.address, interval=INTERVAL)
    with monkeypatch.context() as patch:
        patch.setattr("_thread.start_new_thread", starts)
        with pytest.raises(RuntimeError):
            discovery.start()
    if starts is refuse:
        discovery.stop()
    with discovery:
        endpoint.asked()


@pytest.mark.parametrize("starts", [refuse, refuse_to_ask_again])
def test_discovery_that_gets_no_thread_is_not_kept(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, starts: Any
) -> None:
    discovery = Discovery(ClientPool(Client(QUIET), 1), endpoint.address, interval=INTERVAL)
    with monkeypatch.context() as patch:
        patch.setattr("_thread.start_new_thread", starts)
        with pytest.raises(RuntimeError):
            discovery.start()
    kept = weakref.ref(discovery)
    del discovery
    gc.collect()
    assert kept() is None


def is_freed(reference: Any) -> bool:
    gc.collect()
    return reference() is None


@pytest.mark.parametrize("ends", ["stop", "the pool is closed"])
def test_discovery_that_has_ended_is_not_kept(endpoint: Endpoint, ends: str) -> None:
    pool = ClientPool(Client(QUIET), 1)
    discovery = Discovery(pool, endpoint.address, interval=INTERVAL, min_interval=INTERVAL)
    discovery.start()
    if ends == "stop":
        discovery.stop()
    else:
        pool.close()
    kept = weakref.ref(discovery)
    del discovery, pool
    eventually(lambda: is_freed(kept))


@pytest.mark.parametrize("fork", FORKS)
def test_child_gets_changes_too(fork: Any, endpoint: Endpoint, two_nodes: tuple[str, str]) -> None:
    pool = ClientPool(Client(QUIET), 2)
    with Discovery(pool, endpoint.address, interval=BEFORE_A_FORK) as discovery:
        assert name(pool) == two_nodes[0]

        def follow() -> None:
            eventually(lambda: name(pool) == two_nodes[1])
            # By Python's fork: after a fork in C, the frames of dead threads cannot be looked at.
            succeeds(in_child(lambda: eventually(lambda: name(pool) == two_nodes[1])))
            discovery.stop()

        polled_by = discovery._poll
        child = fork(follow)
        endpoint.say = answer(2, *nodes(two_nodes[1]))
        succeeds(child)
        eventually(lambda: name(pool) == two_nodes[1])
        assert discovery._poll is polled_by


@pytest.mark.parametrize("fork", FORKS)
def test_child_continues_a_discovery_that_only_its_thread_refers_to(
    fork: Any, endpoint: Endpoint, two_nodes: tuple[str, str]
) -> None:
    pool = ClientPool(Client(QUIET), 2)
    Discovery(pool, endpoint.address, interval=BEFORE_A_FORK).start()
    try:
        child = fork(lambda: eventually(lambda: name(pool) == two_nodes[1]))
        endpoint.say = answer(2, *nodes(two_nodes[1]))
        succeeds(child)
    finally:
        for started in _started.copy():
            started.stop()


@pytest.mark.parametrize("fork", FORKS)
def test_child_does_not_hang_when_the_endpoint_hangs_during_the_fork(
    fork: Any, endpoint: Endpoint, two_nodes: tuple[str, str]
) -> None:
    pool = ClientPool(Client(QUIET), 2)
    with Discovery(pool, endpoint.address, interval=BEFORE_A_FORK, timeout=2) as discovery:
        endpoint.say = never_ends(endpoint)
        endpoint.asked(1)

        def use_and_stop() -> None:
            assert name(pool) == two_nodes[0]
            discovery.stop()

        began = time.monotonic()
        succeeds(fork(use_and_stop))
        assert time.monotonic() - began < 6
        endpoint.closing.set()


@pytest.mark.parametrize("fork", FORKS)
def test_stopped_discovery_does_not_start_in_a_child(
    fork: Any, endpoint: Endpoint, two_nodes: tuple[str, str]
) -> None:
    pool = ClientPool(Client(QUIET), 2)
    discovery = Discovery(pool, endpoint.address, interval=INTERVAL)
    with discovery:
        endpoint.asked()

    def use() -> None:
        assert name(pool) == two_nodes[0]
        time.sleep(20 * INTERVAL)

    asked = endpoint.questions
    succeeds(fork(use))
    assert endpoint.questions == asked


def test_child_that_gets_no_thread_works_without_discovery(
    endpoint: Endpoint, two_nodes: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ClientPool(Client(QUIET), 2)

    with Discovery(pool, endpoint.address, interval=BEFORE_A_FORK), monkeypatch.context() as patch:
        patch.setattr("_thread.start_new_thread", refuse)

        def use() -> None:
            assert name(pool) == two_nodes[0]

        for fork in FORKS:
            succeeds(fork(use))


# -- Wrong arguments


def test_wrong_arguments_are_refused(endpoint: Endpoint, mc: Client) -> None:
    pool = ClientPool(mc, 1)
    with pytest.raises(TypeError, match=r"set_servers\(\)"):
        Discovery(pylibmc.ClientPool(mc, 1), "cache")
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"positive number of seconds, not {seconds}"):
            Discovery(pool, "cache", interval=seconds)
        with pytest.raises(ValueError, match=f"positive number of seconds, not {seconds}"):
            Discovery(pool, "cache", timeout=seconds)
    no_port = ("cache:port", "cache:0", "cache:65536")
    for address in ("", "/run/memcached.sock", "http://cache", "cache:1:2", *no_port):
        with pytest.raises(ValueError, match=r"host:port or \[IPv6\]:port"):
            Discovery(pool, address)
    Discovery(pool, "[::1]:11211")
    endpoint.say = answer(1, "node|10.0.0.1|11211")
    with pytest.raises(TypeError, match="Client"):
        Discovery(ClientPool(pylibmc.Client(["cache"]), 1), endpoint.address).start()


# -- Signals

MASKS = """
import sys
if sys.argv[1] == "gevent":
    from gevent import monkey
    monkey.patch_all()
import signal, threading, time
from mcpool_wsgi.discovery import Discovery

masks = []

class Pool:
    def set_servers(self, servers):
        masks.append(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))

with Discovery(Pool(), sys.argv[2], interval=0.01):
    end = time.monotonic() + 10
    while len(masks) < 3 and time.monotonic() < end:
        time.sleep(0.01)
print(*masks[:3], signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


@pytest.mark.parametrize(
    ("threads", "masks"),
    [("real", "False True True False"), ("gevent", "False False False False")],
)
def test_thread_of_a_discovery_takes_no_signals(
    endpoint: Endpoint, threads: str, masks: str
) -> None:
    """A thread that starts others would take those that the main thread waits for.

    With gevent it is a greenlet of the main thread.
    """
    if threads == "gevent":
        demand("gevent")
    versions = itertools.count()
    endpoint.say = lambda request: request.sendall(
        answer(1, *nodes(f"127.0.0.1:{1 + next(versions)}"))
    )
    done = run_python(MASKS, threads, endpoint.address)
    assert (done.stdout, done.stderr) == (f"{masks}\n", "")
