"""The door that all commands pass: which errors leave a connection in sync, and which do not."""

from __future__ import annotations

import contextlib
import time
from typing import Any, Callable

import pylibmc
import pytest
from commands import MANY_KEYS, ONE_KEY
from forking import in_child, succeeds
from harness import Connections
from hostile import Conversation, answers, fake
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupts import interrupted_everywhere, tracing
from mortal import Mortal

from mcpool_wsgi import Client, ClientPool, InvalidKey
from mcpool_wsgi.client import DEFAULT_BEHAVIORS
from mcpool_wsgi.devserver import Memcached


def poison(mc: Any) -> None:
    for key in ("a b", "k1\r\nget k2"):
        with contextlib.suppress(Exception):
            mc.set(key, "x")
        with contextlib.suppress(Exception):
            mc.get(key)


def wrong_answers(mc: Any) -> int:
    """Of 20, after bad keys."""
    mc.set_multi({f"k{number}": number for number in range(20)})
    poison(mc)
    wrong = 0
    for number in range(20):
        try:
            wrong += mc.get(f"k{number}") != number
        except pylibmc.Error:
            wrong += 1
    return wrong


def test_one_bad_key_poisons_a_pylibmc_client_and_not_ours(address: str) -> None:
    def theirs() -> None:
        assert wrong_answers(pylibmc.Client([address])) < 15

    with pytest.raises(AssertionError, match="the child ended with"):
        succeeds(in_child(theirs))  # with libmemcached 1.1, pylibmc aborts it
    assert wrong_answers(Client([address])) == 0


class Unreadable:
    def __reduce__(self) -> Any:
        return (int, ("no number",))


IN_SYNC: dict[str, Callable[[Client], Any]] = {
    "not found": lambda mc: mc.incr("missing"),
    "too big": lambda mc: mc.set("key", b"x" * (1 << 21)),
    "invalid key": lambda mc: mc.set("a b", 1),
    "bad arguments": lambda mc: mc.set("key", 1, "soon"),  # type: ignore[arg-type]
    "unpicklable": lambda mc: mc.set("key", lambda: None),
    "unreadable": lambda mc: mc.get("unreadable"),
    "unreadable of many": lambda mc: mc.get_multi(["k1", "unreadable", "k2"]),
    "unreadable with cas": lambda mc: mc.gets("unreadable"),
}


@pytest.mark.parametrize("error", IN_SYNC)
def test_harmless_error_costs_nothing(
    cas_mc: Client, connections: Connections, error: str
) -> None:
    cas_mc.set_multi({"k1": 1, "k2": 2, "unreadable": Unreadable()})
    before = connections.opened()
    with pytest.raises(Exception):  # noqa: B017, PT011  they have nothing in common
        IN_SYNC[error](cas_mc)
    assert (cas_mc.get("k1"), cas_mc.get("k2")) == (1, 2)
    assert connections.opened() == before


def test_harmless_error_of_one_of_several_servers_costs_nothing() -> None:
    with fake(answers(b"NOT_FOUND\r\n")) as server, fake(answers(b"NOT_FOUND\r\n")) as other:
        mc = Client([server.address, other.address])
        for _ in range(3):
            with pytest.raises(pylibmc.NotFound):
                mc.incr("missing")
        assert server.accepted + other.accepted == 1


def test_error_that_may_harm_costs_a_connection(mc: Client, connections: Connections) -> None:
    mc.set("text", "no number")
    before = connections.opened()
    with pytest.raises(pylibmc.Error):
        mc.incr("text")
    assert mc.get("text") == "no number"
    assert connections.opened() == before + 1


def test_interrupted_command_costs_its_connection(mc: Client, connections: Connections) -> None:
    class Interrupting:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    mc.set("key", 1)
    before = connections.opened()
    with pytest.raises(KeyboardInterrupt):
        mc.set("key", Interrupting())
    assert mc.get("key") == 1
    assert connections.opened() == before + 1


@tracing
@pytest.mark.parametrize("error", [TimeoutError, KeyboardInterrupt])
def test_interrupt_while_a_connection_is_closed_fails_no_later_command(
    mc: Client, error: type[BaseException]
) -> None:
    mc.set("key", 1)

    def check() -> None:
        assert mc.get("key") == 1

    assert interrupted_everywhere(error, mc.disconnect_all, check) > 50


@tracing
def test_interrupt_of_a_command_for_each_server_reaches_the_caller(
    real_memcached: Memcached,
) -> None:
    """Such a command makes clients, and nothing is left to do when they are freed."""
    mc = Client([real_memcached.address], {"no_block": True}, binary=True)

    def check() -> None:
        assert mc.set("key", 1)

    assert interrupted_everywhere(KeyboardInterrupt, mc.get_stats, check) > 200


keys = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=20),
    st.sampled_from([f"k{number}" for number in range(5)]),
    st.sampled_from(["a b", "k1\r\nget k2", "k1 0 0 1\r\nx", "", "x" * 251, b"k1 noreply"]),
)

COMMANDS = ["set", "get", "get_multi", "set_multi", "delete", "incr"]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(commands=st.lists(st.tuples(st.sampled_from(COMMANDS), keys), max_size=40))
def test_every_read_returns_what_was_stored_under_that_key(
    server_connections: Connections, commands: list[tuple[str, Any]]
) -> None:
    server_connections.mc.flush_all()
    stored: dict[bytes, Any] = {}
    pool = ClientPool(Client([server_connections.address]), 2)
    for number, (command, key) in enumerate(commands):
        value = ("value", number)
        with pool.reserve() as mc:
            try:
                raw = key.encode() if isinstance(key, str) else key
                if command == "set":
                    if mc.set(key, value):
                        stored[raw] = value
                elif command == "set_multi":
                    if not mc.set_multi({key: value}, key_prefix=""):
                        stored[raw] = value
                elif command == "get":
                    assert mc.get(key) == stored.get(raw)
                elif command == "get_multi":
                    found = mc.get_multi([key])
                    assert found == ({key: stored[raw]} if raw in stored else {})
                elif command == "delete":
                    assert mc.delete(key) is (stored.pop(raw, None) is not None)
                else:
                    mc.incr(key)
            except (InvalidKey, UnicodeEncodeError, pylibmc.Error):
                continue
    with pool.reserve() as mc:
        for raw, value in stored.items():
            assert mc.get(raw) == value


@pytest.mark.servers
@pytest.mark.parametrize("command", ["get", "set", "get_multi", "incr", "delete"])
def test_stopped_memcached_holds_a_command_no_longer_than_the_limit(
    mortal: Mortal, command: str
) -> None:
    limit = DEFAULT_BEHAVIORS["_poll_timeout"] / 1000
    mc = Client([mortal.address], {"retry_timeout": 60})
    mc.set("key", 1)
    mortal.stop()
    run = {**ONE_KEY, **MANY_KEYS}[command]
    for _ in range(3):
        began = time.monotonic()
        with contextlib.suppress(pylibmc.Error):
            run(mc, "key")
        assert time.monotonic() - began < limit + 0.4
    if pylibmc.libmemcached_version == "1.0.16":  # later ones wait each time
        with pytest.raises(pylibmc.ServerDown):
            mc.get("key")


def test_answer_that_does_not_end_costs_its_connection() -> None:
    """pylibmc says so by a RuntimeError."""

    def two_values(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(b"VALUE key 0 5 1\r\nvalue\r\nVALUE key 0 5 2\r\nother\r\nEND\r\n")
        conversation.request()
        conversation.send(b"END\r\n")
        conversation.wait()

    with fake(two_values) as server:
        mc = Client([server.address], {"cas": True})
        with contextlib.suppress(RuntimeError, pylibmc.Error):
            mc.gets("key")
        with contextlib.suppress(RuntimeError, pylibmc.Error):
            mc.gets("key")
        assert server.accepted == 2
