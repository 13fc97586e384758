"""The app uses the cache before the server forks. Then all processes use it at once."""

from __future__ import annotations

import pytest
from harness import Connections, in_threads

from .catalogue import PREFORK, SERVERS
from .conftest import demand
from .launch import running
from .wire import get_json

pytestmark = pytest.mark.servers

READS = 12_000
CLIENTS = 8
BY_NAME = {server.name: server for server in SERVERS}


@pytest.mark.parametrize("name", PREFORK)
def test_no_process_reads_the_answer_for_another(
    name: str, cache: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, command, parent_reads = PREFORK[name]
    demand(BY_NAME[server])
    if parent_reads:
        monkeypatch.setenv("TEST_PARENT_READS", "1")
    with running(BY_NAME[server], cache.address, command=command) as found:
        before = get_json(found.port, "/-/parent")
        answers = read_everywhere(found.port)
        after = get_json(found.port, "/-/parent")
        assert sum(answer["wrong"] for answer in answers) == 0, found.log.read_text()[-2000:]
    assert sum(answer["right"] for answer in answers) >= READS
    assert after["wrong"] == 0
    workers = {answer["pid"] for answer in answers}
    assert len(workers) > 1
    if parent_reads:
        assert after["right"] > before["right"]
    assert (after["parent"] in workers) == (name == "uWSGI without a master")


def read_everywhere(port: int) -> list[dict[str, int]]:
    """The answers that concurrent HTTP clients get, until there are enough reads."""
    answers: list[dict[str, int]] = []

    def ask() -> None:
        while sum(answer["right"] + answer["wrong"] for answer in answers.copy()) < READS:
            answers.append(get_json(port, "/-/read"))

    in_threads([ask] * CLIENTS)
    return answers
