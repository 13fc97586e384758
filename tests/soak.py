"""A soak: clients in all arrangements, while their servers and processes are disturbed.

.. code-block:: console

    $ python tests/soak.py --seconds 120
    $ python tests/soak.py --seconds 120 --seed 7

Each round takes some ten seconds and has two client processes. One uses one memcached, the
other uses three. The program kills, restarts, stops and continues the servers, and disturbs the
proxies in front of some. A client process has five threads. Its main thread gets signals, and
two of its threads fork. Twelve rounds go through all arrangements: text and binary, pooled,
lazily lent and shared clients, with and without ``fail_soft``.

What counts as a violation:

-   **A wrong value.** Each value names its key and its number. A key has one writer, who counts
    upwards. A number below the last acknowledged one is wrong, unless nobody acknowledged it: a
    ``set`` that timed out may be carried out late. Of three servers, a server that comes back
    may still have what it had, so there any value of the key is right.
-   **A crash.** A client process or a forked child ends other than with 0, or hangs.
-   **A lost slot.** A slot is in use when all threads have ended, or cannot be reserved.
-   **A late command.** It lasts longer than ``command_timeout`` and half a second. Time in which
    the whole process stood still does not count, nor does the wait for the turn on a shared
    client. ``gets`` is not measured.
-   **A late recovery.** A command fails more than :data:`RECOVERY` seconds after the last
    restart.
-   **An unexpected exception**, in a command, in a thread or in a finaliser.

The exit status is 1 if there was a violation. The seed settles what happens, but not when: the
threads run as the system lets them.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import itertools
import json
import logging
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, Callable

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pylibmc
from forking import in_child
from hostile import Proxy

from mcpool_wsgi import Client, ClientPool, PoolTimeout
from mcpool_wsgi.devserver import memcached

ROUND = 12.0  # seconds, about
CALM = 5.5  # seconds of each round that come after the last restart
SLACK = 0.5  # seconds that a command may take beyond its command_timeout
RECOVERY_AIM = 1.5  # seconds
# Seconds by the number of servers. More than the aim is a violation only from here on, because
# libmemcached counts whole seconds and a machine that runs other things adds its own.
RECOVERY = {1: 2.5, 3: 5.0}
PATIENCE = 15.0  # seconds after which something hangs
LONGEST_DELAY = 0.7  # seconds by which a proxy delays an answer
THREADS = 4  # besides the main thread
KEYS = 12  # for each thread
NUMBER_BITS = 24  # of a value that is an int
EVIL = "evil"  # a key that only a value taken for a command would write

KINDS = ("pooled", "lazy", "shared")
ARRANGEMENTS = list(itertools.product((False, True), KINDS, (False, True)))


# -- Servers and what happens to them


class Server:
    """A real memcached that keeps its address, and a proxy in front of it."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self._port = _free_port()
        self.start()
        self.proxy = Proxy(self.address)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        self._process = self._running.enter_context(
            memcached(embedded=False, port=self._port)
        ).process

    def kill(self) -> None:
        self._running.close()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.proxy.close()
        self.kill()


def _free_port() -> int:
    """A port that no outgoing connection gets while the server is down."""
    while True:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def _killed(server: Server, dice: random.Random) -> None:
    server.kill()
    time.sleep(dice.choice([0, dice.random()]))
    server.start()


def _stopped(server: Server, dice: random.Random) -> None:
    server.stop()
    time.sleep(dice.uniform(0, 1.5))
    server.go_on()


def _killed_while_stopped(server: Server, dice: random.Random) -> None:
    server.stop()
    time.sleep(dice.uniform(0, 0.7))
    _killed(server, dice)


def _delayed(server: Server, dice: random.Random) -> None:
    server.proxy.delay = dice.uniform(0.01, LONGEST_DELAY)
    time.sleep(dice.uniform(0.2, 1.5))
    server.proxy.go_on()


def _dripping(server: Server, dice: random.Random) -> None:
    server.proxy.drip = dice.uniform(0.001, 0.45)
    time.sleep(dice.uniform(0.2, 1.5))
    server.proxy.go_on()


def _cut(server: Server, dice: random.Random) -> None:
    server.proxy.cut_after = dice.randrange(1, 3000)
    time.sleep(dice.uniform(0.2, 1))
    server.proxy.cut()
    server.proxy.go_on()


def _unread(server: Server, dice: random.Random) -> None:
    server.proxy.stop_reading()
    time.sleep(dice.uniform(0.1, 1.5))
    server.proxy.go_on()


_EVENTS = (_killed, _stopped, _killed_while_stopped, _delayed, _dripping, _cut, _unread)


def disturb(servers: list[Server], seconds: float, dice: random.Random) -> float:
    """Disturb *servers*, and end with a restart.

    :return: when the server was back, in seconds of ``time.monotonic()``.
    """
    end = monotonic() + seconds - LONGEST_DELAY
    while monotonic() < end:
        time.sleep(dice.uniform(0.05, 0.5))
        dice.choice(_EVENTS)(dice.choice(servers), dice)
    time.sleep(LONGEST_DELAY)  # what was delayed has arrived
    _killed(dice.choice(servers), dice)
    return monotonic()


# -- Values


def value_of(key: str, number: int) -> Any:
    """What the writer of *key* stores as its value *number*."""
    text = f"{key}|{number}"
    kind = number % 7
    if kind == 1:
        return text.encode()
    if kind == 2:
        return (key, number)
    if kind == 3:
        return f"{text}|\r\nset {EVIL} 0 0 4\r\nevil\r\n"
    if kind == 4:
        return f"{text}|{'x' * 30_000}"
    if kind == 5:
        return text.encode() + b"|" + bytes(range(256)) * 200
    if kind == 6:
        return zlib.crc32(key.encode()) << NUMBER_BITS | number
    return text


def number_of(value: Any) -> int:
    """The number of a value.

    :raises ValueError: it has none.
    """
    if type(value) is int:
        return value % (1 << NUMBER_BITS)
    if isinstance(value, tuple) and len(value) == 2:
        return int(value[1])
    if isinstance(value, bytes):
        return int(value.split(b"|")[1])
    if isinstance(value, str):
        return int(value.split("|")[1])
    raise ValueError(value)


class Ledger:
    """What was written under each key, and what may be read."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self.tried: Counter[str] = Counter()
        self.settled: Counter[str] = Counter()
        self._doubted: set[tuple[str, int]] = set()
        self.wrong: list[str] = []
        self.late = 0  # values that nobody acknowledged, and that came after an acknowledged one

    def begins(self, key: str) -> int:
        """The next number for *key*, about to be written."""
        number = self.tried[key] + 1
        self._doubted.add((key, number))
        self.tried[key] = number
        return number

    def settles(self, key: str, number: int) -> None:
        """The server said that it has *number*."""
        self.settled[key] = number
        self._doubted.discard((key, number))

    def check(self, command: str, key: str, value: Any, floor: int) -> None:
        """Note whether *value* is wrong.

        :param floor: what was settled for *key* before it was read.
        """
        try:
            number = number_of(value)
        except (ValueError, IndexError):
            self.note_wrong(command, key, value, "names no number")
            return
        if value != value_of(key, number) or type(value) is not type(value_of(key, number)):
            self.note_wrong(command, key, value, "is not of this key")
        elif not 0 < number <= self.tried[key]:
            self.note_wrong(command, key, value, f"was never written, {self.tried[key]} was")
        elif number < floor and self._strict:
            if (key, number) in self._doubted:
                self.late += 1
            else:
                self.note_wrong(command, key, value, f"is older than {floor}")

    def note_wrong(self, command: str, key: str, value: Any, why: str) -> None:
        self.wrong.append(f"{command} of {key}: {str(value)[:120]!r} {why}")


# -- A client process


class Interrupt(BaseException):
    """What a signal handler raises, as a server's time-out raises SystemExit."""


class InterruptingError(Exception):
    """What a signal handler raises, as an alarm raises TimeoutError."""


class Soaked:
    """One arrangement, all of whose threads are in this process."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.name: str = options["name"]
        self.kind: str = options["kind"]
        self.limit: float = options["command_timeout"]
        self.fail_soft: bool = options["fail_soft"]
        servers: list[str] = options["servers"]
        behaviors = {"cas": True, **({"dead_timeout": 1} if len(servers) > 1 else {})}
        self.client = Client(
            servers,
            behaviors,
            binary=options["binary"],
            fail_soft=self.fail_soft,
            command_timeout=self.limit,
        )
        self.slots = 3 if self.kind == "pooled" else THREADS + 2  # a handler needs one, too
        self.pool = ClientPool(self.client, self.slots, timeout=5)
        self.ledger = Ledger(strict=len(servers) == 1)
        self.counts: Counter[str] = Counter()
        self.counts_lock = threading.Lock()
        self.unexpected: list[str] = []
        self.last_failure = 0.0
        self.failures_after: list[str] = []  # those after the last restart
        self.last_end = 0.0  # of a command of the shared client
        self.timings: list[tuple[str, float, float]] = []  # the long ones
        self.stalls: list[tuple[float, float]] = []
        self.over = threading.Event()
        self.back = math.inf

    def reserve(self, timeout: float | None = None) -> Any:
        """A context manager that gives a client."""
        if self.kind == "shared":
            return contextlib.nullcontext(self.client)
        return self.pool.reserve(timeout=timeout, lazy=self.kind == "lazy")

    def heartbeat(self) -> None:
        """Note when the whole process stands still."""
        while not self.over.is_set():
            before = monotonic()
            time.sleep(0.01)
            after = monotonic()
            if after - before > 0.03:
                self.stalls.append((before, after))

    def longest(self) -> tuple[float, str]:
        """Seconds of the longest command, without those in which the process stood still."""
        found = (0.0, "")
        for name, begin, end in self.timings:
            stalled = sum(max(0.0, min(end, b) - max(begin, a)) for a, b in self.stalls)
            found = max(found, (end - begin - stalled, name))
        return found

    def listen(self) -> None:
        """Wait for the word that all servers are back, and soon stop."""
        word = os.read(0, 100)
        self.back = float(word or "nan")
        self.over.wait(CALM)
        self.over.set()


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
            self.failed(repr(error))
        except (Interrupt, InterruptingError):
            raise
        except BaseException:
            self.soaked.unexpected.append(traceback.format_exc())

    def failed(self, error: str = "not stored") -> None:
        self.counts["failures"] += 1
        self.soaked.last_failure = now = monotonic()
        if now > self.soaked.back:
            self.soaked.failures_after.append(f"{now - self.soaked.back:.2f} s: {error}")

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


def warm_up_logging() -> None:
    """Let all loggers look their levels up now.

    They do it once, with a lock that CPython loses to an interrupt right before its try block.
    """
    for name in logging.root.manager.loggerDict:
        for level in (logging.INFO, logging.WARNING, logging.ERROR):
            if name.startswith("mcpool_wsgi"):
                logging.getLogger(name).isEnabledFor(level)


def be_client(options: dict[str, Any]) -> None:
    """What a client process does. It prints what it found."""
    faulthandler.enable(all_threads=True)
    logging.getLogger("mcpool_wsgi").addHandler(logging.NullHandler())
    logging.getLogger("mcpool_wsgi").propagate = False
    warm_up_logging()
    soaked = Soaked(options)
    dice = random.Random(options["seed"])

    def note_unraisable(found: Any) -> None:
        if isinstance(found.exc_value, (Interrupt, InterruptingError)):
            soaked.counts["interrupts in finalisers"] += 1  # Python drops them there
        else:
            soaked.unexpected.append(f"{found.exc_value!r} in {found.object!r}")

    def note_uncaught(found: Any) -> None:
        text = traceback.format_exception(found.exc_type, found.exc_value, found.exc_traceback)
        soaked.unexpected.append("".join(text))

    sys.unraisablehook = note_unraisable
    threading.excepthook = note_uncaught
    workers = [
        (Forker if number < 2 else Worker)(soaked, str(number), random.Random(dice.random()))
        for number in range(THREADS)
    ]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    threads += [threading.Thread(target=work) for work in (soaked.heartbeat, soaked.listen)]
    for thread in threads:
        thread.start()
    main = Interrupted(soaked, "main", random.Random(dice.random()))
    main.run()
    for thread in threads:
        thread.join(1.5 * PATIENCE)
        if thread.is_alive():
            faulthandler.dump_traceback(all_threads=True)
            os._exit(70)
    longest, command = soaked.longest()
    print(
        json.dumps(
            {
                "counts": soaked.counts,
                "late": soaked.ledger.late,
                "wrong": [*soaked.ledger.wrong, *read_evil(soaked)],
                "lost slots": lost_slots(soaked),
                "unexpected": soaked.unexpected,
                "longest": longest,
                "longest command": command,
                "stalled": sum(end - begin for begin, end in soaked.stalls),
                "failures after": soaked.failures_after[-5:],
                "recovery": max(0.0, soaked.last_failure - soaked.back),
            }
        ),
        flush=True,
    )


def lost_slots(soaked: Soaked) -> int:
    """How many slots do not come free although no thread has a client."""
    if soaked.kind == "shared":
        return 0
    gc.collect()
    in_use = soaked.pool.stats().in_use
    free = 0
    with ExitStack() as reserved:
        for _ in range(soaked.slots):
            with contextlib.suppress(PoolTimeout, pylibmc.Error):
                mc = reserved.enter_context(soaked.pool.reserve(timeout=1))
                free += 1
                mc.get("key")
    return max(in_use, soaked.slots - free)


def read_evil(soaked: Soaked) -> list[str]:
    """Whether a value was taken for a command."""
    with contextlib.suppress(pylibmc.Error):
        if soaked.client.get(EVIL) is not None:
            return [f"the key {EVIL} was written, which was part of a value"]
    return []


# -- The program


class Round:
    """What one client process found."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.result: dict[str, Any] = {}
        self.problems: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--client", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, back: float) -> None:
        """Say since when all servers are back."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it crashed
            self._process.stdin.write(f"{back}\n")
            self._process.stdin.flush()

    def finish(self) -> None:
        """Wait for what the process found."""
        try:
            output, _ = self._process.communicate(timeout=CALM + 4 * PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)
            output, _ = self._process.communicate()
            self.problems.append("the process hangs")
        if self._process.returncode:
            self.problems.append(f"the process ended with {self._process.returncode}")
        if not output:
            return
        self.result = result = json.loads(output.splitlines()[-1])
        self.problems += result["wrong"][:10] + result["unexpected"][:10]
        if result["lost slots"]:
            self.problems.append(f"{result['lost slots']} slots are lost")
        if result["longest"] > self.options["command_timeout"] + SLACK:
            self.problems.append(
                f"{result['longest command']} took {result['longest']:.2f} s"
                f" with a command_timeout of {self.options['command_timeout']} s"
            )
        limit = RECOVERY[len(self.options["servers"])]
        if not result["recovery"] <= limit:
            self.problems.append(
                f"recovered after {result['recovery']:.2f} s and not {limit} s:"
                f" {result['failures after']}"
            )

    def slow_recovery(self) -> list[str]:
        """The last failures, if they came later than the aim."""
        is_slow = self.result.get("recovery", 0.0) > RECOVERY_AIM
        return self.result["failures after"] if is_slow else []

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def row(self) -> list[str]:
        options, result = self.options, self.result
        counts = result.get("counts", {})
        return [
            options["name"],
            str(len(options["servers"])),
            "proxy" if options["proxied"] else "direct",
            "binary" if options["binary"] else "text",
            options["kind"],
            "soft" if options["fail_soft"] else "raises",
            *(
                str(counts.get(name, 0))
                for name in ("commands", "reads", "misses", "failures", "interrupts", "forks")
            ),
            str(result.get("late", "?")),
            str(len(result["wrong"])) if result else "?",
            str(result.get("lost slots", "?")),
            f"{options['command_timeout']:g}",
            f"{result.get('longest', math.nan):.2f}",
            f"{result.get('recovery', math.nan):.2f}",
            f"{result.get('stalled', math.nan):.1f}",
        ]


_HEADINGS = [
    *("round", "servers", "way", "protocol", "kind", "errors", "commands", "reads", "misses"),
    *("failures", "interrupts", "forks", "late", "wrong", "lost", "limit", "longest"),
    *("recovery", "stalled"),
]


def rounds(seconds: float, dice: random.Random) -> Iterator[list[dict[str, Any]]]:
    """The options of the client processes, round by round."""
    for number in range(max(1, round(seconds / ROUND))):
        if number % len(ARRANGEMENTS) == 0:
            orders = [dice.sample(ARRANGEMENTS, len(ARRANGEMENTS)) for _ in range(2)]
        yield [
            {
                "name": f"r{number}{'ab'[which]}",
                "number of servers": servers,
                "proxied": servers > 1 or dice.random() < 0.5,
                "binary": binary,
                "kind": kind,
                "fail_soft": fail_soft,
                "command_timeout": dice.choice([1.0, 1.0, 0.4]),
                "seed": dice.randrange(2**32),
            }
            for which, servers in enumerate((1, 3))
            for binary, kind, fail_soft in [orders[which][number % len(ARRANGEMENTS)]]
        ]


def soak(seconds: float, seed: int) -> list[Round]:
    """Run all rounds."""
    dice = random.Random(seed)
    done: list[Round] = []
    began = monotonic()
    length = seconds / max(1, round(seconds / ROUND))
    with ExitStack() as running:
        servers = [running.enter_context(contextlib.closing(Server())) for _ in range(4)]
        for number, both in enumerate(rounds(seconds, dice)):
            current = []
            for options in both:
                mine = servers[:1] if options["number of servers"] == 1 else servers[1:]
                # Of three servers one is behind its proxy.
                first = mine[0].proxy.address if options["proxied"] else mine[0].address
                options["servers"] = [first, *(server.address for server in mine[1:])]
                current.append(Round(options))
                running.callback(current[-1].kill)
            left = began + (number + 1) * length - monotonic() - CALM - 1
            _disturb_both([servers[:1], servers[1:]], current, max(2.0, left), dice)
            for one in current:
                one.finish()
                done.append(one)
                print("  ".join(one.row()), flush=True)
                for line in [*one.problems, *one.slow_recovery()]:
                    print(f"    {line}", flush=True)
    return done


def _disturb_both(
    groups: list[list[Server]], current: list[Round], seconds: float, dice: random.Random
) -> None:
    """Disturb each client process's servers for themselves."""

    def work(which: int, own_dice: random.Random) -> None:
        current[which].tell(disturb(groups[which], seconds, own_dice))

    threads = [
        threading.Thread(target=work, args=(which, random.Random(dice.random())))
        for which in range(len(groups))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def report(done: list[Round], seed: int, seconds: float) -> bool:
    """Print the table. Whether all is well."""
    table = [list(_HEADINGS), *(one.row() for one in done)]
    widths = [max(map(len, column)) for column in zip(*table)]
    print()
    for row in table:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths)))
    counts: Counter[str] = Counter()
    for one in done:
        counts.update(one.result.get("counts", {}))
    problems = sum(len(one.problems) for one in done)
    print()
    print(f"seed {seed}, {seconds:.0f} s, {len(done)} client processes")
    print(", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    for servers in RECOVERY:
        results = [one for one in done if len(one.options["servers"]) == servers and one.result]
        over = [one.result["longest"] - one.options["command_timeout"] for one in results]
        print(
            f"{servers} server(s): longest command {max(over, default=math.nan):+.2f} s from its"
            f" limit, slowest recovery"
            f" {max((one.result['recovery'] for one in results), default=math.nan):.2f} s"
        )
    print(f"{problems} violation(s)")
    return problems == 0


def main() -> None:
    parser = argparse.ArgumentParser(description="Soak clients while their servers are disturbed.")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.client is not None:
        be_client(json.loads(arguments.client))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # and clean up
    seed = random.randrange(10**6) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    began = monotonic()
    done = soak(arguments.seconds, seed)
    sys.exit(0 if report(done, seed, monotonic() - began) else 1)


if __name__ == "__main__":
    main()
