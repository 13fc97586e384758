"""Every order of the steps of several threads.

Participants are greenlets that give way before each atomic step (each operation on a
deque, each half of a hand-over), and a scheduler tries all orders with a bounded number
of preemptions: a thread that could go on is set aside for another at most that often.
(Musuvathi and Qadeer, "Iterative context bounding", 2007: nearly all faults need two
preemptions at most.) What runs is the code that ships.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Callable

import greenlet

from mcpool_wsgi.pool import slot_queue
from mcpool_wsgi.pool.slots import Slot


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


class SteppedWaiter(slot_queue.Waiter):
    __slots__ = ("assigned",)

    def __init__(self) -> None:
        self._slot = None
        self.assigned = False

    def assign(self, slot: Slot | None) -> None:
        self._slot = slot
        step()
        self.assigned = True

    def wait(self, seconds: float) -> None:
        scheduler = Scheduler.running
        assert scheduler is not None
        # With a timeout of 0 it may be over at any moment; otherwise only a hand-over ends it.
        scheduler.blocked[greenlet.getcurrent()] = lambda: self.assigned or seconds == 0
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
