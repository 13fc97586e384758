"""
How to measure
==============

All contenders run in one process and in rounds. Each round runs each contender once, in an
order that is shuffled anew, and the median over the rounds counts. If the machine is slow for
a while, it is slow for all contenders.

CPython adapts its bytecode to the types that it sees. A program has one kind of pool, a
benchmark has many. So contenders that share code are measured in rounds of their own.

:class:`timeit.Timer` times what takes less than microseconds. It compiles the statement into
its own loop, so no function call is measured with it, and it switches the garbage collector
off. pyperf runs one benchmark after the other, which is the opposite of interleaved.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import subprocess
import timeit
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, TypeVar

import pylibmc

Result = TypeVar("Result")

#: What a measurement returns: one figure per round, by contender. The first is this package's.
Figures = dict[str, list[float]]

BATCH = 0.001  # seconds: long for the clock, short for whatever else the machine does
EMPTY_LOOP = min(timeit.repeat("pass", number=100_000, repeat=20)) / 100_000  # seconds
PEERS = ["cachelib", "gunicorn", "pymemcache"]


def interleaved(
    contenders: Mapping[str, Callable[[], Result]], rounds: int
) -> dict[str, list[Result]]:
    """Call each contender once a round, and return all results."""
    results: dict[str, list[Result]] = {name: [] for name in contenders}
    for number in range(rounds):
        order = list(contenders)
        random.Random(number).shuffle(order)
        for name in order:
            results[name].append(contenders[name]())
    return results


def timer(statement: str, **names: Any) -> Callable[[], float]:
    """A function that times a batch of *statement* and returns nanoseconds for one.

    :param names: what the names in the statement mean.
    """
    clock = timeit.Timer(statement, globals=names)
    number = 100  # the first batch warms up, and tells how many fill the time
    number = max(1, int(BATCH * number / clock.timeit(number)))
    clock.timeit(number)
    return lambda: (clock.timeit(number) / number - EMPTY_LOOP) * 1e9


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread, and the processes that it starts, on one core.

    The choice of cores alone changes the time of a command threefold.
    """
    if not hasattr(os, "sched_setaffinity"):  # macOS
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})  # the first core has most of the interrupts
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def machine() -> str:
    """What the figures were measured on, in one line."""
    cpu = platform.machine()
    with contextlib.suppress(OSError, IndexError):  # no Linux
        cpu = Path("/proc/cpuinfo").read_text().split("model name\t: ")[1].partition("\n")[0]
    server = subprocess.run(["memcached", "-V"], capture_output=True, text=True, check=True)
    packages = [f"{package} {metadata.version(package)}" for package in PEERS]
    python = f"{platform.system()}, Python {platform.python_version()}, {server.stdout.strip()}"
    library = f"pylibmc {pylibmc.__version__} (libmemcached {pylibmc.libmemcached_version})"
    return ", ".join([f"{os.cpu_count()} x {cpu}, {python}, {library}", *packages])
