"""Threads that fork, and the main thread, which gets signals."""

from __future__ import annotations

import math
import os
import random
import signal
import time
from time import monotonic
from types import FrameType

from forking import in_child

from .arrangement import Soaked
from .workers import Interrupt, InterruptingError, Worker

PATIENCE = 15.0  # seconds after which something hangs


def fork_for_a_moment(soaked: Soaked, worker: Worker, dice: random.Random) -> None:
    """Fork a child that reads and writes, and note how it ends."""
    seed = dice.random()

    def work() -> None:
        soaked.ledger.wrong.clear()
        soaked.unexpected.clear()
        child = Worker(soaked, f"child{os.getpid()}", random.Random(seed), child=True)
        end = monotonic() + 0.2
        for _ in range(3):  # at least, whatever the server does
            child.guarded(child.step)
        while monotonic() < end:
            child.guarded(child.step)
        problems = [*soaked.ledger.wrong, *soaked.unexpected]
        assert not problems, problems

    pid = in_child(work)
    worker.counts["forks"] += 1
    deadline = monotonic() + PATIENCE
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if monotonic() > deadline:
            soaked.unexpected.append("a forked child hangs")
            os.kill(pid, signal.SIGABRT)  # faulthandler says where it is
            time.sleep(1)
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            break
        time.sleep(0.01)
    if status:
        soaked.unexpected.append(f"a forked child ended with {os.waitstatus_to_exitcode(status)}")


class Forker(Worker):
    """A thread that forks now and then."""

    def run(self) -> None:
        while not self.soaked.over.is_set():
            for _ in range(20):
                self.guarded(self.step)
                self.soaked.over.wait(self.dice.choice([0, 0.001, 0.02]))
            fork_for_a_moment(self.soaked, self, self.dice)
        self.finish()


class Interrupted(Worker):
    """The main thread, whose commands signals interrupt."""

    armed = False

    def run(self) -> None:
        before = signal.signal(signal.SIGALRM, self.handler)
        try:
            while not self.soaked.over.is_set():
                if self.soaked.back == math.inf:
                    self.interrupted_step()
                else:  # a signal may cost a connection, and the recovery is measured
                    self.guarded(self.step)
                    time.sleep(0.001)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        self.finish()

    def interrupted_step(self) -> None:
        seconds = self.dice.choice([0, self.dice.uniform(1e-6, 2e-3), self.dice.uniform(0.1, 1)])
        try:
            try:
                self.armed = True
                signal.setitimer(signal.ITIMER_REAL, seconds)
                self.guarded(self.step)
            finally:
                self.armed = False
        except (Interrupt, InterruptingError):
            self.armed = False
            self.counts["interrupts"] += 1
        signal.setitimer(signal.ITIMER_REAL, 0)

    def handler(self, number: int, frame: FrameType | None) -> None:
        choice = self.dice.randrange(3)
        if choice == 0:
            self.armed, armed = False, self.armed
            self.guarded(self.handle)
            self.armed = armed
        elif self.armed:
            raise Interrupt if choice == 1 else InterruptingError
