"""Many connections and few clients. Each request gets its own value or a 503."""

from __future__ import annotations

import time
from functools import partial

import pytest
from harness import eventually, in_threads

from .catalogue import HOLD, HURRIED_TIMEOUT
from .launch import Running
from .wire import Connection, Response

pytestmark = pytest.mark.servers

SECONDS = 2.0
PATIENCE = 15.0  # seconds to wait for a byte, because the server has others to serve


class Load:
    """The responses to concurrent connections that ask for values of their own."""

    def __init__(self, port: int, path: str, connections: int) -> None:
        self.port, self.path = port, path
        self.right = 0
        self.wrong: list[Response] = []
        self.end = time.monotonic() + SECONDS
        in_threads([partial(self.ask, number) for number in range(connections)])
        self.refused = [response for response in self.wrong if response.status == 503]
        self.wrong = [response for response in self.wrong if response.status != 503]

    def ask(self, number: int) -> None:
        turn = 0
        while time.monotonic() < self.end:
            with Connection(self.port, PATIENCE) as connection:
                fresh = True
                while time.monotonic() < self.end:
                    turn += 1
                    key, value = f"key{number}-{turn % 5}", f"value{number}-{turn}"
                    connection.send(f"{self.path}?key={key}&value={value}")
                    response = connection.response()
                    if not (response.head or fresh):
                        break  # the server closed a connection that was idle
                    fresh = False
                    if response.status == 200 and response.payload == repr(value).encode():
                        self.right += 1
                    else:
                        self.wrong.append(response)
                    if response.ending != "?" or not response.keeps_open:
                        break


def test_each_request_gets_its_own_value(server: Running) -> None:
    load = Load(server.port, "/busy/remember", server.server.connections)
    assert not load.wrong
    assert load.right >= server.server.connections
    if server.server.concurrency != "loop":  # no wait reaches the timeout
        assert not load.refused
    eventually(lambda: server.stats("busy")["in_use"] == 0)


def test_503_comes_after_the_timeout(server: Running) -> None:
    before = server.stats("hurried")
    one_by_one = int(SECONDS / HOLD)  # the most that the server can serve
    connections = server.server.connections
    if not server.server.waits:
        connections = min(connections, one_by_one)
    load = Load(server.port, "/hurried/hold", connections)
    assert not load.wrong
    assert load.right
    after = server.stats("hurried")
    assert after["timeouts"] - before["timeouts"] == len(load.refused)
    for response in load.refused:
        assert response.header("Retry-After") == "1"
        waited = float(response.header("X-Waited") or "nan")
        if server.server.waits:
            assert HURRIED_TIMEOUT <= waited < HURRIED_TIMEOUT + 1
        else:
            assert waited < HURRIED_TIMEOUT / 2
    if server.server.waits:
        assert load.refused, "there are more threads than slots"
    eventually(lambda: server.stats("hurried")["in_use"] == 0)
