"""Threads that use clients and check what they read."""

from __future__ import annotations

import random
import traceback
from collections import Counter
from time import monotonic
from typing import Any, Callable

import pylibmc

from mcpool_wsgi import PoolTimeout

from .arrangement import THREADS, Soaked
from .values import number_of, value_of

KEYS = 12  # for each thread


class Interrupt(BaseException):
    """What a signal handler raises, as a server's time-out raises SystemExit."""


class InterruptingError(Exception):
    """What a signal handler raises, as an alarm raises TimeoutError."""


class Worker:
    """One thread's work with its own keys."""

    def __init__(self, soaked: Soaked, name: str, dice: random.Random, child: bool = False):
        self.soaked = soaked
        self.dice = dice
        self.child = child
        self.own = [f"{soaked.name}-{name}-{number}" for number in range(KEYS)]
        self.others = [f"{soaked.name}-{n}-{k}" for n in range(THREADS) for k in range(KEYS)]
        self.missing = f"{soaked.name}-{name}-never"
        self.counter = f"{soaked.name}-{name}-counter"
        self.written_by_handlers = f"{soaked.name}-{name}-handlers"
        self.incremented = 0
        self.handled = 0  # how many signals a handler has seen
        self.counts: Counter[str] = Counter()

    def run(self) -> None:
        """Work until the end, and note what no command should raise."""
        soaked = self.soaked
        while not soaked.over.is_set():
            self.guarded(self.step)
            soaked.over.wait(self.dice.choice([0, 0.0005, 0.002]))
        self.finish()

    def finish(self) -> None:
        with self.soaked.counts_lock:
            self.soaked.counts.update(self.counts)

    def guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except PoolTimeout:
            self.counts["pool timeouts"] += 1
        except pylibmc.Error as error:
            self.failed()
            self.soaked.note_cause(error)
        except (Interrupt, InterruptingError):
            raise
        except BaseException:
            self.soaked.unexpected.append(traceback.format_exc())

    def failed(self) -> None:
        self.counts["failures"] += 1
        self.soaked.last_failure = monotonic()

    def step(self) -> None:
        """One reservation, and a few commands."""
        with self.soaked.reserve() as mc:
            for _ in range(self.dice.randrange(1, 6)):
                self.dice.choice(_STEPS)(self, mc)

    def handle(self) -> None:
        """What a signal handler does: one read or one write."""
        self.handled += 1
        with self.soaked.reserve(timeout=0.2) as mc:
            if self.dice.random() < 0.5:
                self.read(mc)
            else:  # of a key that no interrupted command writes
                self.write(mc, self.written_by_handlers)

    def do(self, mc: Any, name: str, *args: Any) -> Any:
        """Run one command, and take its time."""
        soaked = self.soaked
        self.counts["commands"] += 1
        handled = self.handled
        begin = monotonic()
        try:
            return getattr(mc, name)(*args)
        finally:
            end = monotonic()
            if soaked.kind == "shared":
                begin, soaked.last_end = max(begin, soaked.last_end), end
            # A handler's command is part of the time of the one that it interrupted.
            if end - begin > 0.2 and name != "gets" and handled == self.handled:
                soaked.timings.append((name, begin, end))

    def check(self, command: str, key: str, value: Any, floor: int) -> None:
        """Check what was read. A child does not know how far its parent is."""
        ledger = self.soaked.ledger
        if value is None:
            self.counts["misses"] += 1
            return
        self.counts["reads"] += 1
        if self.child and key not in self.own:
            try:
                number = number_of(value)
            except (ValueError, IndexError):
                number = 0
            if value != value_of(key, number):
                ledger.note_wrong(command, key, value, "is not of this key")
            return
        ledger.check(command, key, value, floor)

    def any_key(self) -> str:
        return self.dice.choice(self.own if self.dice.random() < 0.7 else self.others)

    # -- What a step may do

    def write(self, mc: Any, key: str | None = None) -> None:
        key = key or self.dice.choice(self.own)
        number = self.soaked.ledger.begins(key)
        compress = self.dice.choice([0, 0, 100])
        if self.do(mc, "set", key, value_of(key, number), 0, compress):
            self.soaked.ledger.settles(key, number)
        else:
            self.failed()

    def write_many(self, mc: Any) -> None:
        ledger = self.soaked.ledger
        numbers = {key: ledger.begins(key) for key in self.dice.sample(self.own, 4)}
        values = {key: value_of(key, number) for key, number in numbers.items()}
        not_stored = self.do(mc, "set_multi", values)
        for key, number in numbers.items():
            if key not in not_stored:
                ledger.settles(key, number)
        if not_stored:
            self.failed()

    def read(self, mc: Any) -> None:
        key = self.any_key()
        floor = self.soaked.ledger.settled[key]
        self.check("get", key, self.do(mc, "get", key), floor)

    def read_many(self, mc: Any) -> None:
        keys = [self.any_key() for _ in range(self.dice.randrange(1, 12))]
        floors = {key: self.soaked.ledger.settled[key] for key in keys}
        found = self.do(mc, "get_multi", [*keys, self.missing])
        for key, value in found.items():
            if key not in floors:
                self.soaked.ledger.note_wrong("get_multi", key, value, "was not asked for")
                continue
            self.check("get_multi", key, value, floors[key])

    def read_missing(self, mc: Any) -> None:
        value = self.do(mc, "get", self.missing)
        if value is not None:
            self.soaked.ledger.note_wrong("get", self.missing, value, "was never written")

    def swap(self, mc: Any) -> None:
        if self.dice.random() < 0.7:
            return  # gets stops the whole process where a server stalls
        key = self.dice.choice(self.own)
        ledger = self.soaked.ledger
        floor = ledger.settled[key]
        value, cas = self.do(mc, "gets", key)
        self.check("gets", key, value, floor)
        if cas is not None:
            number = ledger.begins(key)
            try:
                if self.do(mc, "cas", key, value_of(key, number), cas):
                    ledger.settles(key, number)
            except pylibmc.NotFound:
                pass  # the server was restarted in between

    def remove(self, mc: Any) -> None:
        key = self.dice.choice(self.own)
        ledger = self.soaked.ledger
        number = ledger.tried[key] + 1
        ledger.tried[key] = number
        if self.do(mc, "delete", key):
            ledger.settles(key, number)

    def touch(self, mc: Any) -> None:
        if self.do(mc, "touch", self.missing, 60):
            self.soaked.ledger.note_wrong("touch", self.missing, True, "was never written")

    def count(self, mc: Any) -> None:
        self.incremented += 1
        try:
            number = self.do(mc, "incr", self.counter)
        except pylibmc.NotFound:
            self.do(mc, "add", self.counter, 0)
            return
        if number is False and self.soaked.fail_soft:
            self.failed()
        elif type(number) is not int or not 0 < number <= self.incremented:
            self.soaked.ledger.note_wrong(
                "incr", self.counter, number, f"after {self.incremented} increments"
            )

    def look(self, mc: Any) -> None:
        if self.dice.random() < 0.1:
            for _, stats in self.do(mc, "get_stats"):
                if b"pid" not in {n if isinstance(n, bytes) else n.encode() for n in stats}:
                    self.soaked.ledger.note_wrong("get_stats", "", stats, "has no pid")
        elif self.dice.random() < 0.1:
            self.do(mc, "disconnect_all")


_STEPS = (
    *[Worker.write, Worker.read, Worker.read_many] * 3,
    *[Worker.count, Worker.write_many] * 2,
    Worker.read_missing,
    Worker.swap,
    Worker.remove,
    Worker.touch,
    Worker.look,
)
