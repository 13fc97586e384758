"""What memcached cannot do is a miss or False with fail_soft, counted and logged."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable

import hostile
import pylibmc
import pytest
from harness import eventually
from mortal import Mortal

from mcpool_wsgi import Client, ClientPool, InvalidKey, ThreadMappedPool

pytestmark = pytest.mark.servers

#: Every command, and what it gives when memcached cannot do it.
SOFT: dict[str, tuple[Callable[[Any], object], object]] = {
    "get": (lambda mc: mc.get("key", "default"), "default"),
    "gets": (lambda mc: mc.gets("key"), (None, None)),
    "get_multi": (lambda mc: mc.get_multi(["key", "other"]), {}),
    "set": (lambda mc: mc.set("key", "value"), False),
    "add": (lambda mc: mc.add("new", "value"), False),
    "replace": (lambda mc: mc.replace("key", "value"), False),
    "append": (lambda mc: mc.append("key", "value"), False),
    "prepend": (lambda mc: mc.prepend("key", "value"), False),
    "cas": (lambda mc: mc.cas("key", "value", 1), False),
    "set_multi": (
        lambda mc: mc.set_multi({"key": 1, b"other": 2}, key_prefix="p"),
        ["key", b"other"],
    ),
    "add_multi": (lambda mc: mc.add_multi({"new": 1}), ["new"]),
    "incr": (lambda mc: mc.incr("number"), False),
    "decr": (lambda mc: mc.decr("number"), False),
    "incr_multi": (lambda mc: mc.incr_multi(["number", "other"]), None),
    "touch": (lambda mc: mc.touch("key", 10), False),
    "delete": (lambda mc: mc.delete("key"), False),
    "delete_multi": (lambda mc: mc.delete_multi(["key"]), False),
    "flush_all": (lambda mc: mc.flush_all(), False),
    "get_stats": (lambda mc: mc.get_stats(), []),
    "in": (lambda mc: "key" in mc, False),
    "[]": (lambda mc: mc.__setitem__("key", "value"), None),
}

#: A row: starts what fails, and gives its addresses.
Row = Callable[[ExitStack, Path], list[str]]


def refused(running: ExitStack, directory: Path) -> list[str]:
    return [running.enter_context(hostile.refusing())]


def full(running: ExitStack, directory: Path) -> list[str]:
    """A memcached that has as many connections as it may."""
    address = running.enter_context(hostile.real("-c", "16", "-t", "1"))
    host, _, port = address.rpartition(":")
    while True:
        connection = running.enter_context(socket.create_connection((host, int(port))))
        connection.settimeout(10)
        connection.sendall(b"version\r\n")
        if connection.recv(100).startswith(b"ERROR Too many"):
            return [address]


def out_of_memory(running: ExitStack, directory: Path) -> list[str]:
    script = hostile.answers(hostile.OUT_OF_MEMORY)
    return [running.enter_context(hostile.fake(script)).address]


def silent(running: ExitStack, directory: Path) -> list[str]:
    return [running.enter_context(hostile.fake(hostile.silent)).address]


def dripping(running: ExitStack, directory: Path) -> list[str]:
    """Each byte is in time. The command as a whole is not."""
    script = hostile.endless(b"V", interval=0.02)
    return [running.enter_context(hostile.fake(script)).address]


def closing(running: ExitStack, directory: Path) -> list[str]:
    return [running.enter_context(hostile.fake(hostile.answers_once(b""))).address]


def half_an_answer(running: ExitStack, directory: Path) -> list[str]:
    script = hostile.answers_once(b"VALUE key 16 5\r\nval")
    return [running.enter_context(hostile.fake(script)).address]


def server_error(running: ExitStack, directory: Path) -> list[str]:
    script = hostile.answers(b"SERVER_ERROR something went wrong\r\n")
    return [running.enter_context(hostile.fake(script)).address]


def no_unix_socket(running: ExitStack, directory: Path) -> list[str]:
    return [str(directory / "nothing")]


def no_socket_at_all(running: ExitStack, directory: Path) -> list[str]:
    (directory / "file").touch()
    return [str(directory / "file")]


def all_refused(running: ExitStack, directory: Path) -> list[str]:
    return [running.enter_context(hostile.refusing()) for _ in range(3)]


ROWS: dict[str, Row] = {
    row.__name__.replace("_", " "): row
    for row in (
        refused,
        full,
        out_of_memory,
        silent,
        dripping,
        closing,
        half_an_answer,
        server_error,
        no_unix_socket,
        no_socket_at_all,
        all_refused,
    )
}
#: These speak the text protocol, or none that the binary protocol takes for an answer.
TEXT_ONLY = ("out of memory", "dripping", "half an answer", "server error")


@pytest.fixture
def running() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def soft_pool(addresses: list[str], binary: bool = False, **options: Any) -> Any:
    behaviors = {"cas": True, "_poll_timeout": 100, "connect_timeout": 100}
    return ClientPool(Client(addresses, behaviors, binary, fail_soft=True, **options), 1)


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("command", SOFT)
@pytest.mark.parametrize("what", ROWS)
def test_failure_is_a_miss_and_counted_and_logged(
    running: ExitStack,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    what: str,
    command: str,
    binary: bool,
) -> None:
    if binary and what in TEXT_ONLY:
        pytest.skip("an answer of the text protocol")
    pool = soft_pool(ROWS[what](running, tmp_path), binary, command_timeout=0.2)
    call, soft = SOFT[command]
    # The first get of a connection that fails may be a miss without an error.
    for _ in range(2):
        with pool.reserve() as mc:
            assert call(mc) == soft
    if what not in ("out of memory", "server error") or command not in (
        "get",
        "gets",
        "get_multi",
        "in",
    ):
        assert pool.stats().failures >= 1
        names = {record.name.partition(".")[0] for record in caplog.records}
        assert "mcpool_wsgi" in names
    assert pool.stats().in_use == 0


@pytest.mark.parametrize("command", SOFT)
@pytest.mark.parametrize("what", ROWS)
def test_failure_raises_without_fail_soft(
    running: ExitStack, tmp_path: Path, what: str, command: str
) -> None:
    """Or it is a miss, where pylibmc says no more. It is never a success."""
    behaviors = {"cas": True, "_poll_timeout": 100, "connect_timeout": 100}
    mc = Client(ROWS[what](running, tmp_path), behaviors, command_timeout=0.2)
    call, soft = SOFT[command]
    try:
        found = call(mc)
    except pylibmc.Error:
        return
    except KeyError:
        assert command == "[]"
        return
    assert command in ("get", "gets", "get_multi", "in")
    assert found == soft


@pytest.mark.parametrize("what", ["out of memory", "server error"])
def test_errors_of_the_server_do_not_last(what: str) -> None:
    """The next command of the same client works if the server does."""
    refuse = [True]

    def script(conversation: hostile.Conversation) -> None:
        while True:
            conversation.request()
            conversation.send(hostile.OUT_OF_MEMORY if refuse else b"STORED\r\n")

    with hostile.fake(script) as server, soft_pool([server.address]).reserve() as mc:
        assert mc.set("key", "value") is False
        refuse.clear()
        eventually(lambda: mc.set("key", "value"))


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_real_memcached_without_room(binary: bool) -> None:
    """It was started with -M, so it evicts nothing."""
    with hostile.real("-M", "-m", "2") as address:
        pool = soft_pool([address], binary)
        with pool.reserve() as mc:
            stored = [mc.set(f"key{number}", b"x" * 500_000) for number in range(20)]
            assert {True, False} == set(stored)
        watch = pylibmc.Client([address])
        for number, is_stored in enumerate(stored):
            assert (watch.get(f"key{number}") is not None) is is_stored
        assert pool.stats().failures >= 1


@pytest.mark.parametrize("make", [ClientPool, ThreadMappedPool])
def test_killed_server(mortal: Mortal, make: Any) -> None:
    mc = Client([mortal.address], {"cas": True}, fail_soft=True)
    pool = make(mc, 1) if make is ClientPool else make(mc)
    with pool.reserve() as lent:
        assert lent.set("key", "value")
    mortal.kill()
    for command, (call, soft) in SOFT.items():
        with pool.reserve() as lent:
            assert call(lent) == soft, command
    assert pool.stats().failures >= len(SOFT) - 1
    mortal.start()

    def works() -> bool:
        with pool.reserve() as lent:
            return bool(lent.set("key", "value") and lent.get("key") == "value")

    eventually(works)


def test_stopped_server(mortal: Mortal) -> None:
    pool = soft_pool([mortal.address])
    with pool.reserve() as mc:
        assert mc.set("key", "value")
    mortal.stop()
    try:
        for command, (call, soft) in SOFT.items():
            with pool.reserve() as mc:
                assert call(mc) == soft, command
    finally:
        mortal.go_on()
    assert pool.stats().failures >= 1


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_one_server_of_several_is_dead(running: ExitStack, binary: bool) -> None:
    """What the others have is found. Nothing raises, and no write is a success that is none."""
    live = [running.enter_context(hostile.real()) for _ in range(2)]
    dead = running.enter_context(hostile.refusing())
    pool = soft_pool([*live, dead], binary)
    keys = [f"key{number}" for number in range(60)]
    for _ in range(5):
        with pool.reserve() as mc:
            for command, (call, _) in SOFT.items():
                if command not in ("incr", "decr", "incr_multi"):
                    call(mc)
            failed = mc.set_multi({key: key for key in keys})
            stored = [key for key in keys if key not in failed]
            theirs: dict[str, Any] = {}
            for address in live:
                theirs.update(pylibmc.Client([address]).get_multi(keys))
            assert theirs.items() >= {key: key for key in stored}.items()
            for key in keys:
                mc.delete(key)
    assert pool.stats().failures >= 1


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("fail_soft", [False, True], ids=["raising", "fail_soft"])
@pytest.mark.parametrize("what", ["refused", "silent", "closing", "full"])
def test_flush_that_was_not_acknowledged_is_no_success(
    running: ExitStack, tmp_path: Path, what: str, fail_soft: bool, binary: bool
) -> None:
    """In the binary protocol pylibmc says True whatever becomes of it."""
    behaviors = {"_poll_timeout": 100}
    mc = Client(ROWS[what](running, tmp_path), behaviors, binary, fail_soft=fail_soft)
    with contextlib.suppress(pylibmc.Error):
        assert mc.flush_all() is False


# -- What the caller did wrong


@pytest.mark.parametrize("fail_soft", [False, True], ids=["raising", "fail_soft"])
def test_errors_of_the_caller_raise(address: str, fail_soft: bool) -> None:
    pool = ClientPool(Client([address], fail_soft=fail_soft), 1)
    with pool.reserve() as mc:
        mc.set("text", "no number")
        for error, call in (
            (InvalidKey, lambda: mc.get("a b")),
            (InvalidKey, lambda: mc.get("")),
            (TypeError, lambda: mc.get(5)),
            (TypeError, lambda: mc.set("key", "value", "soon")),
            (ValueError, lambda: mc.set("key", "value", -1)),
            (ValueError, lambda: mc.incr("text", -1)),
            (ValueError, lambda: mc.gets("text")),  # without the behavior cas
            (pylibmc.NotFound, lambda: mc.incr("missing")),
            (pylibmc.NotFound, lambda: mc.decr("missing")),
            (pylibmc.NotFound, lambda: mc.incr_multi(["missing"])),
            (pylibmc.ClientError, lambda: mc.incr("text")),
            (pylibmc.TooBig, lambda: mc.set("key", b"x" * (1 << 21))),
            (Exception, lambda: mc.set("key", lambda: None)),
        ):
            with pytest.raises(error):
                call()
        assert mc.get("text") == "no number"
    assert pool.stats().failures == 0


@pytest.mark.parametrize("fail_soft", [False, True], ids=["raising", "fail_soft"])
def test_incr_multi_of_a_missing_key_is_not_found(address: str, fail_soft: bool) -> None:
    """The other keys are incremented nevertheless."""
    mc = Client([address], fail_soft=fail_soft)
    mc.set_multi({"a": 1, "b": 1})
    for keys in (["missing"], ["a", "missing", "b"], ["missing", "a", "b"]):
        with pytest.raises(pylibmc.NotFound):
            mc.incr_multi(keys)
    assert mc.get_multi(["a", "b"]) == {"a": 3, "b": 3}


def test_value_that_cannot_be_read_raises(address: str) -> None:
    """memcached has done its part."""
    theirs = hostile_values(address)
    pool = ClientPool(Client([address], fail_soft=True), 1)
    with pool.reserve() as mc:
        for key in theirs:
            with pytest.raises(Exception):  # noqa: B017, PT011  they have nothing in common
                mc.get(key)
        assert mc.get("fine") == "fine"
    assert pool.stats().failures == 0


def hostile_values(address: str) -> list[str]:
    """Store values that pylibmc cannot read: no pickle, no number, not compressed."""
    host, _, port = address.rpartition(":")
    found = []
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        for flags in (1, 2, 4, 8, 5):
            connection.sendall(b"set bad%d %d 0 3\r\nxyz\r\n" % (flags, flags))
            assert connection.recv(100) == b"STORED\r\n"
            found.append(f"bad{flags}")
        connection.sendall(b"set fine 16 0 4\r\nfine\r\n")
        assert connection.recv(100) == b"STORED\r\n"
    return found
