"""A connection that is out of sync is closed before the next command: no answer is another's."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Callable

import hostile
import pylibmc
import pytest
from forking import in_child, succeeds
from harness import eventually, has_libmemcached_1_1
from hostile import Conversation, Proxy

from mcpool_wsgi import Client, ClientPool
from mcpool_wsgi.client import silent_errors
from mcpool_wsgi.devserver import Memcached, memcached

pytestmark = pytest.mark.servers

KEYS = [f"key{number}" for number in range(30)]
PROTOCOLS = pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
SERVERS = pytest.mark.parametrize("servers", [1, 3], ids=["one", "three"])


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Memcached]]:
    """Three real memcacheds; the embedded one speaks no binary protocol."""
    with ExitStack() as running:
        try:
            yield [running.enter_context(memcached(embedded=False)) for _ in range(3)]
        except FileNotFoundError:
            pytest.skip("needs the real memcached")


@contextlib.contextmanager
def proxies(nodes: list[Memcached]) -> Iterator[list[Proxy]]:
    """A proxy for each of *nodes*."""
    with ExitStack() as running:
        yield [running.enter_context(hostile.proxy(node.address)) for node in nodes]


# -- A storing command that times out in the write

#: A value in which every part is a command, should it be taken for one.
EVIL = b"\r\nset evil 0 0 4\r\nevil" * 40_000

STORE: dict[str, Callable[[Client, str], object]] = {
    "set": lambda mc, key: mc.set(key, EVIL),
    "add": lambda mc, key: mc.add(f"new-{key}", EVIL),
    "replace": lambda mc, key: mc.replace(key, EVIL),
    "append": lambda mc, key: mc.append(key, EVIL),
    "prepend": lambda mc, key: mc.prepend(key, EVIL),
    "cas": lambda mc, key: mc.cas(key, EVIL, 1),
    "set_multi": lambda mc, key: mc.set_multi({key: EVIL}),
    "add_multi": lambda mc, key: mc.add_multi({f"new-{key}": EVIL}),
}


@contextlib.contextmanager
def stopped(server: Memcached) -> Iterator[None]:
    server.process.send_signal(signal.SIGSTOP)
    os.waitpid(server.process.pid, os.WUNTRACED)  # until it has come to a stop
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("fail_soft", [False, True], ids=["raising", "fail_soft"])
@pytest.mark.parametrize("transport", ["unix", "tcp"])
@pytest.mark.parametrize("command", STORE)
def test_value_of_a_write_that_timed_out_is_no_command(
    nodes: list[Memcached], tmp_path: Path, command: str, transport: str, fail_soft: bool
) -> None:
    """A stopped memcached takes a part of the value; the rest would follow later."""
    path = str(tmp_path / "socket") if transport == "unix" else None
    with memcached(embedded=False, unix_socket=path) as server:
        behaviors = {"cas": True, "_poll_timeout": 200}
        if path is None:
            behaviors["_socket_send_size"] = 4096  # so that not all of it goes out at once
        mc = Client([server.address], behaviors, fail_soft=fail_soft)
        mc.set_multi(dict.fromkeys(KEYS, b"old"))
        with stopped(server), contextlib.suppress(pylibmc.Error):
            # No True for what was not acknowledged.
            assert not STORE[command](mc, "key0") or "multi" in command
        for key in KEYS[1:6]:
            with contextlib.suppress(pylibmc.Error):
                STORE[command](mc, key)
        watch = pylibmc.Client([server.address])
        assert watch.get("evil") is None
        assert watch.get_multi(["key0", *KEYS[6:]]) == dict.fromkeys(["key0", *KEYS[6:]], b"old")
        eventually(lambda: works(mc))
        assert watch.get("evil") is None


def works(mc: Any) -> bool:
    with contextlib.suppress(pylibmc.Error):
        return bool(mc.set("works", "yes") and mc.get("works") == "yes")
    return False


@pytest.mark.usefixtures("nodes")  # which needs the real memcached
def test_write_that_timed_out_leaves_nothing_for_the_next_request(tmp_path: Path) -> None:
    """The same with a client of a pool, by requests that know nothing of each other."""
    with memcached(embedded=False, unix_socket=str(tmp_path / "socket")) as server:
        pool = ClientPool(Client([server.address], {"_poll_timeout": 200}), 1)
        with pool.reserve() as mc:
            mc.set("key", "value")
        with stopped(server), pool.reserve() as mc, contextlib.suppress(pylibmc.Error):
            mc.set("big", EVIL)
        for number in range(5):
            with pool.reserve() as mc, contextlib.suppress(pylibmc.Error):
                mc.set(f"big{number}", EVIL)
        assert pylibmc.Client([server.address]).get("evil") is None


# -- What is right

Check = Callable[[Any, str], Any]


def value(key: str) -> str:
    return f"value of {key}"


def number(key: str) -> int:
    return 100 + KEYS.index(key)


#: A command, and what it gives when each of KEYS has a value, "n-KEY" a number, and "no-KEY" none.
#: In the order in which an answer that is left over does the most harm.
RIGHT: dict[str, tuple[Check, Check]] = {
    "incr": (lambda mc, key: mc.incr(f"n-{key}", 7), lambda mc, key: number(key) + 7),
    "decr": (lambda mc, key: mc.decr(f"n-{key}", 7), lambda mc, key: number(key) - 7),
    "add": (lambda mc, key: mc.add(key, "wrong"), lambda mc, key: False),
    "replace": (lambda mc, key: mc.replace(f"no-{key}", "wrong"), lambda mc, key: False),
    "cas": (lambda mc, key: mc.cas(key, "wrong", 2**62), lambda mc, key: False),
    "delete": (lambda mc, key: mc.delete(f"no-{key}"), lambda mc, key: False),
    "touch": (lambda mc, key: mc.touch(f"no-{key}", 9), lambda mc, key: False),
    "append": (lambda mc, key: mc.append(f"no-{key}", "wrong"), lambda mc, key: False),
    "get_stats": (
        lambda mc, key: [int(stats["pid"]) for _, stats in mc.get_stats()],
        lambda mc, key: mc.pids,
    ),
    "add_multi": (lambda mc, key: mc.add_multi({key: "wrong"}), lambda mc, key: [key]),
    "delete_multi": (lambda mc, key: mc.delete_multi([f"no-{key}"]), lambda mc, key: False),
    "set": (lambda mc, key: mc.set(key, value(key)), lambda mc, key: True),
    "gets": (lambda mc, key: mc.gets(key)[0], lambda mc, key: value(key)),
    "get_multi": (
        lambda mc, key: mc.get_multi([*KEYS, f"no-{key}"]),
        lambda mc, key: {key: value(key) for key in KEYS},
    ),
    "get": (lambda mc, key: mc.get(key), lambda mc, key: value(key)),
}


class Watched(Client):
    """A client that knows which servers it has."""

    pids: list[int]


def connected(
    servers: list[Proxy], nodes: list[Memcached], binary: bool, fail_soft: bool = False
) -> Watched:
    """A client with a connection to each server, where all is as RIGHT needs it."""
    # Every key stays with its server, whatever happens to that.
    behaviors = {"cas": True, "retry_timeout": 1, "remove_failed": 1000}
    complete: list[Watched] = []

    def is_complete() -> bool:
        addresses = [server.address for server in servers]
        mc = Watched(addresses, behaviors, binary, fail_soft=fail_soft)
        with contextlib.suppress(pylibmc.Error):  # a busy machine: the next client tries again
            mc.flush_all()
            assert mc.set_multi({key: value(key) for key in KEYS}) == []
            assert mc.set_multi({f"n-{key}": number(key) for key in KEYS}) == []
            assert len(mc.get_multi(KEYS)) == len(KEYS)
            complete.append(mc)
        return bool(complete)

    eventually(is_complete, "no client has all keys")
    (mc,) = complete
    mc.pids = [node.process.pid for node in nodes]
    return mc


def keys_at(nodes: list[Memcached]) -> list[str]:
    """The keys that have their value and their number at *nodes*."""
    found: set[Any] = set()
    for node in nodes:
        mc = pylibmc.Client([node.address])
        values, numbers = mc.get_multi(KEYS), mc.get_multi([f"n-{key}" for key in KEYS])
        found.update(key for key in values if f"n-{key}" in numbers)
    return sorted(found)


def answers_rightly(mc: Any, keys: list[str], first: str = "incr", misses: bool = False) -> None:
    """Each answer is right, or an error.

    :param first: the command to begin with.
    :param misses: a read may find nothing, as when a server is away.
    """
    if len(keys) < 2:
        return  # too many belong to the server that is away: incr and decr need a key each
    names = [first, *(name for name in RIGHT if name != first)]
    for number, name in enumerate(names):
        key = keys[number % len(keys)]
        command, expected = RIGHT[name]
        try:
            found = command(mc, key)
        except pylibmc.Error:
            continue
        if misses and name == "get_multi":
            assert all(found[key] == value(key) for key in found), f"{name} gave {found!r}"
        elif not (misses and name in ("get", "gets") and found is None):
            assert found == expected(mc, key), f"{name} gave {found!r}"


def recovers(mc: Any, keys: list[str]) -> None:
    """The client works again, with all servers."""
    right = {key: value(key) for key in keys}

    def works() -> bool:
        with contextlib.suppress(pylibmc.Error):
            return bool(mc.get_multi(keys) == right and all(mc.get(key) for key in keys))
        return False

    eventually(works, "the client does not recover")


# -- Answers of several servers that are not whole


def interrupt_after(seconds: float) -> None:
    """Have a signal arrive that does nothing."""
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def cut_get_multi_short(mc: Client, between: list[Proxy]) -> None:
    """Have a signal arrive during a ``get_multi``, before the answers do."""
    for proxy in between:
        proxy.delay = 0.1
    interrupt_after(0.03)
    with contextlib.suppress(pylibmc.Error):
        assert mc.get_multi(KEYS).items() <= {key: value(key) for key in KEYS}.items()
    for proxy in between:
        proxy.go_on()


@PROTOCOLS
@SERVERS
@pytest.mark.parametrize("first", RIGHT)
def test_no_answer_is_wrong_after_a_get_multi_that_a_signal_cut_short(
    nodes: list[Memcached], first: str, servers: int, binary: bool
) -> None:
    """The answers are still on their way then."""

    def work() -> None:
        with proxies(nodes[:servers]) as between:
            mc = connected(between, nodes[:servers], binary)
            cut_get_multi_short(mc, between)
            answers_rightly(mc, KEYS, first)
            recovers(mc, KEYS)

    succeeds(in_child(work))


@pytest.mark.parametrize("first", RIGHT)
def test_no_answer_is_wrong_after_a_signal_that_nothing_tells_of(
    nodes: list[Memcached], monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Without the cause, the answers that are still to come are read, and nothing is lost."""
    monkeypatch.setattr(silent_errors, "calibrated", lambda: None)

    def work() -> None:
        with proxies(nodes) as between:
            mc = connected(between, nodes, binary=True)
            cut_get_multi_short(mc, between)
            answers_rightly(mc, KEYS, first)

    succeeds(in_child(work))


@PROTOCOLS
@pytest.mark.parametrize("late", [1, 3], ids=["one late", "all late"])
@pytest.mark.parametrize("first", RIGHT)
def test_no_answer_is_wrong_after_a_get_multi_whose_answers_come_too_late(
    nodes: list[Memcached], first: str, late: int, binary: bool
) -> None:
    def work() -> None:
        with proxies(nodes) as between:
            mc = connected(between, nodes, binary)
            mc.set_behaviors({"_poll_timeout": 50})
            for proxy in between[:late]:
                proxy.delay = 0.15
            with contextlib.suppress(pylibmc.Error):
                assert mc.get_multi(KEYS).items() <= {key: value(key) for key in KEYS}.items()
            for proxy in between:
                proxy.go_on()
            answers_rightly(mc, KEYS, first, misses=True)
            recovers(mc, KEYS[:1])

    succeeds(in_child(work))


def test_server_that_was_late_is_used_again_after_a_part_of_a_get_multi_was_kept(
    nodes: list[Memcached],
) -> None:
    """With fail_soft, the part that came in time is the answer."""

    def work() -> None:
        with proxies(nodes) as between:
            mc = connected(between, nodes, binary=False, fail_soft=True)
            mc.set_behaviors({"_poll_timeout": 200})
            between[0].delay = 0.4
            found = mc.get_multi(KEYS)
            assert 0 < len(found) < len(KEYS)
            between[0].go_on()
            late = next(key for key in KEYS if key not in found)
            assert mc.get(late) == value(late)

    succeeds(in_child(work))


@PROTOCOLS
@pytest.mark.parametrize("first", RIGHT)
def test_no_answer_is_wrong_after_a_get_multi_with_a_server_that_has_died(
    nodes: list[Memcached], first: str, binary: bool
) -> None:
    """What the others answer is still on its way when the command gives up."""

    def work() -> None:
        with proxies(nodes) as between:
            mc = connected(between, nodes, binary)
            between[2].close()
            for proxy in between[:2]:
                proxy.delay = 0.1
            for _ in range(3):
                with contextlib.suppress(pylibmc.Error):
                    found = mc.get_multi(KEYS)
                    assert found.items() <= {key: value(key) for key in KEYS}.items()
            for proxy in between[:2]:
                proxy.go_on()
            answers_rightly(mc, keys_at(nodes[:2]), first, misses=True)

    succeeds(in_child(work))


@PROTOCOLS
@pytest.mark.parametrize("cause", ["signal", "late", "cut"])
def test_no_answer_is_wrong_after_incomplete_answers_in_a_row(
    nodes: list[Memcached], cause: str, binary: bool
) -> None:
    """get_multi, get_stats, get_multi: with answers left over, it writes past its memory."""

    def work() -> None:
        with proxies(nodes) as between:
            mc = connected(between, nodes, binary)
            for _ in range(10):
                for command in (
                    lambda: mc.get_multi(KEYS),
                    lambda: mc.get_stats(),
                    lambda: mc.get_multi([*KEYS, *(f"n-{key}" for key in KEYS)]),
                ):
                    for proxy in between:
                        proxy.delay = 0.02
                        proxy.cut_after = 300 if cause == "cut" else None
                    if cause == "signal":
                        interrupt_after(0.01)
                    elif cause == "late":
                        mc.set_behaviors({"_poll_timeout": 10})
                    with contextlib.suppress(pylibmc.Error):
                        command()
            for proxy in between:
                proxy.go_on()
            mc.set_behaviors({"_poll_timeout": 500})
            answers_rightly(mc, KEYS, "get_multi", misses=True)
            recovers(mc, KEYS[:1])

    succeeds(in_child(work))


# -- Signals


@PROTOCOLS
@SERVERS
@pytest.mark.parametrize("interrupted", RIGHT)
def test_no_answer_is_wrong_after_a_signal_during_a_command(
    nodes: list[Memcached], interrupted: str, servers: int, binary: bool
) -> None:
    """It comes while the command waits for its answer."""

    def work() -> None:
        with proxies(nodes[:servers]) as between:
            for first in ("incr", "get", "get_multi"):
                mc = connected(between, nodes[:servers], binary)
                for proxy in between:
                    proxy.delay = 0.04
                interrupt_after(0.01)
                # On a key of its own: nobody knows what becomes of it.
                with contextlib.suppress(pylibmc.Error):
                    RIGHT[interrupted][0](mc, KEYS[-1])
                for proxy in between:
                    proxy.go_on()
                answers_rightly(mc, KEYS[:-1], first)

    succeeds(in_child(work))


@PROTOCOLS
@SERVERS
def test_no_answer_is_wrong_amid_signals(
    nodes: list[Memcached], servers: int, binary: bool
) -> None:
    signals = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal signals
        signals += 1

    def settled() -> int:
        """How many signals there have been, after those that have just arrived."""
        return signals

    def work() -> None:
        mc = connected(nodes[:servers], nodes[:servers], binary)  # type: ignore[arg-type]
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0007)
        misses = 0
        for round in range(1500):
            name = list(RIGHT)[round % len(RIGHT)]
            key = KEYS[round % len(KEYS)]
            command, expected = RIGHT[name]
            if name in ("incr", "decr"):
                # What an interrupted one has done nobody knows.
                with contextlib.suppress(pylibmc.Error):
                    if mc.set(f"n-{key}", number(key)):
                        assert command(mc, key) == expected(mc, key)
                continue
            before = settled()
            try:
                found = command(mc, key)
            except pylibmc.Error:
                continue
            if found != expected(mc, key):
                # Only the interrupted command itself may come back with too little.
                assert settled() > before, f"{name} gave {found!r}"
                assert not found or name == "get_multi", f"{name} gave {found!r}"
                misses += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        recovers(mc, KEYS)

    succeeds(in_child(work))


class Stop(Exception):
    pass


@PROTOCOLS
@pytest.mark.parametrize("error", [Stop, pylibmc.NotFound], ids=["its own", "another client's"])
def test_no_answer_is_wrong_after_a_signal_handler_has_raised(
    nodes: list[Memcached], error: type[Exception], binary: bool
) -> None:
    """NotFound leaves a connection in sync if it comes from the command itself."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise error

    def work() -> None:
        with proxies(nodes) as between:
            for interrupted in RIGHT:
                mc = connected(between, nodes, binary)
                signal.signal(signal.SIGALRM, handle)
                for proxy in between:
                    proxy.delay = 0.04
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                with pytest.raises((error, pylibmc.Error)):  # noqa: PT012
                    RIGHT[interrupted][0](mc, KEYS[-1])
                    signal.sigtimedwait([], 1)  # where the command was faster
                for proxy in between:
                    proxy.go_on()
                answers_rightly(mc, KEYS[:-1])

    succeeds(in_child(work))


class Late(TimeoutError, RuntimeError, pylibmc.ServerDown):  # type: ignore[misc]
    """What a signal handler may raise."""


@contextlib.contextmanager
def interrupted(after: float) -> Iterator[None]:
    """A signal handler raises Late, and nothing keeps it from the caller."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Late("the request takes too long")

    signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, after)
    with pytest.raises(Late, match=r"^the request takes too long$"):  # noqa: PT012
        yield
        signal.sigtimedwait([], 1)  # where the command was faster


@PROTOCOLS
@SERVERS
@pytest.mark.parametrize("fail_soft", [False, True], ids=["raises", "fail_soft"])
def test_error_of_a_signal_handler_reaches_the_caller(
    nodes: list[Memcached], servers: int, fail_soft: bool, binary: bool
) -> None:
    def work() -> None:
        with proxies(nodes[:servers]) as between:
            mc = Client([proxy.address for proxy in between], binary=binary, fail_soft=fail_soft)
            failures: list[None] = []
            mc.on_connection_failure = lambda: failures.append(None)
            assert mc.set("key", "value")
            for command in (
                lambda: mc.get("key"),
                lambda: mc.set("key", "value"),
                lambda: mc.get_multi(["key", *KEYS]),
            ):
                for proxy in between:
                    proxy.delay = 0.04
                with interrupted(0.01):
                    command()
                for proxy in between:
                    proxy.go_on()
                assert mc.get("key") == "value"  # no server rests
            assert not failures

    succeeds(in_child(work))


@PROTOCOLS
@pytest.mark.parametrize("fail_soft", [False, True], ids=["raises", "fail_soft"])
def test_error_of_a_signal_handler_in_the_second_read_of_a_get_multi(
    nodes: list[Memcached], fail_soft: bool, binary: bool
) -> None:
    """A key is missing, so get_multi reads again, and a get of this key follows."""

    def work() -> None:
        with proxies(nodes) as between:
            for after in (0.02, 0.06, 0.1):
                mc = Client([p.address for p in between], binary=binary, fail_soft=fail_soft)
                assert mc.set_multi(dict.fromkeys(KEYS, "value")) == []
                for proxy in between:
                    proxy.delay = 0.04
                with interrupted(after):
                    mc.get_multi([*KEYS, "missing"])
                for proxy in between:
                    proxy.go_on()

    succeeds(in_child(work))


@SERVERS
@pytest.mark.parametrize("fail_soft", [False, True], ids=["raises", "fail_soft"])
def test_error_of_a_signal_handler_in_a_command_that_expires(
    servers: int, fail_soft: bool
) -> None:
    """C goes on after the signal, so the handler runs after the watchdog has ended the command."""

    def work() -> None:
        with ExitStack() as running:
            addresses = [
                running.enter_context(hostile.fake(hostile.silent)).address for _ in range(servers)
            ]
            commands: list[Callable[[Client], object]] = [
                lambda mc: mc.get("key"),
                lambda mc: mc.set("key", 1),
                lambda mc: mc.flush_all(),
            ]
            for command in commands:
                mc = Client(addresses, fail_soft=fail_soft, command_timeout=0.2)
                with interrupted(0.05):
                    command(mc)

    succeeds(in_child(work))


def test_write_of_a_signal_handler_that_timed_out_is_no_command(nodes: list[Memcached]) -> None:
    """The command that the handler interrupts ends well."""
    evil = b"\r\nset evil 0 0 4\r\nevil\r\n" * 30_000

    def work() -> None:
        watch = pylibmc.Client([nodes[0].address])
        watch.delete("evil")
        with hostile.proxy(nodes[0].address, receive_buffer=4096) as between:
            mc = Client([between.address], {"_poll_timeout": 200, "_socket_send_size": 4096})
            assert mc.set("key", b"old")
            failed: list[Exception] = []

            def handle(number: int, frame: FrameType | None) -> None:
                between.stop_reading()
                try:
                    mc.set("other", evil)
                except pylibmc.Error as error:
                    failed.append(error)
                between.go_on()

            signal.signal(signal.SIGALRM, handle)
            between.delay = 0.04
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            assert mc.get("key") == b"old"
            assert failed
            for _ in range(3):
                with contextlib.suppress(pylibmc.Error):
                    mc.set("other", evil)
            assert watch.get("evil") is None
            eventually(lambda: works(mc))
            assert watch.get("evil") is None

    succeeds(in_child(work))


# -- A key that was not asked for


def foreign_in_binary(request: bytes) -> bytes:
    """The answers to a get of several keys in the binary protocol, one of them of another key."""
    answer = b""
    while request:
        _, opcode, _, _, _, _, body, opaque, _ = struct.unpack_from(">BBHBBHIIQ", request)
        if opcode == 0x0A:  # the one that ends them
            answer += struct.pack(">BBHBBHIIQ", 0x81, opcode, 0, 0, 0, 0, 0, opaque, 0)
        elif not answer:
            answer += struct.pack(">BBHBBHIIQ", 0x81, opcode, 5, 4, 0, 0, 14, opaque, 1)
            answer += struct.pack(">I", 16) + b"other" + b"wrong"
        request = request[24 + body :]
    return answer


@PROTOCOLS
@pytest.mark.parametrize("prefix", [None, "pre-"])
def test_foreign_key_is_not_returned_and_costs_a_connection(
    binary: bool, prefix: str | None
) -> None:
    answered: list[bytes] = []

    def script(conversation: Conversation) -> None:
        while True:
            request = conversation.request()
            answered.append(request)
            if binary:
                conversation.send(foreign_in_binary(request))
            else:
                conversation.send(hostile.value("other", b"wrong") + b"END\r\n")

    with hostile.fake(script) as server:
        mc = Client([server.address], binary=binary)
        for connections in range(1, 4):
            with contextlib.suppress(pylibmc.Error):
                assert mc.get_multi(["key", "more"], prefix) == {}
            assert server.accepted == connections
        assert answered


def test_foreign_key_beside_those_that_were_asked_for_is_not_returned() -> None:
    answer = hostile.value("key") + hostile.value("other", b"wrong") + b"END\r\n"
    with hostile.fake(hostile.answers(answer)) as server:
        mc = Client([server.address])
        for connections in range(1, 4):
            with contextlib.suppress(pylibmc.Error):
                assert mc.get_multi(["key", "more"]) in ({}, {"key": "value"})
            assert server.accepted == connections


# -- Errors of all kinds


@pytest.mark.parametrize(
    "answer",
    [
        b"ERROR\r\n",
        b"CLIENT_ERROR bad\r\n",
        hostile.OUT_OF_MEMORY,
        b"NONSENSE\r\n",
        b"VALUE",
        b"VALUE key 16\r\n",
        b"VALUE key 16 5\r\nvalu",
        b"VALUE key 16 x\r\nvalue\r\nEND\r\n",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("command", ["get", "get_multi", "set", "incr", "delete", "touch"])
def test_answer_that_is_an_error_is_nobody_elses(command: str, answer: bytes) -> None:
    """The first connection says *answer* and then what belongs to other keys."""
    if command == "set" and answer.startswith(b"VALUE") and has_libmemcached_1_1():
        pytest.skip("Debian's libmemcached 1.1 ends the process")

    def script(conversation: Conversation) -> None:
        conversation.request()
        if server.accepted > 1:
            conversation.send(b"END\r\n")
            conversation.wait()
        conversation.send(answer)
        conversation.pause(0.02)
        for _ in range(5):
            conversation.send(hostile.value("key", b"of another") + b"END\r\nSTORED\r\n77\r\n")
        conversation.wait()

    def work() -> None:
        mc = Client([server.address], {"_poll_timeout": 100, "retry_timeout": 1})
        for _ in range(2):
            try:
                RIGHT[command][0](mc, "key0")
            except pylibmc.Error:
                break
        with contextlib.suppress(pylibmc.Error):
            assert mc.get("key") is None

    with hostile.fake(script) as server:
        succeeds(in_child(work))


@SERVERS
def test_recursion_limit_does_not_crash_get_multi(nodes: list[Memcached], servers: int) -> None:
    """The C code crashes there."""

    def descend(mc: Client, frames: int) -> object:
        return descend(mc, frames - 1) if frames else mc.get_multi(KEYS)

    def work() -> None:
        mc = Client([node.address for node in nodes[:servers]])
        values = dict.fromkeys(KEYS, "value")
        assert mc.set_multi(values) == []
        limit = sys.getrecursionlimit()
        raised = 0
        for frames in range(limit - 100, limit):
            assert mc.get_multi(KEYS) == values
            try:
                assert descend(mc, frames) == values
            except (RecursionError, ctypes.ArgumentError):
                raised += 1
        assert 0 < raised < 100

    succeeds(in_child(work))
