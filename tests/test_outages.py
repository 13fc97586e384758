"""The two log lines of an outage."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from typing import Any, Callable

import hostile
import pylibmc
import pytest
from forking import FORKS, succeeds
from harness import clock, eventually, in_spite_of_errors
from interrupts import Interrupt, tracing
from mortal import Mortal

from mcpool_wsgi import Client, ClientPool, CommandEvent, PooledClient
from mcpool_wsgi.pool import outages

pytestmark = pytest.mark.servers


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [
        (record.levelno, record.getMessage())
        for record in caplog.records
        if record.name == "mcpool_wsgi.pool" and record.levelno > logging.DEBUG
    ]


@pytest.fixture
def cache(mortal: Mortal) -> PooledClient:
    """One client, of a server that can be killed."""
    return PooledClient(ClientPool(Client([mortal.address]), 1))


def works(cache: PooledClient, key: str = "key") -> bool:
    return bool(in_spite_of_errors(cache.set, key, 1))


@pytest.mark.parametrize("fail_soft", [False, True])
def test_outage_is_two_lines(
    mortal: Mortal, caplog: pytest.LogCaptureFixture, fail_soft: bool
) -> None:
    caplog.set_level(logging.DEBUG, "mcpool_wsgi")
    cache = PooledClient(
        ClientPool(Client([mortal.address], fail_soft=fail_soft), 4, name="sessions")
    )
    assert works(cache)
    mortal.kill()
    failures = sum(not works(cache) for _ in range(100))
    assert failures == 100
    ((level, begin),) = lines(caplog)
    assert level == logging.WARNING
    assert re.match(rf"sessions: memcached {mortal.address} fails: \w+: .*CONNECTION", begin)
    mortal.start()
    while not works(cache):
        failures += 1
    level, end = lines(caplog)[-1]
    assert level == logging.INFO
    found = re.fullmatch(
        rf"sessions: memcached {mortal.address} answers again after ([\d.]+) s,"
        r" (\d+) commands failed",
        end,
    )
    assert found
    assert int(found[2]) == failures == cache.pool.stats().failures
    assert len(lines(caplog)) == 2


@pytest.mark.parametrize(
    "command",
    [
        lambda cache: cache.get(""),
        lambda cache: cache.set("", 1),
        lambda cache: cache.get_multi([]),
        lambda cache: cache.set_multi({}),
        lambda cache: cache.set("key", threading.Lock()),
        lambda cache: cache.disconnect_all(),
    ],
)
def test_command_that_nobody_answers_does_not_end_it(
    caplog: pytest.LogCaptureFixture, command: Callable[[PooledClient], object]
) -> None:
    caplog.set_level(logging.INFO, "mcpool_wsgi")
    with hostile.refusing() as address:
        mc = Client([address], {"retry_timeout": 1}, fail_soft=True)
        cache = PooledClient(ClientPool(mc, 1))
        ended: list[CommandEvent] = []
        cache.pool.observe(ended.append)
        cache.get("key")
        eventually(lambda: not resting(cache, command, ended))
        assert len(lines(caplog)) == 1


def resting(
    cache: PooledClient, command: Callable[[PooledClient], object], ended: list[CommandEvent]
) -> bool:
    """Do *command*; whether the client refused it, because its server has failed just now."""
    ended.clear()
    with contextlib.suppress(TypeError):
        command(cache)
    return any(event.outcome == "failure" for event in ended)


@pytest.fixture
def skip(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Puts the clock of the outages forward."""
    return clock(outages, monkeypatch)


def test_outage_that_begins_again_at_once_is_the_same_one(
    mortal: Mortal,
    cache: PooledClient,
    caplog: pytest.LogCaptureFixture,
    skip: Callable[[float], None],
) -> None:
    caplog.set_level(logging.INFO, "mcpool_wsgi")
    works(cache)
    for number in range(3):
        mortal.kill()
        assert not works(cache)
        mortal.start()
        eventually(lambda: works(cache))
        assert len(lines(caplog)) == 2, number
    skip(outages.SAME_OUTAGE)
    assert works(cache)
    assert len(lines(caplog)) == 3
    # Each line counts what has failed since the line before it.
    counts = [int(line.split()[-3]) for _, line in lines(caplog)[1:]]
    assert sum(counts) == cache.pool.stats().failures


def test_outage_that_begins_again_and_goes_on_is_logged(
    mortal: Mortal,
    cache: PooledClient,
    caplog: pytest.LogCaptureFixture,
    skip: Callable[[float], None],
) -> None:
    """Otherwise the last line says that memcached answers, however long it is down."""
    caplog.set_level(logging.INFO, "mcpool_wsgi")
    mortal.kill()
    assert not works(cache)
    mortal.start()
    eventually(lambda: works(cache))
    mortal.kill()
    assert not works(cache)
    assert "answers again" in lines(caplog)[-1][1]
    skip(outages.SAME_OUTAGE)
    eventually(lambda: not works(cache) and len(lines(caplog)) > 2)
    assert sum(works(cache) for _ in range(100)) == 0
    level, line = lines(caplog)[2]
    assert level == logging.WARNING
    assert "fails: ConnectionError" in line
    mortal.start()
    eventually(lambda: works(cache))
    assert len(lines(caplog)) == 3
    skip(outages.SAME_OUTAGE)
    assert works(cache)
    assert "answers again" in lines(caplog)[3][1]
    assert len(lines(caplog)) == 4


def test_outage_of_one_of_several_servers_is_two_lines(
    mortal: Mortal, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The others answer meanwhile, and that does not end it."""
    caplog.set_level(logging.INFO, "mcpool_wsgi")
    mc = Client([mortal.address, address], {"dead_timeout": 1})
    cache = PooledClient(ClientPool(mc, 1))

    def all_work() -> bool:
        return [works(cache, str(number)) for number in range(20)] == [True] * 20

    assert all_work()
    mortal.kill()
    assert not all_work()
    assert len(lines(caplog)) == 1
    mortal.start()
    eventually(lambda: all_work() and len(lines(caplog)) == 2)
    assert "answers again" in lines(caplog)[1][1]


@pytest.mark.parametrize("fork", FORKS)
def test_child_has_outages_of_its_own(mortal: Mortal, cache: PooledClient, fork: object) -> None:
    works(cache)
    mortal.kill()
    assert not works(cache)

    def work() -> None:
        assert not works(cache)
        assert cache.pool.stats().failures == 1

    succeeds(fork(work))  # type: ignore[operator]
    mortal.start()
    eventually(lambda: works(cache))


@pytest.mark.parametrize("fork", FORKS)
def test_child_does_not_end_the_outage_of_its_parent(
    mortal: Mortal, cache: PooledClient, caplog: pytest.LogCaptureFixture, fork: Any
) -> None:
    caplog.set_level(logging.INFO, "mcpool_wsgi")
    mortal.kill()
    assert not works(cache)
    mortal.start()

    def work() -> None:
        assert works(cache)
        assert len(lines(caplog)) == 1  # the parent's

    succeeds(fork(work))


def test_key_is_not_in_the_line(caplog: pytest.LogCaptureFixture) -> None:
    """It may be personal data, and in the binary protocol it may have a line break."""
    with hostile.refusing() as address:
        cache = PooledClient(ClientPool(Client([address], binary=True, fail_soft=True), 1))
        cache.get("user:ada\n(WARNING): all is well")
    ((_, line),) = lines(caplog)
    assert "ada" not in line
    # libmemcached 1.0.18, which is in the wheels of pylibmc2, adds which connection and why.
    assert re.search("ConnectionError: error 3 from memcached_get: .*CONNECTION FAILURE", line)


@pytest.mark.parametrize("key", ["user:ada", "ada):(ada)", "ada" * 40])
@pytest.mark.parametrize("command", ["touch", "delete"])
def test_key_is_not_in_the_line_if_pylibmc_names_no_cause(
    caplog: pytest.LogCaptureFixture, command: str, key: str
) -> None:
    def has_no_memory(conversation: hostile.Conversation) -> None:
        while conversation.request():
            conversation.send(hostile.OUT_OF_MEMORY)

    with hostile.fake(has_no_memory) as server:
        client = Client([server.address], fail_soft=True)
        cache = PooledClient(ClientPool(client, 1))
        arguments = (key, 5) if command == "touch" else (key,)
        assert getattr(cache, command)(*arguments) is False
    ((_, line),) = lines(caplog)
    assert line.endswith(f" fails: Error: error 48 from memcached_{command}")


@tracing
def test_interrupt_keeps_no_outage_from_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mcpool_wsgi")
    mc = Client(["127.0.0.1"])
    event = CommandEvent("get", 0.0, "hit", 1, 1, 0, None, [], ["key"])
    error = pylibmc.ConnectionError("refused")
    for at in range(1, 200):
        listeners: list[Any] = []
        found = outages.Outages("pool", listeners)
        caplog.clear()
        try:
            with Interrupt(KeyboardInterrupt, at):
                found.note_failure(mc, error, pytest.fail)
        except KeyboardInterrupt:
            found.note_failure(mc, error, pytest.fail)
            assert len(listeners) == 1, at
            listeners[0](event)
            assert "answers again" in lines(caplog)[-1][1], at
            assert listeners == [], at
        else:
            break
    assert at > 20


@tracing
def test_interrupt_at_the_end_of_an_outage_hides_no_later_one(
    caplog: pytest.LogCaptureFixture, skip: Callable[[float], None]
) -> None:
    caplog.set_level(logging.INFO, "mcpool_wsgi")
    mc = Client(["127.0.0.1"])
    event = CommandEvent("get", 0.0, "hit", 1, 1, 0, None, [], ["key"])
    error = pylibmc.ConnectionError("refused")
    for at in range(1, 200):
        listeners: list[Any] = []
        found = outages.Outages("pool", listeners)
        found.note_failure(mc, error, pytest.fail)
        try:
            with Interrupt(KeyboardInterrupt, at):
                listeners[0](event)
        except KeyboardInterrupt:
            for listener in list(listeners):
                listener(event)
            assert listeners == [], at
            skip(outages.SAME_OUTAGE)
            caplog.clear()
            found.note_failure(mc, error, pytest.fail)
            listeners[0](event)
            assert [level for level, _ in lines(caplog)] == [logging.WARNING, logging.INFO], at
        else:
            break
    assert at > 20


def test_other_servers_do_not_end_the_outage_of_those_before(
    mortal: Mortal, cache: PooledClient, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mcpool_wsgi")
    mortal.kill()
    assert not works(cache)
    cache.pool.set_servers([address])
    assert works(cache)
    assert len(lines(caplog)) == 1
