"""fail_soft: what memcached cannot do is a miss or False. What the caller did wrong raises.

There is one test for each row of the table in mcpool_wsgi/client/client.py.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, NamedTuple

import hostile
import pylibmc
import pytest
from forking import in_child, succeeds
from harness import eventually, has_libmemcached_1_1, in_threads
from mortal import Mortal

from mcpool_wsgi import Client, ClientPool, InvalidKey, PooledClient
from mcpool_wsgi.devserver import Memcached, memcached

pytestmark = pytest.mark.servers

LOGGER = "mcpool_wsgi"
LIMIT = ("-t", "1", "-c", "64")  # with fewer, memcached cannot open its own files
QUICK = {"cas": True, "connect_timeout": 500, "_poll_timeout": 100}
PATIENT = {**QUICK, "_poll_timeout": 5000}


class Call(NamedTuple):
    """A command, and what it gives while memcached can do nothing."""

    run: Callable[[Any], Any]
    miss: Any


def raises_key_error(command: Callable[[], object]) -> bool:
    try:
        command()
    except KeyError:
        return True
    return False


def set_item(mc: Any) -> None:
    """Without fail_soft, pylibmc raises a KeyError where it was told that nothing was stored."""
    try:
        mc["key"] = "written"
    except KeyError as error:
        assert not mc._client._fail_soft
        raise RuntimeError("not stored") from error


READS = {
    "get": Call(lambda mc: mc.get("key"), None),
    "get with a default": Call(lambda mc: mc.get("key", "default"), "default"),
    "gets": Call(lambda mc: mc.gets("key"), (None, None)),
    "get_multi": Call(lambda mc: mc.get_multi(["key", "other"]), {}),
    "get_multi, bytes": Call(lambda mc: mc.get_multi([b"key"], key_prefix="a-"), {}),
    "get_stats": Call(lambda mc: mc.get_stats(), []),
    "in": Call(lambda mc: "key" in mc, False),
}
WRITES = {
    "set": Call(lambda mc: mc.set("key", "written"), False),
    "set of a large value": Call(lambda mc: mc.set("key", b"x" * 500_000), False),
    "add": Call(lambda mc: mc.add("new", "written"), False),
    "replace": Call(lambda mc: mc.replace("key", "written"), False),
    "append": Call(lambda mc: mc.append("key", "written"), False),
    "prepend": Call(lambda mc: mc.prepend("key", "written"), False),
    "cas": Call(lambda mc: mc.cas("key", "written", 5), False),
    "incr": Call(lambda mc: mc.incr("number"), False),
    "decr": Call(lambda mc: mc.decr("number"), False),
    "touch": Call(lambda mc: mc.touch("key", 100), False),
    "delete": Call(lambda mc: mc.delete("key"), False),
    "delete_multi": Call(lambda mc: mc.delete_multi(["key", "other"]), False),
    "flush_all": Call(lambda mc: mc.flush_all(), False),
    "set_multi": Call(lambda mc: mc.set_multi({"key": 1, b"other": 2}), ["key", b"other"]),
    "set_multi, prefix": Call(lambda mc: mc.set_multi({"key": 1}, key_prefix="a-"), ["key"]),
    "add_multi": Call(lambda mc: mc.add_multi({"new": 1, "other": 2}), ["new", "other"]),
}
#: These have no way to say that nothing was written, or say it by an error of Python's own.
SILENT = {
    "incr_multi": Call(lambda mc: mc.incr_multi(["number"]), None),
    "write an item": Call(set_item, None),
    "read an item": Call(lambda mc: raises_key_error(lambda: mc["key"]), True),
    "delete an item": Call(lambda mc: raises_key_error(lambda: mc.__delitem__("key")), True),
}
CALLS = {**READS, **WRITES, **SILENT}


# -- What can happen to memcached


class Outage(NamedTuple):
    """Servers that fail from some moment on."""

    servers: list[str]
    behaviors: dict[str, int] = QUICK
    #: Seconds.
    command_timeout: float = 1.0
    binary: bool = False
    #: Makes the servers fail; before that, each client is connected. None if they fail at once.
    begin: Callable[[], object] | None = None


Start = Callable[[Path], contextlib.AbstractContextManager[Outage]]


@contextlib.contextmanager
def nobody_listens(directory: Path) -> Iterator[Outage]:
    with hostile.refusing() as address:
        yield Outage([address])


@contextlib.contextmanager
def server_is_killed(directory: Path) -> Iterator[Outage]:
    server = Mortal(None)
    try:
        yield Outage([server.address], begin=server.kill)
    finally:
        server.kill()


@contextlib.contextmanager
def connection_is_reset(directory: Path) -> Iterator[Outage]:
    """Each connection ends in the middle of the first answer."""
    with hostile.fake(hostile.answers_once(b"VALUE key 16 100\r\nvalu")) as server:
        yield Outage([server.address])


@contextlib.contextmanager
def server_hangs(directory: Path) -> Iterator[Outage]:
    server = Mortal(None)
    try:
        yield Outage([server.address], begin=server.stop)
    finally:
        server.go_on()
        server.kill()


@contextlib.contextmanager
def server_says_nothing(directory: Path) -> Iterator[Outage]:
    with hostile.fake(hostile.silent) as server:
        yield Outage([server.address])


@contextlib.contextmanager
def unix_server_hangs(directory: Path) -> Iterator[Outage]:
    path = str(directory / "socket")
    with memcached(unix_socket=path) as server:

        def stop() -> None:
            server.process.send_signal(signal.SIGSTOP)
            os.waitpid(server.process.pid, os.WUNTRACED)

        try:
            yield Outage([path], begin=stop)
        finally:
            server.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def server_drips(directory: Path) -> Iterator[Outage]:
    """No byte is late, and the answer never ends. Only command_timeout ends the command."""
    with hostile.fake(hostile.endless(b"V", interval=0.02)) as server:
        yield Outage([server.address], PATIENT, command_timeout=0.15)


@contextlib.contextmanager
def out_of_memory(directory: Path) -> Iterator[Outage]:
    with hostile.fake(storing(hostile.OUT_OF_MEMORY)) as server:
        yield Outage([server.address])


@contextlib.contextmanager
def server_error(directory: Path) -> Iterator[Outage]:
    with hostile.fake(storing(b"SERVER_ERROR busy\r\n")) as server:
        yield Outage([server.address])


@contextlib.contextmanager
def too_many_connections(directory: Path) -> Iterator[Outage]:
    """memcached says so, and closes the connection. pylibmc takes its ERROR for a miss."""
    with full(*LIMIT, "-o", "maxconns_fast") as address:
        yield Outage([address])


@contextlib.contextmanager
def too_many_connections_in_binary(directory: Path) -> Iterator[Outage]:
    """memcached says so in the text protocol. For incr, pylibmc takes it for no number."""
    with too_many_connections(directory) as outage:
        yield outage._replace(binary=True)


@contextlib.contextmanager
def several_servers_have_too_many_connections_in_binary(directory: Path) -> Iterator[Outage]:
    with too_many_connections(directory) as one, too_many_connections(directory) as other:
        yield one._replace(servers=one.servers + other.servers, binary=True)


@contextlib.contextmanager
def no_more_connections(directory: Path) -> Iterator[Outage]:
    """memcached accepts no connection until another one ends."""
    with full(*LIMIT, "-o", "no_maxconns_fast") as address:
        yield Outage([address])


@contextlib.contextmanager
def unix_socket_is_missing(directory: Path) -> Iterator[Outage]:
    yield Outage([str(directory / "missing")])


@contextlib.contextmanager
def unix_socket_is_gone(directory: Path) -> Iterator[Outage]:
    path = str(directory / "socket")
    with memcached(unix_socket=path) as server:

        def end() -> None:
            server.process.kill()
            server.process.wait()
            os.unlink(path)

        yield Outage([path], begin=end)


@contextlib.contextmanager
def unix_socket_is_a_file(directory: Path) -> Iterator[Outage]:
    path = directory / "file"
    path.touch()
    yield Outage([str(path)])


@contextlib.contextmanager
def unix_socket_is_abandoned(directory: Path) -> Iterator[Outage]:
    path = str(directory / "socket")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(path)
    yield Outage([path])


@contextlib.contextmanager
def nobody_of_several_listens(directory: Path) -> Iterator[Outage]:
    with ExitStack() as refusing:
        yield Outage([refusing.enter_context(hostile.refusing()) for _ in range(3)])


@contextlib.contextmanager
def several_servers_are_killed(directory: Path) -> Iterator[Outage]:
    servers = [Mortal(None) for _ in range(2)]

    def kill() -> None:
        for server in servers:
            server.kill()

    try:
        yield Outage([server.address for server in servers], begin=kill)
    finally:
        kill()


#: What memcached says when it has no room for the answer of a read.
READ_ERROR = b"SERVER_ERROR out of memory writing get response\r\n"


def storing(answer: bytes) -> hostile.Script:
    """Take the value of a storing command, and give *answer*; of a read, that of memcached."""
    storage = re.compile(rb"(?:set|add|replace|append|prepend|cas) \S+ \d+ \d+ (\d+)")
    # libmemcached 1.1 forgets that there was no room, so that is a plain miss.
    read_error = b"SERVER_ERROR busy\r\n" if has_libmemcached_1_1() else READ_ERROR

    def script(conversation: hostile.Conversation) -> None:
        data = b""
        while True:
            data += conversation.request()
            while data:
                line, _, rest = data.partition(b"\r\n")
                match = storage.match(line)
                length = int(match[1]) + 2 if match else 0
                if len(rest) < length:
                    break
                data = rest[length:]
                conversation.send(read_error if line.startswith(b"get") else answer)

    return script


@contextlib.contextmanager
def full(*options: str) -> Iterator[str]:
    """A memcached that has as many connections as it takes."""
    with hostile.real(*options) as address, ExitStack() as opened:
        host, _, port = address.rpartition(":")

        def is_full() -> bool:
            connection = socket.create_connection((host, int(port)), timeout=0.2)
            opened.enter_context(connection)
            try:
                connection.sendall(b"version\r\n")
                return not connection.recv(100).startswith(b"VERSION")
            except OSError:  # it has closed the connection, or does not accept it
                return True

        eventually(is_full, "memcached takes any number of connections")
        yield address


#: The rows of the table in the docstring that say "reads are misses; writes return False".
ROWS: dict[str, list[Start]] = {
    "no connection, or it broke": [
        nobody_listens,
        server_is_killed,
        connection_is_reset,
        nobody_of_several_listens,
        several_servers_are_killed,
    ],
    "a time-out, or ``command_timeout``": [
        server_hangs,
        server_says_nothing,
        unix_server_hangs,
        server_drips,
    ],
    "``SERVER_ERROR``, out of memory too": [out_of_memory, server_error],
    "connection limit, system errors": [
        too_many_connections,
        too_many_connections_in_binary,
        several_servers_have_too_many_connections_in_binary,
        no_more_connections,
        unix_socket_is_missing,
        unix_socket_is_gone,
        unix_socket_is_a_file,
        unix_socket_is_abandoned,
    ],
}
OUTAGES = pytest.mark.parametrize("start", [start for row in ROWS.values() for start in row])


def failing(outage: Outage, fail_soft: bool) -> dict[str, ClientPool]:
    """A pool with one client for each of CALLS, and all clients of a server that fails now."""
    pools = {}
    for name in CALLS:
        mc = Client(
            outage.servers,
            outage.behaviors,
            outage.binary,
            fail_soft=fail_soft,
            command_timeout=outage.command_timeout,
        )
        pools[name] = ClientPool(mc, 1)
        if outage.begin is not None:
            with pools[name].reserve() as lent:
                assert lent.set_multi({"key": "value", "number": 1, "other": "value"}) == []
    if outage.begin is not None:
        outage.begin()
    return pools


def run_all(pools: dict[str, ClientPool]) -> list[tuple[str, list[Any], list[Exception]]]:
    """Run each of CALLS three times: its name, what it gave, and what it raised."""
    called: list[tuple[str, list[Any], list[Exception]]] = []

    def work(name: str) -> None:
        found: list[Any] = []
        errors: list[Exception] = []
        with pools[name].reserve() as mc:
            for _ in range(3):
                try:
                    found.append(CALLS[name].run(mc))
                except (pylibmc.Error, RuntimeError) as error:
                    errors.append(error)
        called.append((name, found, errors))

    in_threads([functools.partial(work, name) for name in CALLS])
    assert len(called) == len(CALLS)
    return called


def differs(found: Any, miss: Any) -> bool:
    """Whether *found* is anything but *miss*. A 0 is no False."""
    return type(found) is not type(miss) or found != miss


@OUTAGES
def test_command_that_memcached_cannot_do_is_a_miss(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each failure is counted, and the first of a burst is logged."""
    with start(tmp_path) as outage, caplog.at_level(logging.WARNING, LOGGER):
        pools = failing(outage, fail_soft=True)
        found = {name: found for name, found, _ in run_all(pools)}
    assert {
        name: results
        for name, results in found.items()
        if any(differs(result, CALLS[name].miss) for result in results)
    } == {}
    failures = {name: pool.stats().failures for name, pool in pools.items()}
    least = {name: 3 if name in READS else 1 for name in CALLS}
    assert {name: count for name, count in failures.items() if count < least[name]} == {}
    # Each pool says it once.
    warnings = [one for one in caplog.records if one.name.startswith(LOGGER)]
    assert len(warnings) == len(pools)


@OUTAGES
def test_command_that_memcached_cannot_do_raises_otherwise(start: Start, tmp_path: Path) -> None:
    """It is never a success."""
    with start(tmp_path) as outage:
        pools = failing(outage, fail_soft=False)
        called = run_all(pools)
    wrong = {
        name: results
        for name, results, _ in called
        if any(differs(result, CALLS[name].miss) for result in results)
    }
    assert wrong == {}
    assert [(name, found) for name, found, _ in called if found and name in READS] == []
    # Of many keys, pylibmc says which could not be stored, and raises nothing.
    silent = [name for name, _, errors in called if not errors and "_multi" not in name]
    assert silent == []


def test_no_descriptor_for_a_connection_is_a_miss(mortal: Mortal) -> None:
    """A process with too many open files can make no socket."""
    resource = pytest.importorskip("resource")
    warm = Client([mortal.address])  # so that the watchdog runs
    warm.set("key", "value")

    def work() -> None:
        pools = {
            name: ClientPool(Client([mortal.address], QUICK, fail_soft=True), 1) for name in CALLS
        }
        warm.get("key")
        taken = os.open(os.devnull, os.O_RDONLY)
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 1, taken + 1))
        with contextlib.suppress(OSError):
            while True:
                os.dup(taken)
        for name, call in CALLS.items():
            with pools[name].reserve() as mc:
                found = [call.run(mc) for _ in range(3)]
            assert found == [call.miss] * 3, (name, found)
            assert pools[name].stats().failures >= 2, name

    succeeds(in_child(work))
    assert warm.get("key") == "value"


# -- Several servers, one of them dead


@contextlib.contextmanager
def alive_and_dead() -> Iterator[tuple[Mortal, Mortal]]:
    with ExitStack() as running:
        servers = [Mortal(None) for _ in range(2)]
        for server in servers:
            running.callback(server.kill)
        yield servers[0], servers[1]


KEYS = [f"key{number}" for number in range(60)]


def stored_in(servers: tuple[Mortal, Mortal]) -> tuple[ClientPool, set[Any]]:
    """A pool for *servers* with a value under each key, and the keys of the first server."""
    behaviors = {**QUICK, "retry_timeout": 60}
    addresses = [server.address for server in servers]
    pool = ClientPool(Client(addresses, behaviors, fail_soft=True), 1)
    with pool.reserve() as mc:
        assert mc.set_multi(dict.fromkeys(KEYS, "value")) == []
    there = set(Client(addresses[:1]).get_multi(KEYS))
    assert 0 < len(there) < len(KEYS)
    return pool, there


def test_writes_to_the_dead_server_alone_are_false(caplog: pytest.LogCaptureFixture) -> None:
    with alive_and_dead() as servers, caplog.at_level(logging.WARNING, LOGGER):
        pool, there = stored_in(servers)
        servers[1].kill()
        watch = Client([servers[0].address])
        with pool.reserve() as mc:
            stored = [key for key in KEYS if mc.set(key, "new")]
            # Once the dead server is left out, its keys are kept by the other one.
            assert there <= set(stored) != set(KEYS)
            assert watch.get_multi(stored) == dict.fromkeys(stored, "new")
            failed = mc.set_multi(dict.fromkeys(KEYS, "newer"))
            acknowledged = {key for key in KEYS if key not in failed}
            assert watch.get_multi(list(acknowledged)) == dict.fromkeys(acknowledged, "newer")
        assert pool.stats().failures >= 1
        assert any(record.name.startswith(LOGGER) for record in caplog.records)


def test_reads_of_the_dead_server_alone_are_misses() -> None:
    """libmemcached leaves the server out at once, and says nothing of it."""
    with alive_and_dead() as servers:
        pool, there = stored_in(servers)
        servers[1].kill()
        with pool.reserve() as mc:
            for _ in range(3):
                found = mc.get_multi(KEYS)
                assert found == {key: "value" for key in found if key in there}
            for key in KEYS:
                assert mc.get(key) == ("value" if key in there else None)
            assert set(mc.get_multi(KEYS)) == there


# -- What the caller did wrong


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("not for pickle")


class NotToBeRead:
    """pickle stores it, and fails when it is read."""

    def __reduce__(self) -> Any:
        return (not_to_be_read, ())


def not_to_be_read() -> object:
    raise LookupError("not to be read")


Wrong = Callable[[Client], object]

#: The other rows of the table, which say "raises".
RAISING: dict[str, list[tuple[type[Exception], Wrong]]] = {
    "``NotFound`` of ``incr``": [
        (pylibmc.NotFound, lambda mc: mc.incr("missing")),
        (pylibmc.NotFound, lambda mc: mc.decr("missing")),
        (pylibmc.NotFound, lambda mc: mc.incr_multi(["missing"])),
        (pylibmc.NotFound, lambda mc: mc.incr_multi(["number", "missing"], delta=2)),
        (pylibmc.NotFound, lambda mc: mc.incr_multi(["issing"], key_prefix="m")),
    ],
    "``ClientError``, ``TooBig``": [
        (pylibmc.ClientError, lambda mc: mc.incr("text")),
        (pylibmc.ClientError, lambda mc: mc.decr("text")),
        (pylibmc.ClientError, lambda mc: mc.incr_multi(["text"])),
        (pylibmc.TooBig, lambda mc: mc.set("key", b"x" * (1 << 21))),
        (pylibmc.TooBig, lambda mc: mc.add("new", b"x" * (1 << 21))),
        (pylibmc.TooBig, lambda mc: mc.replace("key", b"x" * (1 << 21))),
    ],
    ":exc:`~mcpool_wsgi.InvalidKey`": [
        (InvalidKey, lambda mc: mc.get("a b")),
        (InvalidKey, lambda mc: mc.incr("")),
        (InvalidKey, lambda mc: mc.delete("k" * 251)),
        (InvalidKey, lambda mc: mc.get_multi(["key", "a\r\nb"])),
        (InvalidKey, lambda mc: mc.set_multi({"key": 1, "\ud800": 2})),
        (InvalidKey, lambda mc: mc.get_stats("a\r\nb")),
    ],
    "wrong types, numbers out of range": [
        (TypeError, lambda mc: mc.get(5)),  # type: ignore[arg-type]
        (TypeError, lambda mc: mc.set(None, 1)),  # type: ignore[arg-type]
        (TypeError, lambda mc: mc.set("key", 1, time="1")),  # type: ignore[arg-type]
        (TypeError, lambda mc: mc.incr("number", 1.5)),  # type: ignore[arg-type]
        (TypeError, lambda mc: mc.get_multi("key")),
        (TypeError, lambda mc: mc.set_multi(5)),  # type: ignore[arg-type]
        (TypeError, lambda mc: mc.get()),  # type: ignore[call-arg]
        (ValueError, lambda mc: mc.set("key", 1, time=-1)),
        (ValueError, lambda mc: mc.set("key", 1, time=2**31)),
        (ValueError, lambda mc: mc.set("key", "x", compress_level=10)),
        (ValueError, lambda mc: mc.incr("number", -1)),
        (ValueError, lambda mc: mc.touch("key", 2**32)),
        (ValueError, lambda mc: mc.cas("key", 1, -1)),
        (ValueError, lambda mc: mc.flush_all(-5)),
        (ValueError, lambda mc: mc.set_behaviors({"nonsense": 1})),
    ],
    "a value that pickle refuses": [
        (TypeError, lambda mc: mc.set("key", threading.Lock())),  # by pickle itself
        (RuntimeError, lambda mc: mc.set("key", Unpicklable())),
        (RuntimeError, lambda mc: mc.set_multi({"key": [Unpicklable()]})),
        (RuntimeError, lambda mc: mc.cas("key", Unpicklable(), 5)),
        (LookupError, lambda mc: mc.get("unreadable")),
        (LookupError, lambda mc: mc.gets("unreadable")),
        (LookupError, lambda mc: mc.get_multi(["unreadable"])),
    ],
}


@pytest.mark.parametrize("fail_soft", [False, True], ids=["raising", "fail_soft"])
@pytest.mark.parametrize("row", RAISING)
def test_mistake_of_the_caller_raises(
    address: str, row: str, fail_soft: bool, caplog: pytest.LogCaptureFixture
) -> None:
    master = Client([address], {"cas": True}, fail_soft=fail_soft)
    pool = ClientPool(master, 1)
    with pool.reserve() as mc, caplog.at_level(logging.DEBUG, LOGGER):
        for number, (error, wrong) in enumerate(RAISING[row]):
            mc.set_multi({"key": "value", "number": 5, "text": "text"})
            mc.set("unreadable", NotToBeRead())
            with pytest.raises(Exception) as caught:  # noqa: PT011
                wrong(mc)
            assert isinstance(caught.value, error), f"number {number} of {row}"
            assert mc.get("text") == "text"
    assert pool.stats().failures == 0
    assert caplog.records == []


#: What another program may have stored: flags that pylibmc does not know, and no zlib.
UNREADABLE = {"unknown memcached key flags": 3, "Failed to decompress value": 8}


@pytest.mark.parametrize("fail_soft", [False, True], ids=["raising", "fail_soft"])
@pytest.mark.parametrize("allow_pickle", [False, True])
@pytest.mark.parametrize("text", UNREADABLE)
def test_value_of_another_program_that_cannot_be_read_is_no_failure_of_memcached(
    text: str, allow_pickle: bool, fail_soft: bool
) -> None:
    """And the connection is in sync."""
    answer = hostile.value("key", b"value", UNREADABLE[text]) + b"END\r\n"
    with hostile.fake(hostile.answers(answer)) as server:
        mc = Client([server.address], fail_soft=fail_soft, allow_pickle=allow_pickle)
        failures: list[None] = []
        mc.on_connection_failure = lambda: failures.append(None)
        for _ in range(2):
            with pytest.raises(pylibmc.Error, match=text):
                mc.get("key")
        assert server.accepted == 1
    assert not failures


@pytest.mark.parametrize("fail_soft", [False, True], ids=["raising", "fail_soft"])
def test_incr_multi_counts_all_that_are_there(address: str, fail_soft: bool) -> None:
    mc = Client([address], fail_soft=fail_soft)
    mc.set_multi({"one": 1, "two": 2})
    with pytest.raises(pylibmc.NotFound, match="'missing'"):
        mc.incr_multi(["one", "missing", "two", "missing2"], delta=10)
    assert mc.get_multi(["one", "two", "missing"]) == {"one": 11, "two": 12}
    mc.incr_multi(["one", "two"])
    assert mc.get_multi(["one", "two"]) == {"one": 12, "two": 13}


def test_incr_multi_says_that_memcached_failed_even_if_a_key_was_missing_before() -> None:
    """NotFound would mean that the other numbers are incremented."""

    def script(conversation: hostile.Conversation) -> None:
        conversation.request()
        conversation.send(b"NOT_FOUND\r\n")
        conversation.request()

    with hostile.fake(script) as server:
        mc = Client([server.address])
        with pytest.raises(pylibmc.Error, match=server.address) as raised:
            mc.incr_multi(["missing", "one", "two"])
        assert not isinstance(raised.value, pylibmc.NotFound)


@pytest.mark.parametrize("fail_soft", [False, True], ids=["raising", "fail_soft"])
def test_miss_is_no_failure(address: str, fail_soft: bool) -> None:
    pool = ClientPool(Client([address], {"cas": True}, fail_soft=fail_soft), 1)
    with pool.reserve() as mc:
        assert mc.get("missing") is None
        assert mc.gets("missing") == (None, None)
        assert mc.get_multi(["missing"]) == {}
        assert mc.delete("missing") is False
        assert mc.touch("missing", 5) is False
        assert mc.replace("missing", 5) is False
        assert mc.append("missing", "x") is False
        assert mc.delete_multi(["missing"]) is False
        assert mc.set("key", "value") is True
        assert mc.add("key", "value") is False
        assert mc.add_multi({"key": "value"}) == ["key"]
        assert mc.cas("key", "value", 2**62) is False
    assert pool.stats().failures == 0


# -- The table


def test_table_of_the_documentation_has_the_rows_that_are_tested() -> None:
    text = importlib.import_module("mcpool_wsgi.client.client").__doc__
    assert text is not None
    _, _, rows, *_ = re.split(r"^=+ +=+$", text, flags=re.MULTILINE)
    table = dict(re.split(r" {2,}", row, maxsplit=1) for row in rows.strip().splitlines())
    first, *others = ROWS
    assert table == {
        first: "reads are misses; writes return False",
        **dict.fromkeys(others, "the same"),
        **dict.fromkeys(RAISING, "raises"),
    }


@pytest.mark.parametrize("fail_soft", [False, True])
def test_incr_of_a_text_in_binary_is_no_failure(
    real_memcached: Memcached, fail_soft: bool
) -> None:
    """libmemcached does not know the answer, and takes it for a broken server."""
    pool = ClientPool(Client([real_memcached.address], binary=True, fail_soft=fail_soft), 1)
    cache = PooledClient(pool)
    assert cache.set("key", "text")
    for count in (cache.incr, cache.decr):
        with pytest.raises(pylibmc.ClientError, match="'key' is no number"):
            count("key")
    assert cache.get("key") == "text"
    assert pool.stats().failures == 0


@pytest.mark.parametrize("ends", ["breaks off", "says no more"])
@pytest.mark.parametrize("fail_soft", [False, True])
def test_half_an_answer_to_incr_in_binary_is_a_failure(fail_soft: bool, ends: str) -> None:
    """libmemcached says of it what it says of a value that is no number."""

    def half(conversation: hostile.Conversation) -> None:
        request = conversation.request()
        answer = bytearray(b"\x81" + request[1:2] + bytes(22))
        answer[8:12] = (8).to_bytes(4, "big")  # the length of the number, which does not come
        answer[12:16] = request[12:16]
        conversation.send(bytes(answer))
        if ends == "says no more":
            conversation.wait()

    for name in ("incr", "decr", "incr_multi"):
        with hostile.fake(half) as server:
            client = Client([server.address], QUICK, True, fail_soft=fail_soft)
            pool = ClientPool(client, 1)
            count = getattr(PooledClient(pool), name)
            argument = ["key"] if name == "incr_multi" else "key"
            if fail_soft:
                assert not count(argument)
            else:
                with pytest.raises(pylibmc.Error) as caught:
                    count(argument)
                assert not isinstance(caught.value, pylibmc.ClientError)
            assert pool.stats().failures == 1


@pytest.mark.parametrize("fail_soft", [False, True])
def test_incr_at_the_connection_limit_is_one_failure_in_binary(
    fail_soft: bool, tmp_path: Path
) -> None:
    """Another client asks for another key, and fails as well."""
    with too_many_connections_in_binary(tmp_path) as outage:
        mc = Client(outage.servers, outage.behaviors, True, fail_soft=fail_soft)
        notices: list[None] = []
        mc.on_connection_failure = lambda: notices.append(None)
        pool = ClientPool(mc, 1)
        with contextlib.nullcontext() if fail_soft else pytest.raises(pylibmc.Error):
            assert PooledClient(pool).incr("key") is False
        assert (pool.stats().failures, len(notices)) == (1, 1)
        pool.close()


@pytest.mark.parametrize("fail_soft", [False, True])
def test_memcached_without_memory_is_a_failure_in_binary(fail_soft: bool) -> None:
    """The C code says of it what it says if another value is in the way."""
    with hostile.real("-M", "-m", "2") as address:
        pool = ClientPool(Client([address], {"cas": True}, True, fail_soft=fail_soft), 1)
        cache = PooledClient(pool)
        text = Client([address])
        assert cache.set("key", "value")
        _, cas = cache.gets("key")
        value = "x" * 100_000
        with contextlib.suppress(pylibmc.Error):
            for number in range(1000):
                text.set(f"fills{number}", value)
        calls: list[Callable[[], Any]] = [
            lambda: cache.set("other", value),
            lambda: cache.add("other", value),
            lambda: cache.replace("key", value),
            lambda: cache.append("key", value),
            lambda: cache.cas("key", value, cas),
            lambda: cache.set_multi({"other": value}) == [],
            lambda: cache.set_multi({"other": value, "another": value}) == [],
            lambda: cache.add_multi({"other": value, "another": value}) == [],
        ]
        for number, call in enumerate(calls):
            with contextlib.nullcontext() if fail_soft else pytest.raises(pylibmc.Error):
                assert call() is False
            assert pool.stats().failures == number + 1
            assert cache.get("key") == "value"  # the server does not rest
            assert cache.add("key", "small") is False  # another value is in the way
            assert pool.stats().failures == number + 1


@pytest.mark.parametrize("fail_soft", [False, True])
def test_failure_with_a_key_that_pylibmc_cannot_show(fail_soft: bool) -> None:
    key = b"\xc8"  # no UTF-8
    with hostile.fake(storing(hostile.OUT_OF_MEMORY)) as server:
        pool = ClientPool(Client([server.address], QUICK, fail_soft=fail_soft), 1)
        cache = PooledClient(pool)
        calls: list[Callable[[], Any]] = [
            lambda: cache.cas(key, "value", 5),
            lambda: cache.touch(key, 5),
            lambda: cache.delete(key),
            lambda: cache.delete_multi([key]),
        ]
        for number, call in enumerate(calls):
            with contextlib.nullcontext() if fail_soft else pytest.raises(pylibmc.Error):
                assert call() is False
            assert pool.stats().failures == number + 1
