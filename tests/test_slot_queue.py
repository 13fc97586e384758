"""The concurrency core: every order of its steps, an interrupt at every point, and stress."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from contextlib import ExitStack
from typing import Any, Callable

import greenlet
import pytest
from harness import FakeClient, eventually, in_threads, waiting
from interrupts import INTERRUPTS, SignalHandler, interrupted_everywhere, tracing
from orders import Scheduler, Stepped, SteppedWaiter, explore, step

from mcpool_wsgi import ClientPool, PoolClosed, PoolTimeout, ThreadMappedPool
from mcpool_wsgi.pool import Reservation, slot_queue, timeouts


@pytest.fixture(autouse=True)
def _quick_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time-outs of thousands of pools do not look for holders, which takes milliseconds."""
    monkeypatch.setattr(timeouts, "find_holders", lambda slots: [])


# -- Every order of the steps


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], ClientPool]:
    monkeypatch.setattr(slot_queue, "Waiter", SteppedWaiter)

    def make(slots: int) -> ClientPool:
        pool = ClientPool(FakeClient(), slots)
        pool._queue.idle = Stepped(pool._queue.idle)
        pool._queue.waiters = Stepped()
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
        assert (stats.in_use, stats.waiting) == (0, 0)
        assert len(set(self.pool._queue.idle)) == len(self.pool._queue.idle) <= slots
        assert (
            stats.size <= stats.clients_made <= slots
        )  # none was made in the place of a lost one


@pytest.mark.slow
@pytest.mark.parametrize(("users", "slots", "preemptions"), [(2, 1, 5), (3, 1, 3), (3, 2, 3)])
def test_every_order_of_reserving_and_releasing_loses_nothing(
    stepped: Callable[[int], ClientPool], users: int, slots: int, preemptions: int
) -> None:
    def scenario(scheduler: Scheduler) -> None:
        holders = Holders(stepped(slots))
        scheduler.run([holders.use] * users)
        holders.all_is_back(slots)
        assert holders.timeouts == 0

    assert explore(scenario, preemptions) > 100


@pytest.mark.slow
def test_every_order_with_a_wait_that_may_time_out_loses_nothing(
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


@pytest.mark.slow
def test_every_order_serves_waiters_as_they_came(stepped: Callable[[int], ClientPool]) -> None:
    def scenario(scheduler: Scheduler) -> None:
        pool = stepped(1)
        queued: list[object] = []
        served: list[object] = []

        class Queue(Stepped):
            def append(self, waiter: SteppedWaiter) -> None:
                super().append(waiter)
                queued.append(greenlet.getcurrent())

        pool._queue.waiters = Queue()

        def use() -> None:
            with pool.reserve(timeout=9):
                if greenlet.getcurrent() in queued:
                    served.append(greenlet.getcurrent())

        scheduler.run([use] * 3)
        assert served == queued

    assert explore(scenario, 3) > 100


@pytest.mark.slow
def test_every_order_of_closing_leaves_nobody_waiting(
    stepped: Callable[[int], ClientPool],
) -> None:
    def scenario(scheduler: Scheduler) -> None:
        holders = Holders(stepped(1))

        def use() -> None:
            with contextlib.suppress(PoolClosed):
                holders.use()

        scheduler.run([use, use, holders.pool.close])
        stats = holders.pool.stats()
        assert (stats.size, stats.in_use, stats.waiting) == (0, 0, 0)

    assert explore(scenario, 3) > 100


def test_every_order_of_ending_one_reservation_twice_releases_it_once(
    stepped: Callable[[int], ClientPool],
) -> None:
    def scenario(scheduler: Scheduler) -> None:
        holders = Holders(stepped(1))
        reservation = holders.pool.reserve()
        reservation.__enter__()
        scheduler.run([reservation.__exit__, reservation.__exit__, holders.use])
        holders.all_is_back(1)

    assert explore(scenario, 3) > 100


def test_the_explorer_finds_a_lost_wakeup(
    stepped: Callable[[int], ClientPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test must be able to fail: this release looks for waiters before it puts the slot back."""

    def release_too_late(self: Reservation, *exc: object) -> None:
        slot = self._slot
        del self._slot
        waited_for = bool(self._queue.waiters)
        self._queue.idle.append(slot)
        if waited_for:
            self._queue.serve_waiters()

    monkeypatch.setattr(Reservation, "__exit__", release_too_late)

    def scenario(scheduler: Scheduler) -> None:
        holders = Holders(stepped(1))
        scheduler.run([holders.use] * 2)

    with pytest.raises(AssertionError, match="everybody waits"):
        explore(scenario, 2)


# -- An interrupt at every point


@pytest.mark.slow
def test_nobody_is_served_before_the_one_who_waits() -> None:
    """A signal handler reserves at each moment of a release."""
    pool = ClientPool(FakeClient(), 1, timeout=60)
    overtaken = []

    def wait() -> None:
        with pool.reserve():
            is_over.wait(60)

    def overtake() -> None:
        with contextlib.suppress(PoolTimeout), pool.reserve(block=False):
            overtaken.append(at)

    at = 0
    while True:
        at += 1
        is_over = threading.Event()
        reservation = pool.reserve()
        reservation.__enter__()
        with waiting(pool, wait):
            with SignalHandler(overtake, at) as handler:
                reservation.release()
            is_over.set()
        if handler.left > 0:
            break
    assert at > 20
    assert overtaken == []


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@tracing
@pytest.mark.parametrize("error", [SystemExit, greenlet.GreenletExit])
def test_interrupted_assign_loses_nothing(error: type[BaseException]) -> None:
    pool = ClientPool(FakeClient(), 1, timeout=0.25)

    def assign() -> None:
        reservation = pool.reserve()
        reservation.__enter__()
        trace = sys.gettrace()
        sys.settrace(None)
        waiter = threading.Thread(target=use)
        waiter.start()
        eventually(lambda: pool.stats().waiting == 1)
        waiters.append(waiter)
        sys.settrace(trace)
        reservation.__exit__(None, None, None)

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

    assert interrupted_everywhere(error, assign, nothing_is_lost) > 50
    assert pool.stats().timeouts == 0


@pytest.mark.slow
@tracing
@pytest.mark.parametrize("error", [SystemExit, greenlet.GreenletExit])
def test_interrupted_finaliser_loses_nothing(error: type[BaseException]) -> None:
    """Nobody can catch what is raised there, but the slot is replaced."""
    pool = ClientPool(FakeClient(), 2)

    def drop() -> None:
        pool.reserve().__enter__()

    def nothing_is_lost() -> None:
        for _ in range(3):  # the first who waits in vain finds that something is missing
            with contextlib.suppress(PoolTimeout), ExitStack() as reservations:
                for _ in range(3):
                    reservations.enter_context(pool.reserve(block=False))
        with pool.reserve(block=False) as a, pool.reserve(block=False) as b:
            assert a is not b
            with pytest.raises(PoolTimeout):
                pool.reserve(block=False).__enter__()

    assert interrupted_everywhere(error, drop, nothing_is_lost, in_finalisers=True) > 100


@pytest.mark.parametrize("error", [MemoryError, *INTERRUPTS])
def test_clone_that_fails_loses_no_slot_whoever_holds_the_traceback(
    error: type[BaseException],
) -> None:
    class Unwilling:
        willing = True

        def clone(self) -> Unwilling:
            if not self.willing:
                raise error
            return Unwilling()

    pool = ClientPool(Unwilling(), 2)
    Unwilling.willing = False
    for _ in range(5):
        with pytest.raises(error) as failure:
            pool.reserve().__enter__()
        assert failure.tb is not None  # which holds the frames, and these must hold no slot
        assert (pool.stats().in_use, pool.stats().size) == (0, 0)
    Unwilling.willing = True
    with pool.reserve(block=False), pool.reserve(block=False):
        assert pool.stats().size == 2


def test_greenlet_killed_in_its_block_releases_its_client() -> None:
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


@pytest.mark.slow
@pytest.mark.usefixtures("hectic")
def test_many_waits_timeouts_and_dropped_reservations_lose_nothing() -> None:
    pool = ClientPool(FakeClient(), 3)
    holders: dict[int, str] = {}

    def work(name: str) -> None:
        dice = random.Random(name)
        for _ in range(1500):
            reservation = pool.reserve(timeout=dice.choice([5, 5, 0, 0.0001]))
            try:
                client = reservation.__enter__()
            except PoolTimeout:
                continue
            assert holders.setdefault(id(client), name) == name
            del holders[id(client)]
            del client  # or it would go on taking a slot, once its reservation has been dropped
            if dice.random() < 0.9:
                reservation.__exit__()
                reservation.__exit__()
            del reservation

    in_threads([lambda name=name: work(name) for name in "abcdefgh"])  # type: ignore[misc]
    stats = pool.stats()
    assert (stats.in_use, stats.waiting) == (0, 0)
    with pool.reserve(block=False), pool.reserve(block=False), pool.reserve(block=False):
        assert pool.stats().size == 3
