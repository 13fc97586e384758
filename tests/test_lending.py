"""The concurrency core: every order of its steps, an interrupt at every point, and stress.

The orders: participants are greenlets that give way before each atomic step (each
operation on a deque, each half of a hand-over), and a scheduler tries all orders
with a bounded number of preemptions: a thread that could go on is set aside for
another at most that often. (Musuvathi and Qadeer, "Iterative context bounding", 2007:
nearly all faults need two preemptions at most.) What runs is the code that ships.
"""

from __future__ import annotations

import random
import sys
import threading
from collections import deque
from types import FrameType
from typing import Any, Callable

import greenlet
import pytest
from harness import eventually, in_threads

from mcpool_wsgi import ClientPool, PoolClosed, PoolTimeout, ThreadMappedPool, leases, lending
from mcpool_wsgi.slots import Slot


class FakeClient:
    """Nothing here talks to memcached; a client is something that can be cloned."""

    def clone(self) -> FakeClient:
        return FakeClient()


# -- Every order of the steps


class Stepped(deque):  # type: ignore[type-arg]
    """A deque whose every operation is a step."""


def _stepped(name: str) -> Callable[..., Any]:
    operation = getattr(deque, name)

    def method(self: Stepped, *args: Any) -> Any:
        step()
        return operation(self, *args)

    return method


for _name in ("__bool__", "__len__", "append", "appendleft", "pop", "popleft", "remove"):
    if hasattr(deque, _name):  # from Python 3.11 on it has no __bool__
        setattr(Stepped, _name, _stepped(_name))


class SteppedWaiter(lending.Waiter):
    __slots__ = ("handed",)

    def __init__(self) -> None:
        self._slot = None
        self.handed = False

    def hand_over(self, slot: Slot | None) -> None:
        self._slot = slot
        step()
        self.handed = True

    def wait(self, seconds: float) -> None:
        scheduler = Scheduler.running
        assert scheduler is not None
        # With a timeout of 0 it may be over at any moment; otherwise only a hand-over ends it.
        scheduler.blocked[greenlet.getcurrent()] = lambda: self.handed or seconds == 0
        step()
        del scheduler.blocked[greenlet.getcurrent()]


def step() -> None:
    if Scheduler.running is not None:
        Scheduler.running.greenlet.switch()


class Scheduler:
    """Runs participants in one order of their steps, as *choices* say; then the first that can."""

    running: Scheduler | None = None

    def __init__(self, choices: list[int], preemptions: int) -> None:
        self.greenlet = greenlet.getcurrent()
        self.blocked: dict[Any, Callable[[], bool]] = {}
        self.preemptions = preemptions
        self.choices = choices
        self.taken: list[tuple[int, int]] = []  # what was chosen, of how many

    def run(self, works: list[Callable[[], None]]) -> None:
        participants = {greenlet.greenlet(work): work for work in works}
        current = None
        Scheduler.running = self
        try:
            while any(not one.dead for one in participants):
                able = []
                idle: list[object] = []
                for one, work in participants.items():
                    # Those that have yet to begin the same work are alike: one stands for all.
                    if one.dead or not self._able(one) or (not one and work in idle):
                        continue
                    if not one:
                        idle.append(work)
                    able.append(one)
                assert able, "everybody waits, and nobody for anybody"
                if current in able:
                    able.remove(current)
                    able.insert(0, current)
                    if not self.preemptions:
                        del able[1:]
                    choice = self._choose(len(able))
                    self.preemptions -= choice > 0
                else:
                    choice = self._choose(len(able))
                current = able[choice]
                current.switch()
        finally:
            Scheduler.running = None

    def _able(self, participant: Any) -> bool:
        return participant not in self.blocked or self.blocked[participant]()

    def _choose(self, options: int) -> int:
        number = len(self.taken)
        choice = self.choices[number] if number < len(self.choices) else 0
        self.taken.append((choice, options))
        return choice


def explore(scenario: Callable[[Scheduler], None], preemptions: int) -> int:
    """Run *scenario* in every order; how many there were."""
    orders = 0
    choices: list[int] = []
    while True:
        scheduler = Scheduler(choices, preemptions)
        scenario(scheduler)
        orders += 1
        taken = scheduler.taken
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return orders
        choices = [choice for choice, _ in taken[:-1]] + [taken[-1][0] + 1]


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], ClientPool]:
    monkeypatch.setattr(lending, "Waiter", SteppedWaiter)

    def make(slots: int) -> ClientPool:
        pool = ClientPool(FakeClient(), slots)
        pool._lender.idle = Stepped(pool._lender.idle)
        pool._lender.waiters = Stepped()
        return pool

    return make


class Holders:
    """Sees to it that nobody has what somebody else has."""

    def __init__(self, pool: ClientPool) -> None:
        self.pool = pool
        self.held: list[Any] = []
        self.timeouts = 0

    def use(self, timeout: float = 9) -> None:
        try:
            with self.pool.reserve(timeout=timeout) as client:
                assert client not in self.held
                self.held.append(client)
                step()
                self.held.remove(client)
        except PoolTimeout:
            self.timeouts += 1

    def all_is_back(self, slots: int) -> None:
        stats = self.pool.stats()
        assert (stats.in_use, stats.waiting, len(self.pool._lender.idle)) == (0, 0, slots)
        assert len(set(self.pool._lender.idle)) == slots
        assert stats.size <= slots


@pytest.mark.parametrize(("users", "slots", "preemptions"), [(2, 1, 5), (3, 1, 3), (3, 2, 3)])
def test_every_order_of_reserving_and_returning(
    stepped: Callable[[int], ClientPool], users: int, slots: int, preemptions: int
) -> None:
    def scenario(scheduler: Scheduler) -> None:
        holders = Holders(stepped(slots))
        scheduler.run([holders.use] * users)
        holders.all_is_back(slots)
        assert holders.timeouts == 0

    assert explore(scenario, preemptions) > 100


def test_every_order_with_a_wait_that_may_time_out(
    stepped: Callable[[int], ClientPool],
) -> None:
    outcomes = set()

    def scenario(scheduler: Scheduler) -> None:
        holders = Holders(stepped(1))
        scheduler.run([holders.use, lambda: holders.use(timeout=0), holders.use])
        holders.all_is_back(1)
        outcomes.add(holders.timeouts)

    assert explore(scenario, 3) > 100
    assert outcomes == {0, 1}


def test_every_order_serves_waiters_as_they_came(
    stepped: Callable[[int], ClientPool],
) -> None:
    def scenario(scheduler: Scheduler) -> None:
        pool = stepped(1)
        queued: list[object] = []
        served: list[object] = []

        class Queue(Stepped):
            def append(self, waiter: SteppedWaiter) -> None:
                super().append(waiter)
                queued.append(greenlet.getcurrent())

        pool._lender.waiters = Queue()

        def use() -> None:
            with pool.reserve(timeout=9):
                if greenlet.getcurrent() in queued:
                    served.append(greenlet.getcurrent())

        scheduler.run([use] * 3)
        assert served == queued

    assert explore(scenario, 3) > 100


def test_every_order_of_closing(stepped: Callable[[int], ClientPool]) -> None:
    def scenario(scheduler: Scheduler) -> None:
        holders = Holders(stepped(1))
        told = []

        def use() -> None:
            try:
                holders.use()
            except PoolClosed:
                told.append(True)

        scheduler.run([use, use, holders.pool.close])
        stats = holders.pool.stats()
        assert (stats.size, stats.in_use, stats.waiting) == (0, 0, 0)

    assert explore(scenario, 3) > 100


def test_every_order_of_ending_one_lease_twice(stepped: Callable[[int], ClientPool]) -> None:
    def scenario(scheduler: Scheduler) -> None:
        holders = Holders(stepped(1))
        lease = holders.pool.reserve()
        lease.__enter__()
        scheduler.run([lease.__exit__, lease.__exit__, holders.use])
        holders.all_is_back(1)

    assert explore(scenario, 3) > 100


def test_the_explorer_finds_a_lost_wakeup(
    stepped: Callable[[int], ClientPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test must be able to fail: here the giver looks for waiters before it gives back."""

    def give_back_too_late(self: leases.Lease, *exc: object) -> None:
        slot = self._slot
        del self._slot
        waited_for = bool(self._lender.waiters)
        self._lender.idle.append(slot)
        if waited_for:
            self._lender.match()

    monkeypatch.setattr(leases.Lease, "__exit__", give_back_too_late)

    def scenario(scheduler: Scheduler) -> None:
        holders = Holders(stepped(1))
        scheduler.run([holders.use] * 2)

    with pytest.raises(AssertionError, match="everybody waits"):
        explore(scenario, 2)


# -- An interrupt at every point


class Interrupt:
    """Raises *error* at the opcode number *at* that is run in this package's code."""

    def __init__(self, error: type[BaseException], at: int) -> None:
        self.error = error
        self.left = at

    def __enter__(self) -> Interrupt:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if "/mcpool_wsgi/" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                raise self.error
        return self._trace


tracing = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="CPython up to 3.10 crashes when a trace function raises"
)
INTERRUPTS = [SystemExit, KeyboardInterrupt, GeneratorExit, greenlet.GreenletExit]


def interrupted_everywhere(
    error: type[BaseException], action: Callable[[], object], check: Callable[[], None]
) -> int:
    """Do *action* again and again, interrupted at its first opcode, its second, ...; how often."""
    at = 0
    while True:
        at += 1
        try:
            with Interrupt(error, at) as interrupt:
                action()
        except error:
            pass
        if interrupt.left > 0:
            return at
        check()


@tracing
@pytest.mark.parametrize("error", INTERRUPTS)
@pytest.mark.parametrize("kind", [ClientPool, ThreadMappedPool])
def test_interrupted_reservation_loses_nothing(kind: Any, error: type[BaseException]) -> None:
    pool = ClientPool(FakeClient(), 2) if kind is ClientPool else ThreadMappedPool(FakeClient())

    def use() -> None:
        with pool.reserve():
            pass

    def nothing_is_lost() -> None:
        assert (pool.stats().in_use, pool.stats().waiting) == (0, 0)
        with pool.reserve(block=False) as a, pool.reserve(block=False) as b:
            assert a is not b
            assert pool.stats().size == 2
        pool.relinquish()

    assert interrupted_everywhere(error, use, nothing_is_lost) > 50


@tracing
@pytest.mark.parametrize("error", INTERRUPTS)
def test_interrupted_first_reservation_loses_nothing(error: type[BaseException]) -> None:
    pools = []

    def use() -> None:
        pools.append(ClientPool(FakeClient(), 1))
        with pools[-1].reserve():
            pass

    def nothing_is_lost() -> None:
        if pools:  # or it was the making of the pool that was interrupted
            pool = pools.pop()
            assert (pool.stats().in_use, pool.stats().waiting) == (0, 0)
            with pool.reserve(block=False):
                pass

    assert interrupted_everywhere(error, use, nothing_is_lost) > 100


@tracing
@pytest.mark.parametrize("error", INTERRUPTS)
def test_interrupted_wait_loses_nothing(error: type[BaseException]) -> None:
    pool = ClientPool(FakeClient(), 1)

    def wait_in_vain() -> None:
        with pool.reserve(), pytest.raises(PoolTimeout):
            pool.reserve(block=False).__enter__()

    def nothing_is_lost() -> None:
        assert (pool.stats().in_use, pool.stats().waiting) == (0, 0)
        with pool.reserve(block=False):
            pass

    assert interrupted_everywhere(error, wait_in_vain, nothing_is_lost) > 200


@tracing
@pytest.mark.parametrize("error", [SystemExit, greenlet.GreenletExit])
def test_interrupted_hand_over_loses_nothing(error: type[BaseException]) -> None:
    pool = ClientPool(FakeClient(), 1, timeout=0.05)

    def hand_over() -> None:
        lease = pool.reserve()
        lease.__enter__()
        trace, _ = sys.gettrace(), sys.settrace(None)
        waiter = threading.Thread(target=use)
        waiter.start()
        eventually(lambda: pool.stats().waiting == 1)
        waiters.append(waiter)
        sys.settrace(trace)
        lease.__exit__(None, None, None)

    def use() -> None:
        with pool.reserve():
            pass

    waiters: list[threading.Thread] = []

    def nothing_is_lost() -> None:
        for waiter in waiters:
            waiter.join(10)
        waiters.clear()
        eventually(lambda: pool.stats().in_use == 0)
        assert pool.stats().waiting == 0
        use()

    assert interrupted_everywhere(error, hand_over, nothing_is_lost) > 50
    assert pool.stats().timeouts == 0


@pytest.mark.parametrize("error", INTERRUPTS)
def test_clone_that_is_interrupted_loses_nothing(error: type[BaseException]) -> None:
    class Unwilling:
        willing = True

        def clone(self) -> Unwilling:
            if not self.willing:
                raise error
            return Unwilling()

    pool = ClientPool(Unwilling(), 1)
    Unwilling.willing = False
    with pytest.raises(error):
        pool.reserve().__enter__()
    assert pool.stats().in_use == 0
    Unwilling.willing = True
    with pool.reserve(block=False):
        pass


def test_greenlet_killed_in_its_block_returns_its_client() -> None:
    pool = ClientPool(FakeClient(), 1)

    def work() -> None:
        with pool.reserve():
            greenlet.getcurrent().parent.switch()

    sleeper = greenlet.greenlet(work)
    sleeper.switch()
    assert pool.stats().in_use == 1
    sleeper.throw(greenlet.GreenletExit)
    assert (pool.stats().in_use, pool.stats().idle) == (0, 1)


# -- Stress


@pytest.fixture
def hectic() -> Any:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hectic")
def test_stress_of_waits_timeouts_and_foreign_ends() -> None:
    pool = ClientPool(FakeClient(), 3)
    holders: dict[int, str] = {}

    def work(name: str) -> None:
        dice = random.Random(name)
        for _ in range(1500):
            lease = pool.reserve(timeout=dice.choice([5, 5, 0, 0.0001]))
            try:
                client = lease.__enter__()
            except PoolTimeout:
                continue
            assert holders.setdefault(id(client), name) == name
            del holders[id(client)]
            del client  # or it would go on taking a slot, once its lease has been dropped
            if dice.random() < 0.9:
                lease.__exit__()
                lease.__exit__()
            del lease

    in_threads([lambda name=name: work(name) for name in "abcdefgh"])  # type: ignore[misc]
    stats = pool.stats()
    assert (stats.in_use, stats.waiting) == (0, 0)
    assert len(pool._lender.idle) == 3
    with pool.reserve(block=False), pool.reserve(block=False), pool.reserve(block=False):
        assert pool.stats().size == 3
