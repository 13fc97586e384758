"""What one request sets on its client is gone for the next."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Callable

import hostile
import pylibmc
import pytest
from harness import Connections, eventually, in_thread, in_threads
from interrupts import interrupted_everywhere, tracing
from werkzeug.test import create_environ, run_wsgi_app

from mcpool_wsgi import (
    Client,
    ClientPool,
    ClientReleased,
    LentClient,
    MemcachedPoolMiddleware,
    PooledClient,
    PoolTimeout,
    ThreadMappedPool,
    get_client,
)

SLOTS = 2
LAZY = pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])


def clientpool(mc: Client) -> ClientPool:
    return ClientPool(mc, SLOTS)


@pytest.fixture(params=[clientpool, ThreadMappedPool])
def pool(request: pytest.FixtureRequest, connections: Connections, address: str) -> Iterator[Any]:
    """A pool whose one client is connected."""
    with request.param(Client([address])) as pool:
        with pool.reserve() as mc:
            mc.set("key", "value")
        yield pool


def assign_behaviors(mc: Any) -> None:
    mc.behaviors = {"namespace": "x:", "retry_timeout": 77}


def call_set_behaviors(mc: Any) -> None:
    mc.set_behaviors({"namespace": b"x:", "retry_timeout": 77})


def set_items(mc: Any) -> None:
    mc.behaviors["namespace"] = "x:"
    mc.behaviors["retry_timeout"] = 77


def update_behaviors(mc: Any) -> None:
    mc.behaviors.update({"namespace": "x:", "retry_timeout": 77})


SETTERS = pytest.mark.parametrize(
    "setter", [assign_behaviors, call_set_behaviors, set_items, update_behaviors]
)


def as_at_first(mc: Any) -> None:
    """Nobody has set anything on this client."""
    assert mc.get("key") == "value"
    assert mc.behaviors["retry_timeout"] == 1
    assert mc.behaviors.get("namespace") is None
    assert mc.on_connection_failure is None
    for name in ("note", "addresses_seen"):
        assert not hasattr(mc, name)


def every_client(pool: Any) -> Iterator[Any]:
    """Each client of *pool* that a request could get."""
    with pool.reserve() as one, pool.reserve() as two:
        yield from (one, two)


def all_as_at_first(pool: Any) -> None:
    for mc in every_client(pool):
        as_at_first(mc)


# -- Behaviors


@LAZY
@SETTERS
def test_behaviors_hold_for_the_request(
    pool: Any, setter: Callable[[Any], None], lazy: bool
) -> None:
    with pool.reserve(lazy=lazy) as mc:
        setter(mc)
        assert mc.get("key") is None
        assert mc.behaviors["retry_timeout"] == 77
        mc.set("key", "in the namespace")
        assert mc.get_multi(["key"]) == {"key": "in the namespace"}
        assert mc.clone().get("key") == "in the namespace"
    assert Client(pool.master.addresses).get("x:key")


@LAZY
@SETTERS
def test_behaviors_are_gone_for_the_next_request(
    pool: Any, setter: Callable[[Any], None], lazy: bool
) -> None:
    for _ in range(3):
        with pool.reserve(lazy=lazy) as mc:
            as_at_first(mc)
            setter(mc)
            assert mc.get("key") is None
    all_as_at_first(pool)
    in_thread(lambda: all_as_at_first(pool))


@LAZY
def test_behaviors_are_gone_after_an_error(pool: Any, lazy: bool) -> None:
    def fail() -> None:
        with pool.reserve(lazy=lazy) as mc:
            call_set_behaviors(mc)
            raise RuntimeError("of the app")

    with pytest.raises(RuntimeError, match="of the app"):
        fail()
    all_as_at_first(pool)


@LAZY
def test_behaviors_that_are_refused_change_nothing(pool: Any, lazy: bool) -> None:
    with pool.reserve(lazy=lazy) as mc:
        for wrong in ({"nonsense": 1}, {"retry_timeout": -1}, {"namespace": "\ud800"}):
            with pytest.raises(ValueError, match=r"nonsense|retry_timeout|UTF-8"):
                mc.set_behaviors(wrong)
            as_at_first(mc)
    all_as_at_first(pool)


@LAZY
@SETTERS
def test_others_keep_their_clients_meanwhile(
    pool: Any, setter: Callable[[Any], None], lazy: bool
) -> None:
    with pool.reserve(lazy=lazy) as other, pool.reserve(lazy=lazy) as mc:
        as_at_first(other)
        setter(mc)
        assert mc.get("key") is None
        as_at_first(other)


@pytest.mark.slow
@LAZY
@SETTERS
def test_no_more_connections_than_slots(
    pool: Any, connections: Connections, setter: Callable[[Any], None], lazy: bool
) -> None:
    most = 0
    for _ in range(5):
        with pool.reserve(lazy=lazy) as one, pool.reserve(lazy=lazy) as two:
            for mc in (one, two):
                as_at_first(mc)
            for _, mc in itertools.product(range(3), (one, two)):
                setter(mc)
                mc.get("key")
                eventually(lambda: connections.count() <= SLOTS)
                most = max(most, connections.count())
    assert most == SLOTS
    eventually(lambda: connections.count() <= SLOTS)
    assert pool.stats().size <= SLOTS


def test_setting_twice_costs_one_connection(pool: Any, connections: Connections) -> None:
    with pool.reserve() as mc:
        as_at_first(mc)
        opened = connections.opened()
        for _ in range(5):
            assign_behaviors(mc)
            mc.on_connection_failure = None
            mc.get("key")
    assert connections.opened() == opened + 1


def test_settings_that_two_threads_of_a_request_make_at_once_are_both_kept(address: str) -> None:
    together: list[threading.Barrier] = []

    class Slow(Client):
        def clone(self) -> Any:
            for barrier in together:
                with contextlib.suppress(threading.BrokenBarrierError):
                    barrier.wait(0.1)
            return super().clone()

    pool = ClientPool(Slow([address]), 1, timeout=0)
    with pool.reserve() as mc:
        together.append(threading.Barrier(2))
        in_threads(
            [
                lambda: mc.set_behaviors({"connect_timeout": 300}),
                lambda: mc.set_behaviors({"retry_timeout": 3}),
            ]
        )
        assert mc.set("key", "value")
        assert (mc.behaviors["connect_timeout"], mc.behaviors["retry_timeout"]) == (300, 3)
    assert pool.stats().in_use == 0


def test_nothing_set_costs_no_connection(pool: Any, connections: Connections) -> None:
    opened = connections.opened()
    for _ in range(5):
        with pool.reserve() as mc:
            as_at_first(mc)
            mc.note = "an attribute"
    assert connections.opened() == opened


# -- A BehaviorDict that is kept


@LAZY
def test_behaviors_that_are_kept_past_the_request_change_nobody(pool: Any, lazy: bool) -> None:
    with pool.reserve(lazy=lazy) as mc:
        mc.get("key")
        behaviors: Any = mc.behaviors
        behaviors["retry_timeout"] = 5  # while it lasts
    with pool.reserve() as other:
        with pytest.raises(ClientReleased):
            behaviors["namespace"] = "x:"
        with pytest.raises(ClientReleased):
            behaviors.update({"namespace": "x:"})
        as_at_first(other)
    all_as_at_first(pool)


@LAZY
@SETTERS
def test_nothing_is_set_on_a_released_client(
    pool: Any, setter: Callable[[Any], None], lazy: bool
) -> None:
    with pool.reserve(lazy=lazy) as mc:
        mc.get("key")
    with pytest.raises(ClientReleased):
        setter(mc)
    with pytest.raises(ClientReleased):
        mc.on_connection_failure = print
    all_as_at_first(pool)


def test_lazy_client_that_was_never_reserved_takes_no_setting_after_its_release(pool: Any) -> None:
    mc = pool.reserve(lazy=True)
    mc.release()
    with pytest.raises(ClientReleased):
        assign_behaviors(mc)
    all_as_at_first(pool)


# -- on_connection_failure and attributes


@LAZY
@pytest.mark.parametrize("make", [clientpool, ThreadMappedPool])
def test_notice_of_failures_holds_for_the_request(make: Any, lazy: bool) -> None:
    notices: list[str] = []
    with hostile.refusing() as address, make(Client([address])) as pool:
        with pool.reserve(lazy=lazy) as mc:
            mc.on_connection_failure = notice = lambda: notices.append("mine")
            assert mc.on_connection_failure is notice
            with pytest.raises(pylibmc.Error):
                mc.set("key", "value")
            assert notices == ["mine"]
            assert pool.stats().failures == 1  # the pool is told as well
        for other in every_client(pool):
            assert other.on_connection_failure is None
            with pytest.raises(pylibmc.Error):
                other.set("key", "value")
        assert notices == ["mine"]
        assert pool.stats().failures == 3


@LAZY
def test_attributes_are_gone_for_the_next_request(pool: Any, lazy: bool) -> None:
    for _ in range(3):
        with pool.reserve(lazy=lazy) as mc:
            as_at_first(mc)
            mc.note = "a note"
            mc.addresses_seen = [mc.addresses]
            mc._fail_soft = True
            assert (mc.note, mc.addresses_seen) == ("a note", [mc.addresses])
    for mc in every_client(pool):
        as_at_first(mc)
        assert not mc._client._fail_soft


def test_lists_that_a_client_gives_are_copies(pool: Any) -> None:
    with pool.reserve() as mc:
        mc.addresses.append("another:1")
    for other in every_client(pool):
        assert len(other.addresses) == 1


def test_settings_of_a_subclass_are_gone_too(connections: Connections, address: str) -> None:
    class Mine(Client):
        def greeting(self) -> str:
            return "hello"

    with ClientPool(Mine([address]), 1) as pool:
        with pool.reserve() as mc:
            mc.set("key", "value")
        for lazy in (False, True):
            with pool.reserve(lazy=lazy) as lent:
                mine: Any = lent
                as_at_first(mine)
                assign_behaviors(mine)
                mine.note = "a note"
                mine.on_connection_failure = list
                assert mine.greeting() == "hello"
                assert mine.get("key") is None
        with pool.reserve() as mc:
            as_at_first(mc)
        eventually(lambda: connections.count() == 1)


@LAZY
@pytest.mark.parametrize("kind", [ClientPool, ThreadMappedPool])
def test_settings_of_a_method_of_a_subclass_are_gone_too(
    kind: Any, lazy: bool, address: str
) -> None:
    class Tenant(Client):
        def act_for(self, tenant: str) -> None:
            self.behaviors = {"namespace": tenant}

        def tell(self, notice: Callable[[], None]) -> None:
            self.on_connection_failure = notice

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("204 No Content", [])
        cache: Any = environ["cache"](environ)
        cache.act_for("one:")
        cache.set("key", "of one")
        cache.tell(list)
        assert Client([address]).get("one:key") == "of one"
        return []

    Client([address]).set("key", "of all")
    with kind(Tenant([address]), *([1] if kind is ClientPool else [])) as pool:
        pooled: Any = PooledClient(pool)
        wrapped = MemcachedPoolMiddleware(app, pool, lazy=lazy)
        for cache in (get_client, lambda environ: pooled):
            run_wsgi_app(wrapped, {**create_environ(), "cache": cache})
            assert pooled.get("key") == "of all"
            with pool.reserve() as mc:
                assert mc.on_connection_failure is None
        pooled.act_for("two:")  # on a client that it has for this command only
        assert pooled.get("key") == "of all"


# -- A thread that sets something while the request ends


class Stop:
    """Stops a thread before its line number *at* in LentClient, until it is told to go on."""

    def __init__(self, at: int) -> None:
        self._left = at
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.endswith(("reservation.py", "lent_client.py")):
            return None
        if event == "line":
            self._left -= 1
            if self._left == 0:
                self.reached.set()
                assert self.go_on.wait(30)
        return self.trace


def set_late(mc: Any, stop: Stop, setter: Callable[[Any], None]) -> None:
    sys.settrace(stop.trace)
    try:
        setter(mc)
    except ClientReleased:
        pass
    finally:
        sys.settrace(None)
        stop.reached.set()


def set_notice(mc: Any) -> None:
    mc.on_connection_failure = print


class Own(Client):
    def clone(self) -> Own:
        return Own(self.addresses)


@pytest.mark.parametrize("kind", [Client, Own])
def test_commands_after_a_setting_are_observed(address: str, kind: type[Client]) -> None:
    pool = ClientPool(kind([address]), 1)
    seen: list[str] = []
    pool.observe(lambda event: seen.append(event.command))
    with pool.reserve() as mc:
        mc.set_behaviors({"namespace": "x:"})
        mc.get("key")
    assert seen == ["get"]


@pytest.mark.parametrize("setter", [call_set_behaviors, set_notice])
def test_setting_for_which_the_release_is_faster_is_refused(
    address: str, setter: Callable[[Any], None]
) -> None:
    class ReleasedMeanwhile(Client):
        def clone(self) -> Any:
            for mc in reserved:
                mc.release()
            return super().clone()

    reserved: list[LentClient] = []
    with ClientPool(ReleasedMeanwhile([address]), 1) as pool, pool.reserve() as mc:
        reserved.append(mc)
        with pytest.raises(ClientReleased):
            setter(mc)


@pytest.mark.slow
@LAZY
@pytest.mark.parametrize("setter", [call_set_behaviors, set_items, set_notice])
def test_setting_made_while_the_request_ends_reaches_nobody(
    connections: Connections, address: str, setter: Callable[[Any], None], lazy: bool
) -> None:
    """The thread is stopped before each of its lines in turn; there the request ends."""
    with ClientPool(Client([address]), 1) as pool:
        for at in itertools.count(1):
            with pool.reserve(lazy=lazy) as mc:
                mc.set("key", "value")
                stop = Stop(at)
                thread = threading.Thread(target=set_late, args=(mc, stop, setter), daemon=True)
                thread.start()
                assert stop.reached.wait(30)
                stopped = thread.is_alive() and stop._left <= 0
            # The thread has the slot for a moment. Otherwise the next request has it already.
            with contextlib.suppress(PoolTimeout), pool.reserve(block=False) as other:
                as_at_first(other)
                stop.go_on.set()
                thread.join(30)
                as_at_first(other)
                # It may set something, too: that is for itself alone.
                other.set_behaviors({"retry_timeout": 5})
                assert other.get("key") == "value"
            stop.go_on.set()
            thread.join(30)
            assert not thread.is_alive()
            with pytest.raises(ClientReleased):
                mc.get("key")
            with pool.reserve(lazy=lazy) as third:
                as_at_first(third)
                eventually(lambda: connections.count() <= 1)
            if not stopped:
                break
        assert at > 10
        assert pool.stats().size <= 1


@pytest.mark.slow
@LAZY
def test_setting_made_while_the_release_runs_loses_no_slot(address: str, lazy: bool) -> None:
    """Both threads are stopped before each of their lines. Then the setting ends first."""

    def stopped(stop: Stop, do: Callable[[Any], None]) -> threading.Thread:
        thread = threading.Thread(target=set_late, args=(mc, stop, do), daemon=True)
        thread.start()
        assert stop.reached.wait(30)
        return thread

    with ClientPool(Client([address]), 1) as pool:
        for at_setting in itertools.count(1):
            for at_release in itertools.count(1):
                mc = pool.reserve(lazy=lazy)
                mc.__enter__()
                mc.get("key")
                setting, release = Stop(at_setting), Stop(at_release)
                threads = [
                    (stopped(setting, call_set_behaviors), setting),
                    (stopped(release, LentClient.release), release),
                ]
                for thread, stop in threads:
                    stop.go_on.set()
                    thread.join(30)
                    assert not thread.is_alive()
                assert pool.stats().in_use == 0, (at_setting, at_release)
                if release._left > 0:
                    break
            if setting._left > 0:
                break
        assert at_setting > 10
        assert at_release > 5


@pytest.mark.slow
@tracing
@LAZY
def test_setting_that_was_interrupted_can_be_made_again(address: str, lazy: bool) -> None:
    """Or the client is released. It does not wait for a slot that the interrupt has lost."""
    with ClientPool(Client([address]), 1, timeout=0) as pool:

        def set_again() -> None:
            with pool.reserve(lazy=lazy) as mc:
                with contextlib.suppress(TimeoutError):
                    mc.set_behaviors({"namespace": "x:"})
                    return
                with limited(), contextlib.suppress(ClientReleased):
                    mc.set_behaviors({"namespace": "x:"})
                raise TimeoutError

        def check() -> None:
            with pool.reserve() as other:
                assert other.behaviors.get("namespace") is None

        assert interrupted_everywhere(TimeoutError, set_again, check, in_finalisers=True) > 50


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """What is in here is not traced, and ends within seconds."""

    def handler(*_: object) -> None:
        pytest.fail("it waits for ever")

    trace = sys.gettrace()
    sys.settrace(None)
    before = signal.signal(signal.SIGALRM, handler)
    signal.alarm(5)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        sys.settrace(trace)


@pytest.mark.slow
@LAZY
def test_many_settings_made_while_requests_end_reach_nobody(address: str, lazy: bool) -> None:
    """The same without a tracer, as it comes."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    errors: list[BaseException] = []
    lent: list[Any] = []
    settings: list[None] = []
    over = threading.Event()

    def set_always() -> None:
        while not over.is_set():
            try:
                lent[-1].set_behaviors({"namespace": "x:"})
                settings.append(None)
            except (IndexError, ClientReleased):
                pass
            except BaseException as error:
                errors.append(error)
                return

    # Its threads may wait for long on a busy machine.
    with ClientPool(Client([address], command_timeout=30), 1) as pool:
        with pool.reserve() as mc:
            mc.set("key", "value")
        threads = [threading.Thread(target=set_always, daemon=True) for _ in range(2)]
        try:
            for thread in threads:
                thread.start()
            for _ in range(300):
                with pool.reserve(lazy=lazy) as mc:
                    lent[:] = [mc]
                    mc.get("key")
                with pool.reserve(lazy=lazy) as mc:
                    assert mc.get("key") == "value"
        finally:
            over.set()
            sys.setswitchinterval(before)
            for thread in threads:
                thread.join(30)
        assert errors == []
        assert settings
        assert pool.stats().size <= 1
