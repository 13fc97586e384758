"""mcpool_wsgi.client.watchdog: no command lasts longer than its limit."""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import gc
import itertools
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from time import monotonic
from typing import Any, Callable

import hostile
import pylibmc
import pytest
from forking import FORKS, in_child, succeeds
from harness import eventually, in_threads, limited_time
from interrupts import interrupted_everywhere

from mcpool_wsgi import forks
from mcpool_wsgi.client import libmemcached, sockets
from mcpool_wsgi.client import watchdog as module
from mcpool_wsgi.client.watchdog import Watchdog, watchdog

pytestmark = pytest.mark.servers

LONG = {"connect_timeout": 20_000, "_poll_timeout": 20_000}  # milliseconds
LIMIT = 0.2  # seconds
SOON = 5.0  # seconds, much less than LONG, and enough for a machine under load


class LimitedClient(pylibmc.Client):  # type: ignore[misc]
    """A client whose commands are watched, and which disconnects when one has expired."""

    __slots__ = ("_deadline", "_expired", "dog", "limit")

    def __init__(
        self,
        addresses: list[str],
        *,
        limit: float = LIMIT,
        dog: Watchdog = watchdog,
        binary: bool = False,
        **behaviors: object,
    ) -> None:
        super().__init__(addresses, behaviors={**LONG, **behaviors}, binary=binary)
        self.limit = limit
        self.dog = dog
        self._deadline = math.inf
        self._expired = False
        dog.watch(self)

    def run(self, command: str, *args: Any) -> Any:
        self._expired = False
        self._deadline = deadline = monotonic() + self.limit
        if deadline < self.dog.wakes_at:
            self.dog.wake()
        try:
            return getattr(self, command)(*args)
        finally:
            self._deadline = math.inf
            if self._expired:
                self.disconnect_all()


def silent() -> contextlib.AbstractContextManager[hostile.FakeMemcached]:
    return hostile.fake(hostile.silent)


# Answers of the text protocol that never end.
ENDLESS_LINE = hostile.endless(b"V", 0.1)
ENDLESS_VALUE = hostile.endless(b"v", 0.1, begin=b"VALUE key 16 100000\r\n")
VALUE_WITH_CAS = hostile.endless(b"v", 0.1, begin=b"VALUE key 16 100000 1\r\n")
ENDLESS_STATS = hostile.endless(b"STAT name value\r\n", 0.1)


def expires(client: LimitedClient, command: str, *args: Any) -> None:
    """The watchdog ends the command. Whether it then raises depends on libmemcached."""
    with limited_time(client.limit * 0.9, SOON), contextlib.suppress(pylibmc.Error):
        client.run(command, *args)
    assert client._expired


@contextlib.contextmanager
def expires_in_a_thread(client: LimitedClient) -> Iterator[threading.Thread]:
    """A command of *client* begins, and expires before the block ends."""
    thread = threading.Thread(target=expires, args=(client, "get", "key"))
    thread.start()
    eventually(lambda: watchdog.wakes_at < math.inf)
    yield thread
    thread.join()
    assert client._expired


@pytest.mark.parametrize(
    ("answer", "command", "args"),
    [
        (ENDLESS_LINE, "get", ["key"]),
        (ENDLESS_VALUE, "get", ["key"]),
        (ENDLESS_VALUE, "get_multi", [["key", "other"]]),
        (VALUE_WITH_CAS, "gets", ["key"]),
        (ENDLESS_LINE, "set", ["key", 1]),
        (ENDLESS_LINE, "set_multi", [{str(number): number for number in range(1000)}]),
        (ENDLESS_LINE, "add", ["key", 1]),
        (ENDLESS_LINE, "delete", ["key"]),
        (ENDLESS_LINE, "delete_multi", [[str(number) for number in range(1000)]]),
        (ENDLESS_LINE, "incr", ["key"]),
        (ENDLESS_LINE, "touch", ["key", 1]),
        (ENDLESS_LINE, "flush_all", []),
        (ENDLESS_STATS, "get_stats", []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_answer_that_never_ends_expires(answer: hostile.Script, command: str, args: Any) -> None:
    with hostile.fake(answer) as server:
        client = LimitedClient([server.address], cas=command == "gets")
        expires(client, command, *args)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("command", ["get", "get_multi", "set", "incr", "touch"])
def test_command_that_is_not_answered_expires(command: str, binary: bool) -> None:
    arguments: dict[str, list[Any]] = {
        "get_multi": [["key"]],
        "set": ["key", 1],
        "touch": ["key", 1],
    }
    with silent() as server:
        client = LimitedClient([server.address], binary=binary)
        expires(client, command, *arguments.get(command, ["key"]))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("command", ["get_stats", "flush_all", "get_multi", "set_multi"])
def test_servers_that_hang_in_a_row_share_one_limit(command: str, binary: bool) -> None:
    keys = [str(number) for number in range(200)]
    arguments: dict[str, list[Any]] = {
        "get_multi": [keys],
        "set_multi": [dict.fromkeys(keys, 1)],
    }
    with ExitStack() as stack:
        servers = [stack.enter_context(silent()) for _ in range(20)]
        client = LimitedClient([server.address for server in servers], binary=binary)
        expires(client, command, *arguments.get(command, []))


def test_many_commands_expire_at_once() -> None:
    with silent() as server:
        clients = [LimitedClient([server.address]) for _ in range(30)]
        with limited_time(most=SOON):
            in_threads([partial(expires, client, "get", "key") for client in clients])


def test_other_commands_go_on_while_one_expires(address: str) -> None:
    with silent() as server:
        healthy = LimitedClient([address], limit=60)
        healthy.run("set", "key", "value")
        ended = threading.Event()

        def work() -> None:
            while not ended.is_set():
                assert healthy.run("get", "key") == "value"
                assert not healthy._expired

        def expire() -> None:
            try:
                for _ in range(3):
                    expires(LimitedClient([server.address]), "get", "key")
            finally:
                ended.set()

        in_threads([work, expire])


def test_command_with_a_shorter_limit_than_the_one_before_expires_first() -> None:
    with silent() as server:
        slow = LimitedClient([server.address], limit=1.5)
        with expires_in_a_thread(slow) as other:
            expires(LimitedClient([server.address], limit=0.1), "get", "key")
            assert other.is_alive()


def test_commands_that_end_at_their_deadline_read_no_wrong_value() -> None:
    answers = {"late": 0, "in time": 0}

    def work() -> None:
        client = LimitedClient([server.address], limit=0.01)
        end = monotonic() + 1
        while monotonic() < end:
            value = None
            with contextlib.suppress(pylibmc.Error):
                value = client.run("get", "key")
            if value is None:
                answers["late"] += 1
            else:
                assert value == "v"
                answers["in time"] += 1

    with hostile.fake(at_the_deadline) as server:
        in_threads([work] * 4)
    assert all(answers.values())


def at_the_deadline(conversation: hostile.Conversation) -> None:
    """Answer each get after some 10 ms."""
    for number in itertools.count():
        if conversation.request().startswith(b"get"):
            conversation.pause(0.008 + number % 5 * 0.001)
            conversation.send(b"VALUE key 16 1\r\nv\r\nEND\r\n")


# -- The order of its steps


class BeginsWhileLookedAt:
    """A client whose command begins right after its deadline was read."""

    _expired = False

    def __init__(self, dog: Watchdog) -> None:
        self._dog = dog
        self._next = math.inf
        self.wakes: list[bool] = []

    @property
    def _deadline(self) -> float:
        deadline, self._next = self._next, monotonic() + 1000
        self.wakes.append(self._next < self._dog.wakes_at)
        return deadline

    @_deadline.setter
    def _deadline(self, deadline: float) -> None:
        raise NotImplementedError


def test_command_that_begins_while_deadlines_are_read_wakes_it() -> None:
    dog = Watchdog()
    client = BeginsWhileLookedAt(dog)
    dog.watch(client)
    dog.wakes_at = 0.0  # as if it had slept until now
    dog._look()
    assert client.wakes == [True]


def test_earliest_deadline_of_all_clients_is_when_it_wakes() -> None:
    dog = Watchdog()
    clients = [LimitedClient(["127.0.0.1:1"], dog=dog) for _ in range(3)]
    now = monotonic()
    for client, deadline in zip(clients, [now + 200, now + 100, math.inf]):
        client._deadline = deadline
    assert dog._look() == dog.wakes_at == now + 100
    assert not any(client._expired for client in clients)


def test_client_knows_that_it_has_expired_before_it_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = LimitedClient(["127.0.0.1:1"], dog=Watchdog())
    client._deadline = monotonic()
    known: list[bool] = []
    monkeypatch.setattr(sockets, "abort", lambda client, is_due: known.append(client._expired))
    client.dog._look()
    assert known == [True]


def test_command_that_has_begun_since_is_not_ended(address: str) -> None:
    client = LimitedClient([address], dog=Watchdog())
    client.run("set", "key", "value")
    client._deadline = monotonic() + 1000
    client.dog._expire(client, client._deadline - 1)
    assert not client._expired
    assert client.get("key") == "value"


def test_command_that_begins_during_the_pause_is_not_ended(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = LimitedClient([address], dog=Watchdog())
    client.run("set", "key", "value")

    def begin(microseconds: int) -> None:
        client._deadline = monotonic() + 1000

    monkeypatch.setattr(libmemcached._library, "usleep", begin)
    client._deadline = monotonic()
    client.dog._look()
    assert client.get("key") == "value"


# -- How often it looks


class Counting(Watchdog):
    """A watchdog that counts how often it looks."""

    looks = 0

    def _look(self) -> float:
        self.looks += 1
        return super()._look()


@pytest.fixture
def counting() -> Iterator[Counting]:
    dog = Counting()
    yield dog
    dog._alarm, alarm = None, dog._alarm  # ends its thread
    if alarm is not None:
        with contextlib.suppress(RuntimeError):
            alarm.release()


def test_idle_clients_do_not_wake_it(address: str, counting: Counting) -> None:
    clients = [LimitedClient([address], dog=counting) for _ in range(1000)]
    clients[0].run("set", "key", 1)
    eventually(lambda: counting.looks and counting.wakes_at == math.inf)
    time.sleep(LIMIT)  # a look that was due may still come
    looks = counting.looks
    time.sleep(3 * LIMIT)
    assert counting.looks == looks


def test_steady_load_wakes_it_seldom(address: str, counting: Counting) -> None:
    client = LimitedClient([address], dog=counting)
    client.run("set", "key", 1)
    commands = 0
    end = monotonic() + 5 * LIMIT
    while monotonic() < end:
        client.run("get", "key")
        commands += 1
    assert commands > 100
    assert counting.looks < 50


def test_deadline_that_an_interrupt_left_behind_wakes_it_ever_more_rarely(
    address: str, counting: Counting
) -> None:
    client = LimitedClient([address], dog=counting)
    client.run("set", "key", "value")
    client._deadline = monotonic() - 100
    counting.wake()
    time.sleep(0.5)
    assert counting.looks < 50
    client.disconnect_all()
    assert client.run("get", "key") == "value"


def test_clients_that_are_gone_are_forgotten(address: str, counting: Counting) -> None:
    client = LimitedClient([address], dog=counting)
    client.run("set", "key", 1)
    assert len(counting._clients.references()) == 1
    del client
    gc.collect()
    assert not counting._clients.references()


# -- Its thread


def test_one_thread_is_started_by_many(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def start(function: Any, args: Any) -> int:
        started.append(function)
        time.sleep(0.1)
        return int(_thread.start_new_thread(function, args))

    def calibrated() -> bool:
        time.sleep(0.1)
        return True

    replace_original(monkeypatch, "start_new_thread", start)
    monkeypatch.setattr(libmemcached, "calibrated", calibrated)
    in_threads([counting.wake] * 8)
    assert len(started) == 1


def replace_original(monkeypatch: pytest.MonkeyPatch, name: str, replacement: object) -> None:
    original = module.original_thread_function
    monkeypatch.setattr(
        module,
        "original_thread_function",
        lambda wanted: replacement if wanted == name else original(wanted),
    )


def test_commands_have_no_limit_when_no_thread_can_be_started(
    address: str,
    counting: Counting,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def start(function: Any, args: Any) -> int:
        raise RuntimeError("can't start new thread")

    replace_original(monkeypatch, "start_new_thread", start)
    client = LimitedClient([address], dog=counting)
    for _ in range(3):
        client.run("set", "key", 1)
        assert client.run("get", "key") == 1
        assert counting.wakes_at == -math.inf  # no command tries again
    assert counting.looks == 0
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, module.logger.name)
    assert "can't start new thread" in record.getMessage()
    monkeypatch.undo()
    LimitedClient([address], dog=counting)  # from now on, the others try again, too
    client.run("get", "key")
    assert counting._alarm is not None
    eventually(lambda: counting.looks > 0)


def test_its_thread_ends_when_no_sockets_can_be_found(
    address: str, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libmemcached, "_library", None)
    client = LimitedClient([address], dog=counting)
    client.run("set", "key", 1)
    assert client.run("get", "key") == 1
    assert counting.looks == 0
    assert counting._alarm is None
    assert counting.wakes_at == -math.inf  # no command tries again


def test_interrupted_start_is_done_again(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(function: Any, args: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as interrupted:
        replace_original(interrupted, "start_new_thread", start)
        with pytest.raises(KeyboardInterrupt):
            counting.wake()
    with silent() as server:
        expires(LimitedClient([server.address], dog=counting), "get", "key")


class Late(TimeoutError, RuntimeError, LookupError):
    """What handlers of alarms may raise, and what a start may fail with."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError, Late])
def test_interrupt_at_any_moment_of_the_start_reaches_the_caller(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next command has a limit."""
    monkeypatch.setattr(libmemcached, "_is_calibrated", False)
    dogs = [Watchdog()]

    def works() -> None:
        dog = dogs.pop()
        dog.wake()
        assert dog.wakes_at != -math.inf
        dog._alarm, alarm = None, dog._alarm  # ends its thread
        with contextlib.suppress(RuntimeError):
            alarm.release()
        libmemcached._is_calibrated = False
        dogs.append(Watchdog())

    assert interrupted_everywhere(error, lambda: dogs[0].wake(), works) > 50
    works()


def test_commands_expire_after_an_interrupt_of_the_start_that_comes_after_the_first_look(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        eventually(lambda: counting.wakes_at < math.inf)
        raise KeyboardInterrupt

    with silent() as server:
        client = LimitedClient([server.address], dog=counting)
        with monkeypatch.context() as interrupted:
            interrupted.setattr(libmemcached, "log_failure", interrupt)
            with pytest.raises(KeyboardInterrupt):
                client.run("get", "key")
        expires(client, "get", "key")


def test_interrupt_at_any_moment_of_a_call_reaches_the_caller(counting: Counting) -> None:
    counting.wake()
    interrupted_everywhere(Late, counting.wake, lambda: None)


class Broken:
    _expired = False

    @property
    def _deadline(self) -> float:
        raise ZeroDivisionError


def test_thread_that_ends_with_an_error_is_replaced(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", errors.append)
    broken: Any = Broken()
    counting.watch(broken)
    counting.wake()
    eventually(lambda: errors and counting._alarm is None)
    del broken
    errors.clear()
    gc.collect()
    with silent() as server:
        expires(LimitedClient([server.address], dog=counting), "get", "key")


def test_thread_that_cannot_end_a_command_is_replaced(
    counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", errors.append)
    client = LimitedClient(["127.0.0.1:1"], dog=counting)
    with monkeypatch.context() as broken:
        broken.setattr(sockets, "abort", lambda *args: 1 / 0)
        client._deadline = monotonic()
        counting.wake()
        eventually(lambda: errors and counting._alarm is None)
        client._deadline = math.inf
    errors.clear()
    with silent() as server:
        expires(LimitedClient([server.address], dog=counting), "get", "key")


def test_deadline_far_away_wakes_it_once(counting: Counting) -> None:
    client = LimitedClient(["127.0.0.1:1"], dog=counting)
    client._deadline = 1e300
    counting.wake()
    eventually(lambda: counting.wakes_at == 1e300)
    time.sleep(0.05)
    assert counting.looks < 3


# -- Forks


@pytest.mark.parametrize("fork", FORKS)
def test_child_has_a_watchdog_of_its_own(fork: Callable[..., int]) -> None:
    # in_child_by_c() itself is for parents only: CPython crashes when a child that was forked in
    # C has started a thread, and then looks at the frames of all threads.
    fork_again = os.fork if fork is in_child else ctypes.PyDLL(None).fork
    with silent() as server:
        expires(LimitedClient([server.address]), "get", "key")

        def work() -> None:
            expires(LimitedClient([server.address]), "get", "key")
            eventually(lambda: watchdog.wakes_at == math.inf)
            time.sleep(0.05)  # until its thread sleeps, too
            succeeds(in_child(work_again, fork_again))

        def work_again() -> None:
            expires(LimitedClient([server.address]), "get", "key")

        child = fork(work)
        expires(LimitedClient([server.address]), "get", "key")
        succeeds(child)


@pytest.mark.parametrize("fork", FORKS)
def test_commands_expire_after_a_fork_while_one_runs(fork: Callable[..., int]) -> None:
    with silent() as server, expires_in_a_thread(LimitedClient([server.address], limit=1)):
        succeeds(fork(lambda: expires(LimitedClient([server.address]), "get", "key")))


@pytest.mark.parametrize("fork", FORKS)
def test_child_does_not_end_a_command_of_its_parent(
    fork: Callable[..., int], address: str
) -> None:
    client = LimitedClient([address])
    client.run("set", "key", "value")
    eventually(lambda: watchdog.wakes_at == math.inf)
    # As if another thread of the parent were in a command. It is not there in the child.
    client._deadline = monotonic() + 60

    def work() -> None:
        client._deadline = monotonic()
        with silent() as server:
            expires(LimitedClient([server.address]), "get", "key")
        assert not client._expired

    child = fork(work)
    succeeds(child)
    client._deadline = math.inf
    assert client.get("key") == "value"


@pytest.mark.parametrize("fork", FORKS)
def test_commands_expire_after_a_fork_while_the_thread_is_started(
    fork: Callable[..., int], counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_starting, may_go_on = threading.Event(), threading.Event()

    def start(function: Any, args: Any) -> int:
        is_starting.set()
        may_go_on.wait(30)
        return int(_thread.start_new_thread(function, args))

    with silent() as server:
        with monkeypatch.context() as slow:
            replace_original(slow, "start_new_thread", start)
            starter = threading.Thread(target=counting.wake)
            starter.start()
            is_starting.wait(10)

            def work() -> None:
                may_go_on.set()
                expires(LimitedClient([server.address], dog=counting), "get", "key")

            child = fork(work)
            may_go_on.set()
            starter.join()
        succeeds(child)
        expires(LimitedClient([server.address], dog=counting), "get", "key")


@pytest.mark.parametrize("fork", FORKS)
def test_clients_made_while_a_child_is_entered_are_watched(fork: Callable[..., int]) -> None:
    made: list[LimitedClient] = []

    class Pool:
        """It makes a client when it is reset. Pools are reset in any order."""

        def _reset_in_child(self) -> None:
            made.append(LimitedClient([server.address]))

    pools = [Pool() for _ in range(20)]
    for pool in pools:
        forks.reset_in_child(pool)
    with silent() as server:

        def work() -> None:
            watchdog.wake()  # notes the fork, where no hook has noted it
            assert len(made) == 20
            in_threads([partial(expires, client, "get", "key") for client in made])

        succeeds(fork(work))
    made.clear()


@pytest.mark.parametrize("fork", FORKS)
def test_child_does_not_rely_on_the_thread_of_its_parent(fork: Callable[..., int]) -> None:

    def work() -> None:
        forks.check_process()
        assert watchdog.wakes_at == math.inf

    with silent() as server, expires_in_a_thread(LimitedClient([server.address], limit=1)):
        succeeds(fork(work))
