"""Reads that pylibmc answers with a miss, although no server has said so."""

from __future__ import annotations

import contextlib
import errno
import functools
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable

import hostile
import pylibmc
import pytest
from forking import in_child, succeeds
from harness import has_libmemcached_1_1, signal_handler, skip_if_not_spoken
from mortal import Mortal
from refusing import refuse_sockets, skip_if_sockets_cannot_be_refused

from mcpool_wsgi import Client
from mcpool_wsgi.client import is_timeout, silent_errors

BEHAVIORS = {"cas": True, "_poll_timeout": 100}
READS: dict[str, Callable[[Any], Any]] = {
    "get": lambda mc: mc.get("key"),
    "gets": lambda mc: mc.gets("key"),
    "get_multi": lambda mc: mc.get_multi(["key", "other"]),
}
COUNTS: dict[str, Callable[[Any], Any]] = {
    "incr": lambda mc: mc.incr("key"),
    "decr": lambda mc: mc.decr("key"),
    "incr_multi": lambda mc: mc.incr_multi(["key", "other"]),
}
STORES: dict[str, Callable[[Any], Any]] = {
    "set": lambda mc: mc.set("key", "value"),
    "add": lambda mc: mc.add("other", "value"),
    "replace": lambda mc: mc.replace("key", "value"),
    "append": lambda mc: mc.append("key", "value"),
    "prepend": lambda mc: mc.prepend("key", "value"),
    "set_multi": lambda mc: mc.set_multi({"key": "value"}),
    "add_multi": lambda mc: mc.add_multi({"other": "value"}),
}
SILENCES = {
    "time-out": (hostile.silent, "TIMEOUT"),
    "closed": (hostile.answers_once(b""), "get"),
    "server error": (hostile.answers(b"SERVER_ERROR busy\r\n"), "SERVER"),
}


@pytest.mark.slow
@pytest.mark.parametrize("silence", SILENCES)
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("binary", [False, True])
def test_read_that_was_not_answered_is_an_error(silence: str, read: str, binary: bool) -> None:
    script, text = SILENCES[silence]
    with hostile.fake(script) as server:
        mc = Client([server.address], BEHAVIORS, binary)
        with pytest.raises(pylibmc.Error, match="." if binary else text) as caught:
            READS[read](mc)
    assert server.address in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("silence", SILENCES)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("binary", [False, True])
def test_error_of_a_count_says_why_it_failed(silence: str, count: str, binary: bool) -> None:
    with hostile.fake(SILENCES[silence][0]) as server:
        mc = Client([server.address], BEHAVIORS, binary)
        with pytest.raises(pylibmc.Error, match=server.address) as caught:
            COUNTS[count](mc)
    assert "keys failed" not in str(caught.value)
    assert is_timeout(caught.value) or silence != "time-out"


@pytest.mark.servers
@pytest.mark.parametrize("binary", [False, True])
def test_without_memory_for_a_connection_storing_is_an_error(
    address: str, embedded: bool, binary: bool
) -> None:
    """pylibmc returns what it returns if another value is in the way."""
    skip_if_not_spoken(binary, embedded)
    skip_if_sockets_cannot_be_refused()
    warm = Client([address])
    warm.set("key", "value")
    clients = {name: Client([address], BEHAVIORS, binary) for name in STORES}
    soft = {name: Client([address], BEHAVIORS, binary, fail_soft=True) for name in STORES}

    def work() -> None:
        warm.get("key")  # so that the child's watchdog runs
        refuse_sockets(errno.ENOMEM)
        failures: list[str] = []
        for name, store in STORES.items():
            with pytest.raises(pylibmc.Error, match=address):
                store(clients[name])
            soft[name].on_connection_failure = functools.partial(failures.append, name)
            assert store(soft[name]) in (False, ["key"], ["other"])
        assert failures == [*STORES]

    succeeds(in_child(work))


@pytest.mark.slow
@pytest.mark.parametrize("binary", [False, True])
def test_flush_all_that_was_not_answered_is_an_error(binary: bool) -> None:
    with hostile.fake(hostile.silent) as server:
        mc = Client([server.address], BEHAVIORS, binary)
        with pytest.raises(pylibmc.Error, match=server.address):
            mc.flush_all()
        soft = Client([server.address], BEHAVIORS, binary, fail_soft=True)
        assert soft.flush_all() is False


@pytest.mark.slow
@pytest.mark.parametrize("read", READS)
def test_with_fail_soft_it_is_a_miss_that_is_counted(read: str) -> None:
    failures: list[bool] = []
    with hostile.fake(hostile.silent) as server:
        mc = Client([server.address], BEHAVIORS, fail_soft=True)
        mc.on_connection_failure = lambda: failures.append(True)
        assert READS[read](mc) in (None, (None, None), {})
    assert failures == [True]


@contextlib.contextmanager
def signals(interval: float) -> Iterator[list[int]]:
    """A signal each *interval* of seconds, whose handler does nothing."""
    seen: list[int] = []
    with signal_handler(signal.SIGALRM, lambda number, frame: seen.append(number)):
        signal.setitimer(signal.ITIMER_REAL, interval, interval)
        try:
            yield seen
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


@pytest.mark.slow
@pytest.mark.parametrize("read", ["get", "get_multi"])  # gets raises an error of its own
@pytest.mark.parametrize("binary", [False, True])
def test_signals_during_a_read_of_one_server_do_not_make_it_a_miss(
    address: str, embedded: bool, read: str, binary: bool
) -> None:
    skip_if_not_spoken(binary, embedded)
    with hostile.proxy(address) as slow:
        mc = Client([slow.address], {**BEHAVIORS, "_poll_timeout": 500}, binary)
        mc.set_multi({"key": "value", "other": "more"})
        slow.delay = 0.01
        with signals(0.03) as seen:
            while len(seen) < 20:
                found = READS[read](mc)
                assert found == {"key": "value", "other": "more"} or "value" in found, found


@pytest.mark.slow
@pytest.mark.parametrize("binary", [False, True])
def test_read_of_several_servers_that_a_signal_ended_is_sent_again(
    address: str, embedded: bool, binary: bool
) -> None:
    """libmemcached gives up at the first signal if it waits for two servers."""
    skip_if_not_spoken(binary, embedded)
    values = {f"key{number}": "value" for number in range(20)}
    with hostile.proxy(address) as one, hostile.proxy(address) as other, signals(60) as seen:
        mc = Client([one.address, other.address], {**BEHAVIORS, "_poll_timeout": 500}, binary)
        assert mc.set_multi(values) == []
        one.delay = other.delay = 0.03
        for number in range(1, 6):
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            found = mc.get_multi(values)
            assert found
            assert found.items() <= values.items()
            assert len(seen) == number


@pytest.mark.slow
@pytest.mark.parametrize("binary", [False, True])
def test_get_multi_of_several_servers_that_are_late_at_once_is_sent_again(
    address: str, embedded: bool, binary: bool
) -> None:
    """libmemcached says nothing if it has waited for two servers in vain."""
    skip_if_not_spoken(binary, embedded)
    values = {f"key{number}": "value" for number in range(20)}
    behaviors = {**BEHAVIORS, "_poll_timeout": 300}
    with hostile.proxy(address) as one, hostile.proxy(address) as other:
        mc = Client([one.address, other.address], behaviors, binary, command_timeout=3)
        assert mc.set_multi(values) == []
        failures: list[bool] = []
        mc.on_connection_failure = lambda: failures.append(True)

        def go_on() -> None:
            one.delay = other.delay = 0

        for _ in range(3):
            one.delay = other.delay = 0.4
            timer = threading.Timer(0.1, go_on)
            timer.start()
            with contextlib.suppress(pylibmc.Error):
                assert mc.get_multi(values) == values or failures
            timer.join()


def test_partial_answer_of_several_servers_is_kept_with_fail_soft(address: str) -> None:
    keys = [f"key{number}" for number in range(20)]
    with hostile.fake(hostile.silent) as silent:
        servers = [address, silent.address]
        mc = Client(servers, BEHAVIORS, fail_soft=True)
        failures: list[bool] = []
        mc.on_connection_failure = lambda: failures.append(True)
        Client([address]).set_multi(dict.fromkeys(keys, "value"))
        found = mc.get_multi(keys)
        assert 0 < len(found) < len(keys)
        assert failures == [True]
        with pytest.raises(pylibmc.Error):
            Client(servers, BEHAVIORS).get_multi(keys)


@pytest.mark.servers
def test_without_the_function_a_read_that_was_not_answered_is_a_miss(
    mortal: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    if has_libmemcached_1_1():
        pytest.skip("pylibmc raises the time-out")
    monkeypatch.setattr(silent_errors, "calibrated", lambda: None)
    mc = Client([mortal.address], BEHAVIORS)
    assert mc.get("key") is None  # the first miss of a connection is asked again
    mortal.stop()
    try:
        assert mc.get("key") is None
    finally:
        mortal.go_on()


CLOSES: dict[str, Callable[[Client], None]] = {
    "disconnect_all": lambda mc: mc.disconnect_all(),
    "a behavior of the socket": lambda mc: mc.set_behaviors({"tcp_nodelay": False}),
}


@pytest.mark.parametrize("closes", CLOSES)
@pytest.mark.parametrize("read", READS)
def test_first_miss_of_a_connection_is_asked_again(read: str, closes: str) -> None:
    """If memcached has too many connections, its answer is taken for a miss."""
    requests: list[bytes] = []

    def script(conversation: hostile.Conversation) -> None:
        while request := conversation.request():
            if request.startswith(b"get"):  # and no quit
                requests.append(request)
                conversation.send(b"END\r\n")

    with hostile.fake(script) as server:
        mc = Client([server.address], BEHAVIORS)
        for connection in (1, 2):
            for _ in range(3):
                assert READS[read](mc) in (None, (None, None), {})
            assert server.accepted == connection
            assert len(requests) == 4 * connection
            CLOSES[closes](mc)


@pytest.mark.parametrize("read", READS)
def test_miss_at_one_server_says_nothing_of_another(read: str) -> None:
    asked: dict[str, set[bytes]] = {"roomy": set(), "full": set()}
    is_full = False

    def script(name: str, conversation: hostile.Conversation) -> None:
        while request := conversation.request():
            asked[name].update(request.split()[1:])
            if is_full and name == "full":
                conversation.send(b"ERROR Too many open connections\r\n")
                return
            conversation.send(b"END\r\n")

    with ExitStack() as servers:
        addresses = [
            servers.enter_context(hostile.fake(functools.partial(script, name))).address
            for name in asked
        ]
        first = Client(addresses, BEHAVIORS)
        for number in range(30):
            assert first.get(f"key{number}") is None
        is_full = True
        mc = Client(addresses, BEHAVIORS)
        assert mc.get(min(asked["roomy"])) is None
        key = min(asked["full"])
        with pytest.raises(pylibmc.Error):
            mc.get_multi([key]) if read == "get_multi" else getattr(mc, read)(key)


@pytest.mark.parametrize(
    "answer", [b"CLIENT_ERROR bad\r\n", b"SERVER_ERROR busy\r\n", b"NONSENSE\r\n"], ids=ascii
)
def test_error_in_the_last_part_of_a_get_multi_is_nobody_elses_answer(answer: bytes) -> None:
    """It ends with a get at several servers, which may fail as every other."""
    connections: list[hostile.Conversation] = []

    def script(conversation: hostile.Conversation) -> None:
        connections.append(conversation)
        for number in range(3):
            conversation.request()
            if number == 2 and conversation is connections[0]:
                conversation.send(answer + hostile.value("key", b"of another") + b"END\r\n")
            else:
                conversation.send(b"END\r\n")
        conversation.wait()

    with hostile.fake(script) as one, hostile.fake(script) as other:
        mc = Client([one.address, other.address], BEHAVIORS)
        failures: list[bool] = []
        mc.on_connection_failure = lambda: failures.append(True)
        assert mc.get_multi(["key"]) == {}
        assert mc.get("key") is None
        assert len(connections) == 2
    assert failures == [True]


def test_values_that_ask_the_client_while_they_are_read(address: str) -> None:
    """Each such command closes the connection, so the miss beside them is always a first one."""

    class Serializer:
        loaded = 0

        def dumps(self, value: object) -> str:
            return str(value)

        def loads(self, data: object) -> object:
            self.loaded += 1
            return mc.get("other")

    serializer = Serializer()
    mc = Client([address], serializer=serializer)
    assert mc.set("key", [1])
    assert mc.set("other", "value")
    assert mc.get_multi(["key", "missing"]) == {"key": "value"}
    assert serializer.loaded < 5
