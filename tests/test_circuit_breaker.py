"""What the clients of a pool tell each other if their server hangs."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable

import pylibmc
import pytest
from forking import FORKS, succeeds
from harness import clock, in_threads
from mortal import Mortal

from mcpool_wsgi import Client, ClientPool, ThreadMappedPool
from mcpool_wsgi.client import circuit_breaker, is_timeout
from mcpool_wsgi.client.failures import ServerResting
from mcpool_wsgi.devserver import memcached

pytestmark = pytest.mark.servers

WORKS, TIMEOUT, AT_ONCE = "works", "waits in vain", "fails at once"
#: A wait in vain is short, and a server that failed is not tried again during the test.
BEHAVIORS = {"_poll_timeout": 200, "connect_timeout": 200, "retry_timeout": 60}


def outcome(mc: Any) -> str:
    """What becomes of a command of *mc*."""
    try:
        mc.get("key")
    except ServerResting:
        return AT_ONCE
    except pylibmc.Error as error:
        return TIMEOUT if is_timeout(error) else type(error).__name__
    return WORKS


def outcomes(*clients: Any) -> list[str]:
    return [outcome(mc) for mc in clients]


def outcomes_at_once(*clients: Any) -> list[str]:
    """The same, of commands that are given at the same time."""
    found: list[str] = []
    in_threads([functools.partial(lambda mc: found.append(outcome(mc)), mc) for mc in clients])
    return found


@pytest.fixture
def pool(mortal: Mortal) -> ClientPool:
    return ClientPool(Client([mortal.address], BEHAVIORS), 8)


@pytest.fixture
def clients(pool: ClientPool) -> Iterator[list[Any]]:
    """Six that are reserved and connected."""
    with ExitStack() as reservations:
        clients = [reservations.enter_context(pool.reserve()) for _ in range(6)]
        assert outcomes(*clients) == [WORKS] * 6
        yield clients


@pytest.fixture
def skip(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Puts the clock of the breaker forward."""
    return clock(circuit_breaker, monkeypatch)


def test_two_commands_wait_for_a_server_that_hangs(
    mortal: Mortal, pool: ClientPool, clients: list[Any]
) -> None:
    mortal.stop()
    assert outcomes(*clients) == [TIMEOUT] * 2 + [AT_ONCE] * 4
    with pool.reserve() as mc:  # it is new
        assert outcome(mc) == AT_ONCE
    with pytest.raises(
        ServerResting, match=rf"{mortal.address} did not answer in time, less than"
    ):
        clients[5].set("key", "value")
    assert pool.stats().failures == 8


def test_client_with_behaviors_of_its_own_is_told(mortal: Mortal, clients: list[Any]) -> None:
    clients[4].behaviors["cas"] = True
    mortal.stop()
    assert outcomes(*clients[:2]) == [TIMEOUT] * 2
    clients[5].behaviors["cas"] = True
    assert outcomes(*clients[4:]) == [AT_ONCE] * 2


def test_clients_of_threads_are_told(mortal: Mortal) -> None:
    pool = ThreadMappedPool(Client([mortal.address], BEHAVIORS))
    found = []

    def use() -> None:
        with pool.reserve() as mc:
            found.append(outcome(mc))

    in_threads([use])
    mortal.stop()
    for _ in range(4):
        in_threads([use])
    assert found == [WORKS, TIMEOUT, TIMEOUT, AT_ONCE, AT_ONCE]


def test_one_client_tries_the_server_after_a_while(
    mortal: Mortal, clients: list[Any], skip: Callable[[float], None]
) -> None:
    mortal.stop()
    assert outcomes(*clients[:2]) == [TIMEOUT] * 2
    for _ in range(2):
        skip(60)
        assert sorted(outcomes_at_once(*clients[2:])) == sorted([TIMEOUT] + [AT_ONCE] * 3)


def test_answer_ends_it_for_all(
    mortal: Mortal, pool: ClientPool, clients: list[Any], skip: Callable[[float], None]
) -> None:
    mortal.stop()
    assert outcomes(*clients) == [TIMEOUT] * 2 + [AT_ONCE] * 4
    mortal.go_on()
    assert outcomes(*clients[2:]) == [AT_ONCE] * 4
    skip(60)
    assert outcomes(*clients[2:]) == [WORKS] * 4
    with pool.reserve() as mc:
        assert outcome(mc) == WORKS


def test_one_command_that_is_late_is_no_reason(mortal: Mortal, clients: list[Any]) -> None:
    for late, in_time in ((0, 3), (1, 4), (2, 5)):
        mortal.stop()
        assert outcome(clients[late]) == TIMEOUT
        mortal.go_on()
        assert outcome(clients[in_time]) == WORKS


def test_lost_connection_is_no_reason(mortal: Mortal, clients: list[Any]) -> None:
    mortal.kill()
    assert AT_ONCE not in outcomes(*clients)
    mortal.start()
    assert outcome(clients[0].clone()) == WORKS
    assert AT_ONCE not in outcomes(*clients[1:])


def test_other_servers_are_tried_at_once(
    mortal: Mortal, pool: ClientPool, clients: list[Any]
) -> None:
    mortal.stop()
    assert outcomes(*clients[:3]) == [TIMEOUT] * 2 + [AT_ONCE]
    with memcached() as other:
        pool.set_servers([other.address])
        with pool.reserve() as mc:
            assert outcome(mc) == WORKS


@pytest.mark.parametrize("fork", FORKS)
def test_child_tries_the_server_for_itself(
    fork: Any, mortal: Mortal, pool: ClientPool, clients: list[Any]
) -> None:
    mortal.stop()
    assert outcomes(*clients[:3]) == [TIMEOUT] * 2 + [AT_ONCE]
    mortal.go_on()

    def work() -> None:
        with pool.reserve() as mc:
            assert outcome(mc) == WORKS

    succeeds(fork(work))
