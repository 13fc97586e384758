"""Waiting for a client never keeps the one from going on who has it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from harness import eventually, in_threads

from .catalogue import SERVERS, TIMEOUT
from .launch import Running
from .wire import Connection, Response, get

pytestmark = pytest.mark.servers


@pytest.fixture
def holder(server: Running) -> Iterator[Connection]:
    """A response on its way, and nobody reads on: it has the only client of its pool."""
    with Connection(server.port) as connection:
        connection.send("/narrow/stream")
        connection.receive()
        eventually(lambda: server.stats("narrow")["in_use"] == 1)
        yield connection
    eventually(lambda: server.stats("narrow")["in_use"] == 0)


def those_with(*concurrency: str) -> pytest.MarkDecorator:
    chosen = [server for server in SERVERS if server.concurrency in concurrency]
    return pytest.mark.parametrize(
        "server", chosen, ids=lambda server: server.name, indirect=True, scope="session"
    )


def test_server_says_whether_it_has_threads(server: Running) -> None:
    report = server.report()
    assert report["multithread"] == server.server.multithread
    assert report["multiprocess"] == server.server.multiprocess


@those_with("loop")
def test_no_wait_where_it_would_stop_everything(server: Running, holder: Connection) -> None:
    began = time.monotonic()
    assert get(server.port, "/narrow/one_item").status == 503
    assert time.monotonic() - began < TIMEOUT / 5
    assert holder.receive(), "the response that has the client goes on"


@those_with("threads", "greenlets")
def test_wait_where_others_go_on(server: Running, holder: Connection) -> None:
    responses: list[Response] = []

    def wait() -> None:
        responses.append(get(server.port, "/narrow/one_item", patience=TIMEOUT))

    def free() -> None:
        eventually(lambda: server.stats("narrow")["waiting"] == 1)
        holder.reset()

    in_threads([wait, free])
    assert responses[0].status == 200
    assert responses[0].payload == b"hello"
