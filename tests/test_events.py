"""What listeners are told of commands."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import signal
import time
from collections.abc import Iterator
from typing import Any, Callable

import hostile
import pylibmc
import pytest
from apps import request
from forking import FORKS, succeeds
from harness import signal_handler

from mcpool_wsgi import (
    Client,
    ClientPool,
    CommandEvent,
    InvalidKey,
    MemcachedPoolMiddleware,
    PooledClient,
    PoolTimeout,
    ThreadMappedPool,
)


@pytest.fixture
def pool(address: str) -> ClientPool:
    return ClientPool(Client([address], {"cas": True}), 2, timeout=0)


@pytest.fixture
def events(pool: ClientPool) -> Iterator[list[CommandEvent]]:
    events: list[CommandEvent] = []
    stop = pool.observe(events.append)
    yield events
    stop()


Case = tuple[Callable[[Any], object], str, str, int, int, int]
CASES: list[Case] = [
    (lambda mc: mc.get("key"), "get", "hit", 1, 1, 0),
    (lambda mc: mc.get("missing"), "get", "miss", 1, 0, 1),
    (lambda mc: mc.get("missing", "default"), "get", "miss", 1, 0, 1),
    (lambda mc: mc.gets("key"), "gets", "hit", 1, 1, 0),
    (lambda mc: mc.gets("missing"), "gets", "miss", 1, 0, 1),
    (lambda mc: mc.get_multi(["key", "a", "b"]), "get_multi", "hit", 3, 1, 2),
    (lambda mc: mc.get_multi(["a", "b"]), "get_multi", "miss", 2, 0, 2),
    (lambda mc: mc.set("key", 1), "set", "stored", 1, 0, 0),
    (lambda mc: mc.add("key", 1), "add", "not stored", 1, 0, 0),
    (lambda mc: mc.replace("missing", 1), "replace", "not stored", 1, 0, 0),
    (lambda mc: mc.cas("key", 1, 1), "cas", "not stored", 1, 0, 0),
    (lambda mc: mc.set_multi({"key": 1, "other": 2}), "set_multi", "stored", 2, 0, 0),
    (lambda mc: mc.add_multi({"key": 1}), "add_multi", "not stored", 1, 0, 0),
    (lambda mc: mc.incr("key"), "incr", "hit", 1, 0, 0),
    (lambda mc: mc.incr("missing"), "incr", "miss", 1, 0, 0),
    (lambda mc: mc.touch("key", 60), "touch", "hit", 1, 0, 0),
    (lambda mc: mc.delete("missing"), "delete", "miss", 1, 0, 0),
    (lambda mc: mc.set("key", "x" * (1 << 21)), "set", "error", 1, 0, 0),
    (lambda mc: mc.flush_all(), "flush_all", "done", 0, 0, 0),
    (lambda mc: mc.get_stats(), "get_stats", "done", 0, 0, 0),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{case[1]} {case[2]}" for case in CASES])
def test_a_command_is_one_event(pool: ClientPool, events: list[Any], case: Case) -> None:
    run, *expected = case
    with pool.reserve() as mc:
        mc.set("key", 5)
        events.clear()
        with contextlib.suppress(pylibmc.Error):
            run(mc)
        assert mc.addresses == events[0].servers
    assert [[e.command, e.outcome, e.keys, e.hits, e.misses] for e in events] == [expected]
    assert 0 < events[0].seconds < 1


@pytest.mark.parametrize(
    "run",
    [
        lambda mc: mc.get(""),
        lambda mc: mc.set("", 1),
        lambda mc: mc.get_multi([]),
        lambda mc: mc.get_multi([""]),
        lambda mc: mc.set_multi({}),
        lambda mc: mc.delete_multi([]),
        lambda mc: mc.disconnect_all(),
    ],
)
def test_a_command_that_sends_nothing_is_no_event(
    pool: ClientPool, events: list[Any], run: Callable[[Any], object]
) -> None:
    with pool.reserve() as mc:
        run(mc)
    assert events == []


@pytest.mark.parametrize("fail_soft", [False, True])
def test_a_failure_is_told_with_its_error(fail_soft: bool) -> None:
    events: list[CommandEvent] = []
    with hostile.refusing() as address:
        mc = Client([address], fail_soft=fail_soft)
        mc.observe(events.append)
        for name in ("get", "delete", "get_stats"):
            with contextlib.suppress(pylibmc.Error) if fail_soft else pytest.raises(pylibmc.Error):
                getattr(mc, name)(*([] if name == "get_stats" else ["key"]))
    assert [event.outcome for event in events] == ["failure"] * 3
    assert all(isinstance(event.error, pylibmc.Error) for event in events)


def test_keys_are_told_as_they_are_sent(pool: ClientPool, events: list[Any]) -> None:
    with pool.reserve() as mc:
        mc.get("a")
        mc.get_multi(["a", "b"])
        mc.get_multi(["a", "b"], key_prefix="p:")
        mc.set_multi({"a": "value"}, key_prefix="p:")
        mc.delete_multi(["a", "b"])
        mc.get_stats("items")
        mc.flush_all(1)
    assert [event.key_names for event in events] == [
        [b"a"],
        ["a", "b"],
        [b"p:a", b"p:b"],
        [b"p:a"],
        [b"a"],
        [b"b"],
        [],
        [],
    ]


def test_call_that_is_no_command_is_no_event(pool: ClientPool, events: list[Any]) -> None:
    with pool.reserve() as mc, pool.reserve():
        with pytest.raises(InvalidKey):
            mc.get("a b")
        with pytest.raises(PoolTimeout):
            pool.reserve().__enter__()
    assert events == []


@pytest.mark.parametrize("pool_class", [ClientPool, ThreadMappedPool])
def test_all_kinds_of_clients_tell_once(address: str, pool_class: Any) -> None:
    pool = pool_class.from_servers([address], 2)
    cache = PooledClient(pool)
    seen: list[CommandEvent] = []
    stop = pool.observe(seen.append)
    cache.set("pooled", 1)
    with pool.reserve() as mc:
        mc.set("lent", 1)
        mc.behaviors = {"namespace": "mine"}
        mc.set("own", 1)
    lazy = pool.reserve(lazy=True)
    lazy.set("lazy", 1)
    lazy.release()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        cache.set("request", 1)
        return [b""]

    request(MemcachedPoolMiddleware(app, pool)).close()
    assert len(seen) == 5
    stop()
    stop()
    cache.set("key", 1)
    assert len(seen) == 5


def test_listener_that_raises_harms_nobody(
    pool: ClientPool, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[CommandEvent] = []
    pool.observe(lambda event: 1 // 0)
    pool.observe(seen.append)
    with pool.reserve() as mc:
        assert mc.set("key", 1)
    assert len(seen) == 1
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    with pytest.raises(TypeError, match="not 5"):
        pool.observe(5)  # type: ignore[arg-type]


class Handler:
    """A signal handler, as a method, as an object, and as a function."""

    def method(self, *signal: Any) -> None:
        raise TimeoutError("too late")

    __call__ = method

    def function(self) -> Callable[..., None]:
        def handler(*signal: Any) -> None:
            self.method()

        return handler


class Derived(Handler):
    pass


def once(*args: Any) -> None:
    """A time limit that raises once."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    raise TimeoutError("too late")


def decorated(number: int, frame: Any) -> None:
    raise TimeoutError("too late")


HANDLERS = [
    Handler().method,
    Derived(),
    Handler().function(),
    functools.partial(Handler().method, 5),
    functools.lru_cache(decorated),
    once,
]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("fails", [False, True])
def test_error_of_a_signal_handler_in_a_listener_reaches_the_caller(
    pool: ClientPool, caplog: pytest.LogCaptureFixture, handler: Any, fails: bool
) -> None:
    stop = pool.observe(lambda event: signal.raise_signal(signal.SIGUSR1))
    late = pytest.raises(TimeoutError, match="too late")
    with signal_handler(signal.SIGUSR1, handler), pool.reserve() as mc, late:
        mc.set("key", "x" * (1 << 21) if fails else 1)
    stop()
    assert not caplog.records
    with pool.reserve() as mc:
        assert mc.get("key") == (None if fails else 1)


def test_listener_may_use_the_pool(pool: ClientPool) -> None:
    cache = PooledClient(pool)
    seen: list[str] = []

    def listener(event: CommandEvent) -> None:
        seen.append(event.command)
        if event.command == "get":
            cache.set("seen", 1)

    pool.observe(listener)
    cache.get("key")
    assert seen == ["get", "set"]


@pytest.mark.servers
@pytest.mark.parametrize("fork", FORKS)
def test_child_tells_its_own_listeners(pool: ClientPool, events: list[Any], fork: Any) -> None:
    cache = PooledClient(pool)
    cache.set("key", 1)

    def work() -> None:
        cache.get("key")
        assert [event.command for event in events] == ["set", "get"]

    succeeds(fork(work))
    assert [event.command for event in events] == ["set"]


def test_get_multi_of_a_value_that_cannot_be_read_is_one_event(address: str) -> None:
    class Broken:
        dumps = staticmethod(str)

        @staticmethod
        def loads(data: bytes) -> object:
            raise ValueError("broken")

    mc = Client([address], serializer=Broken)
    assert mc.set("key", [1])
    events: list[CommandEvent] = []
    mc.observe(events.append)
    with pytest.raises(ValueError, match="broken"):
        mc.get_multi(["key", "other"])
    assert [(event.command, event.outcome) for event in events] == [("get_multi", "error")]


def test_a_key_that_is_given_twice_is_one_key(pool: ClientPool, events: list[Any]) -> None:
    with pool.reserve() as mc:
        mc.set("key", 1)
        mc.get_multi(["key", "key"])
    event = events[-1]
    assert (event.keys, event.hits, event.misses) == (1, 1, 0)


def test_stopping_twice_stops_no_other(mc: Client) -> None:
    seen: list[CommandEvent] = []
    stop = mc.observe(seen.append)
    mc.observe(seen.append)
    stop()
    stop()
    mc.get("key")
    assert len(seen) == 1


@dataclasses.dataclass
class Counting:
    """A listener that is equal to another one, as dataclasses are."""

    calls: int = 0

    def __call__(self, *what: Any) -> None:
        self.calls += 1


def test_stopping_stops_no_equal_one(pool: ClientPool) -> None:
    for observe in (pool.observe, pool.observe_reservations):
        first, second = Counting(), Counting()
        observe(first)
        stop = observe(second)
        stop()
        with pool.reserve() as mc:
            mc.get("key")
        assert (first.calls > 0, second.calls) == (True, 0)


def test_seconds_of_the_keys_of_one_command_are_no_more_than_its_own(mc: Client) -> None:
    """They share its time limit."""
    events: list[CommandEvent] = []
    mc.observe(events.append)
    keys = [f"key{number}" for number in range(200)]
    began = time.monotonic()
    with pytest.raises(pylibmc.NotFound):
        mc.incr_multi(keys)
    assert not mc.delete_multi(keys)
    seconds = time.monotonic() - began
    assert len(events) == 400
    assert sum(event.seconds for event in events) <= seconds
