"""A request that waits for a client never blocks the request that has it."""

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
    """A response that nobody reads further. It has the only client of its pool."""
    with Connection(server.port) as connection:
        connection.send("/narrow/stream")
        connection.receive()
        eventually(lambda: server.stats("narrow")["in_use"] == 1)
        yield connection
    eventually(lambda: server.stats("narrow")["in_use"] == 0)


def servers_with(*concurrency: str) -> pytest.MarkDecorator:
    chosen = [server for server in SERVERS if server.concurrency in concurrency]
    return pytest.mark.parametrize(
        "server", chosen, ids=lambda server: server.name, indirect=True, scope="session"
    )


def test_environ_says_whether_the_server_has_threads(server: Running) -> None:
    report = server.report()
    assert report["multithread"] == server.server.multithread
    assert report["multiprocess"] == server.server.multiprocess


@servers_with("loop")
def test_request_does_not_wait_if_that_blocks_all_others(
    server: Running, holder: Connection
) -> None:
    began = time.monotonic()
    assert get(server.port, "/narrow/one_item").status == 503
    assert time.monotonic() - began < TIMEOUT / 5
    assert holder.receive(), "the response that has the client continues"


@servers_with("threads", "greenlets")
def test_request_waits_if_others_continue(server: Running, holder: Connection) -> None:
    responses: list[Response] = []

    def wait() -> None:
        responses.append(get(server.port, "/narrow/one_item", patience=TIMEOUT))

    def end() -> None:
        eventually(lambda: server.stats("narrow")["waiting"] == 1)
        holder.reset()

    in_threads([wait, end])
    assert responses[0].status == 200
    assert responses[0].payload == b"hello"


@servers_with("threads", "greenlets", "loop")
def test_client_released_early_serves_another_request(server: Running) -> None:
    with Connection(server.port) as connection:
        connection.send("/narrow/stream_after_release")
        assert connection.receive()
        eventually(lambda: server.stats("narrow")["in_use"] == 0)
        response = get(server.port, "/narrow/one_item")
        assert (response.status, response.payload) == (200, b"hello")
        assert connection.receive(), "the stream continues"
