"""Every request releases its client, however it ends. No connection is lost."""

from __future__ import annotations

import contextlib
from typing import Callable

import pytest
from harness import DEADLINE, Connections, eventually

from .catalogue import SLOTS
from .launch import Running
from .wire import Connection, get

pytestmark = pytest.mark.servers

TIMES = 12  # of each request; more than the slots, and over 200 in total


def whole(port: int, app: str, method: str = "GET") -> None:
    """A request whose response is read to its end."""
    get(port, f"/wrapped/{app}", method)


def reset_in_the_middle(port: int) -> None:
    """The HTTP client resets the connection while the server sends."""
    # A busy server takes seconds to notice the resets of the last requests, which have all slots.
    with Connection(port, DEADLINE) as connection:
        connection.send("/wrapped/stream")
        connection.receive()
        connection.reset()


def reset_at_once(port: int) -> None:
    """The HTTP client resets the connection before the response begins."""
    with Connection(port) as connection:
        connection.send("/wrapped/file_with_length")
        connection.reset()


WAYS: dict[str, Callable[[int], None]] = {
    "a list": lambda port: whole(port, "one_item"),
    "a tuple": lambda port: whole(port, "one_item_tuple"),
    "bytes alone": lambda port: whole(port, "bytes_alone"),
    "an empty list": lambda port: whole(port, "no_item"),
    "no content": lambda port: whole(port, "no_content"),
    "a generator": lambda port: whole(port, "generator"),
    "a generator that calls start_response": lambda port: whole(port, "lazy_generator"),
    "write": lambda port: whole(port, "write"),
    "a file": lambda port: whole(port, "file"),
    "a file with a length": lambda port: whole(port, "file_with_length"),
    "a file in memory": lambda port: whole(port, "file_in_memory"),
    "an error": lambda port: whole(port, "raises"),
    "an error in the first chunk": lambda port: whole(port, "raises_at_first_chunk"),
    "an error in a later chunk": lambda port: whole(port, "raises_at_later_chunk"),
    "an error in close()": lambda port: whole(port, "raises_in_close"),
    "an early release": lambda port: whole(port, "early_release"),
    "start_response never called": lambda port: whole(port, "start_response_never_called"),
    "None": lambda port: whole(port, "none"),
    "HEAD of a list": lambda port: whole(port, "one_item", "HEAD"),
    "HEAD of a generator": lambda port: whole(port, "generator", "HEAD"),
    "HEAD of a file": lambda port: whole(port, "file_with_length", "HEAD"),
    "a reset in the middle": reset_in_the_middle,
}


@pytest.mark.parametrize("way", WAYS)
def test_client_is_released(server: Running, way: str) -> None:
    before = server.stats("wrapped")
    for _ in range(TIMES):
        WAYS[way](server.port)
    eventually(lambda: server.stats("wrapped")["in_use"] == 0, f"released after {way}")
    after = server.stats("wrapped")
    assert after["reservations"] == before["reservations"] + TIMES
    assert after["timeouts"] == before["timeouts"]
    assert after["clients_renewed"] == before["clients_renewed"]


def test_reset_at_once_loses_no_client(server: Running) -> None:
    for _ in range(TIMES):
        with contextlib.suppress(ConnectionError):
            reset_at_once(server.port)
    eventually(lambda: server.stats("wrapped")["in_use"] == 0)


@pytest.mark.parametrize("kind", ["file", "generator"])
def test_app_can_use_its_client_in_close(server: Running, cache: Connections, kind: str) -> None:
    for number in range(3):
        get(server.port, f"/wrapped/{kind}_using_its_client_at_close?{kind}{number}")
        eventually(lambda: cache.mc.get("closed") == f"{kind}{number}")  # noqa: B023
    eventually(lambda: server.stats("wrapped")["in_use"] == 0)


def test_requests_leave_nothing_in_the_environ(server: Running) -> None:
    for _ in range(2):
        for way in WAYS:
            WAYS[way](server.port)
    assert server.report()["leftovers"] == []


def test_connections_to_memcached_do_not_grow(server: Running, cache: Connections) -> None:
    for _ in range(11):
        for way in WAYS:
            WAYS[way](server.port)
    eventually(lambda: server.stats("wrapped")["in_use"] == 0)
    assert server.stats("wrapped")["size"] <= SLOTS
    eventually(
        lambda: cache.count() <= sum(pool["size"] for pool in server.report()["pools"].values()),
        "no more connections than clients",
    )
