"""
Hazards
=======

What goes wrong with pylibmc as it is commonly used, and with this package: the percentage of
answers that are wrong or are errors. The last two hazards do not count errors. ``python
benchmarks/hazards.py`` takes less than a minute. Each hazard runs in processes of its own, because
some crash or hang.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any, Callable

import pylibmc
from rich.console import Console
from rich.table import Table

import mcpool_wsgi
from mcpool_wsgi.devserver import Memcached, memcached

PACKAGES: dict[str, Any] = {"pylibmc": pylibmc, "mcpool-wsgi": mcpool_wsgi}
PROCESSES = 3  # for each hazard and package
SECONDS, LIMIT = 1.0, 10.0  # how long a process asks, and when it counts as hanging
CONTEXT = multiprocessing.get_context("fork")

#: Asks something, number by number, and returns whether the answer is right.
Question = Callable[[int], bool]
#: How many answers are right, and how many are not.
Answers = Counter[bool]


def ask(question: Question) -> Answers:
    answers: Answers = Counter()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        right = False
        with suppress(Exception):
            right = question(sum(answers.values()))
        answers[right] += 1
    return answers


def ask_in_threads(questions: list[Question]) -> Answers:
    with ThreadPoolExecutor(len(questions)) as threads:
        return sum(threads.map(ask, questions), Counter())


def make_client(package: Any, *servers: Memcached, binary: bool = False, **behaviors: Any) -> Any:
    behaviors.setdefault("_poll_timeout", 100)  # a client that is out of sync waits so long
    return package.Client([each.address for each in servers], binary=binary, behaviors=behaviors)


def reading(get: Callable[[str], Any]) -> Question:
    return lambda number: bool(get(f"key{number % 100}") == number % 100)


def kill(number: int, *servers: Memcached) -> None:
    for each in servers:
        os.kill(each.process.pid, number)


def one_client(package: Any, server: Memcached, other: Memcached) -> Answers:
    return ask_in_threads([reading(make_client(package, server).get)] * 8)


def bad_key(package: Any, server: Memcached, other: Memcached) -> Answers:
    mc = make_client(package, server)
    with suppress(pylibmc.Error, ValueError):
        mc.set("a b", "value")  # an app that takes its keys from the path got /a%20b
    return ask(reading(mc.get))


def fork(package: Any, server: Memcached, other: Memcached) -> Answers:
    """The parent and four children read, after the parent opened its connection."""
    read = reading(make_client(package, server).get)
    read(0)
    results = CONTEXT.SimpleQueue()
    children = [CONTEXT.Process(target=lambda: results.put(ask(read))) for _ in range(4)]
    for child in children:
        child.start()
    answers = ask(read)
    for child in children:
        child.join()
        if child.exitcode != 0:
            os.abort()  # the crash of a child counts as a crash
        answers += results.get()
    return answers


def gets(package: Any, server: Memcached, other: Memcached) -> Answers:
    """pylibmc frees a ``str`` key, and then sends it."""

    def question(mc: Any) -> Question:
        return reading(lambda key: mc.gets(key)[0])  # each key is a new str

    return ask_in_threads([question(make_client(package, server, cas=True)) for _ in range(8)])


def write_timeout(package: Any, server: Memcached, other: Memcached) -> Answers:
    """A ``set`` times out in the middle of its value. The next bytes complete that value."""
    observer = pylibmc.Client([server.address])
    value = b"\r\nset evil 0 0 1\r\nx" * 45_000  # more than a socket takes while nobody reads

    def right(number: int) -> bool:
        mc = make_client(package, server)
        mc.get("key")
        kill(signal.SIGSTOP, server)
        for _ in range(3):
            with suppress(pylibmc.Error):
                mc.set("key", value)
            kill(signal.SIGCONT, server)
        return not observer.delete("evil")

    return ask(right)


def signal_in_get_multi(package: Any, server: Memcached, other: Memcached) -> Answers:
    """A signal ends a ``get_multi`` of two servers while their answers are still to come."""
    signal.signal(signal.SIGALRM, lambda *_: kill(signal.SIGCONT, server, other))

    def right(number: int) -> bool:
        mc = make_client(package, server, other, binary=True, ketama=True)
        counters = {f"counter{number}-{each}": 1 for each in range(10)}
        with suppress(pylibmc.Error):  # what was not stored is not found below
            mc.set_multi(counters)
        kill(signal.SIGSTOP, server, other)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with suppress(pylibmc.Error):
            mc.get_multi(list(counters))
        for counter in counters:
            with suppress(pylibmc.Error):  # a server that timed out is left out, and says so
                counters[counter] = mc.incr(counter)
        return set(counters.values()) <= {1, 2}

    return ask(right)


HAZARDS: dict[str, Callable[[Any, Memcached, Memcached], Answers]] = {
    "get: one client in eight threads": one_client,
    "get, after a key with a space (from a URL)": bad_key,
    "get, after a fork with an open client": fork,
    "gets of str keys: a client per thread": gets,
    "set, after a write time-out: the value runs as a command": write_timeout,
    "incr, after a signal in a binary get_multi of two servers": signal_in_get_multi,
}


def outcome(hazard: str, package: str) -> str:
    """The percentage of wrong answers, and how many processes crashed or hung."""
    results = CONTEXT.SimpleQueue()
    answers: Answers = Counter()
    ends: Counter[str] = Counter()

    def work(*servers: Memcached) -> None:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the C library reports its crash there
        pylibmc.Client([servers[0].address]).set_multi({f"key{n}": n for n in range(100)})
        results.put(HAZARDS[hazard](PACKAGES[package], *servers))

    for _ in range(PROCESSES):
        with tempfile.TemporaryDirectory() as where, ExitStack() as stack:
            starting = [memcached(embedded=False, unix_socket=f"{where}/{n}") for n in range(2)]
            servers = [stack.enter_context(each) for each in starting]
            process = CONTEXT.Process(target=work, args=servers)
            process.start()
            process.join(LIMIT)
            assert process.pid is not None
            if process.exitcode == 0:
                answers += results.get()
                continue
            if process.exitcode == 1:
                raise RuntimeError(f"{hazard}: {package} raised an exception")
            ends["hang" if process.exitcode is None else "crash"] += 1
            process.kill()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its children, too
            process.join()
    found = [f"{number} of {PROCESSES} {end}" for end, number in ends.items()]
    if asked := sum(answers.values()):
        found.insert(0, f"{100 * answers[False] / asked:.3g} % of {asked:,}")
    return ", ".join(found)


def table() -> Table:
    made = Table("hazard", *PACKAGES, title="Wrong answers and errors", title_justify="left")
    for hazard in HAZARDS:
        made.add_row(hazard, *(outcome(hazard, package) for package in PACKAGES))
    return made


if __name__ == "__main__":
    Console(width=110).print(table())
