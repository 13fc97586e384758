"""
The restart of one memcached
============================

A part of ``scale.py``. 64 clients, in eight processes, read keys, and store those that are not
there. One memcached ends, and comes back after two seconds. The table shows which connections
are opened, and which commands fail or miss.
"""

from __future__ import annotations

import logging
import multiprocessing
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pylibmc

from mcpool_wsgi import Client, ClientPool

sys.path.append(str(Path(__file__).parent.parent / "tests"))
import proxied
from harness import Connections, eventually
from mortal import Mortal

CONTEXT = multiprocessing.get_context("fork")
PROCESSES, THREADS = 8, 8
CLIENTS = PROCESSES * THREADS
KEYS = [f"user:{number}:profile" for number in range(300)]
DOWN = 2.0  # seconds between the end of the memcached and its return
REQUEST, MAKE_VALUE, LOOK, BURST = 0.02, 0.05, 0.005, 0.1  # seconds

#: Seconds since an end or a return, and how many connections had been opened until then.
Opened = list[tuple[float, int]]


def visit(addresses: list[str], until: Any, done: Any) -> None:
    """A process of a server. Each request holds its client to its end."""
    random.seed()  # the parent's state is the same in all processes
    logging.disable()  # the failures are counted
    pool = ClientPool(Client(addresses), THREADS, timeout=30)

    def serve(_: int) -> list[tuple[float, str]]:
        events = []
        while time.monotonic() < until.value:
            key = random.choice(KEYS)
            with pool.reserve() as mc:
                try:
                    if mc.get(key) is None:
                        events.append((time.monotonic(), "miss"))
                        time.sleep(MAKE_VALUE)
                        mc.set(key, key)
                except pylibmc.Error:
                    events.append((time.monotonic(), "failure"))
                time.sleep(random.expovariate(1 / REQUEST))
        return events

    with ThreadPoolExecutor(THREADS) as executor:
        done.put([event for events in executor.map(serve, range(THREADS)) for event in events])


def shown(opened: Opened) -> dict[str, str]:
    """How many connections were opened, the most of them in a short time, and the last."""
    if not opened or not opened[-1][1]:
        return {"opened": "0", "burst": "", "last": ""}
    count = opened[-1][1]
    last = next(moment for moment, so_far in opened if so_far == count)
    burst = max(
        so_far - next(earlier for then, earlier in opened if then >= moment - BURST)
        for moment, so_far in opened
    )
    return {"opened": f"{count}", "burst": f"{burst}", "last": f"{last:.1f} s"}


def restart(servers: int, old: float, through_proxy: bool = False) -> dict[str, str]:
    """End a memcached and start it again. The clients have run for *old* seconds before."""
    watch = 6.0 if servers == 1 else 14.0  # seconds: one of several is tried again after ten
    with ExitStack() as running:
        nodes = [Mortal(False) for _ in range(servers)]
        for node in nodes:
            running.callback(node.kill)
        first, *others = nodes
        addresses = [node.address for node in nodes]
        watched = [Connections(address) for address in addresses]
        fresh = watched[0].opened()
        if through_proxy:
            directory = Path(running.enter_context(tempfile.TemporaryDirectory()))
            addresses = [running.enter_context(proxied.proxy(directory, addresses))]
        until, done = CONTEXT.Value("d", float("inf")), CONTEXT.Queue()
        arguments = (addresses, until, done)
        users = [
            CONTEXT.Process(target=visit, args=arguments, daemon=True) for _ in range(PROCESSES)
        ]
        for user in users:
            user.start()
        connected = 1 if through_proxy else CLIENTS
        eventually(lambda: all(each.count() == connected for each in watched))
        time.sleep(old)

        before = [each.opened() for each in watched]
        at_first: Opened = []
        at_other: Opened = []
        end = time.monotonic()
        first.kill()
        back = 0.0
        while (now := time.monotonic() - end) < watch:
            if not back and now >= DOWN:
                back = now
                first.start()
                watched[0] = Connections(first.address)
            if back:
                at_first.append((now - back, watched[0].opened() - fresh))
            if others:
                at_other.append((now, watched[1].opened() - before[1]))
            time.sleep(LOOK)
        until.value = 0.0
        events = [(moment - end, kind) for _ in users for moment, kind in done.get(timeout=60)]
        for user in users:
            user.join()
            assert user.exitcode == 0, f"a process ended with {user.exitcode}"
    return table_column(shown(at_first), shown(at_other), sorted(events), back)


def table_column(
    first: dict[str, str], other: dict[str, str], events: list[tuple[float, str]], back: float
) -> dict[str, str]:
    failures = [moment for moment, kind in events if kind == "failure" and moment >= 0]
    misses = [moment for moment, kind in events if kind == "miss" and moment >= 0]
    return {
        "connections opened at the memcached that returns": first["opened"],
        f"the most of them in {BURST} s": first["burst"],
        "the last of them, after its return": first["last"],
        "connections opened at another memcached": other["opened"],
        f"the most of these in {BURST} s": other["burst"],
        "the last of these, after the end": other["last"],
        "commands that fail while it is away": f"{sum(each < back for each in failures)}",
        "commands that fail after its return": f"{sum(each >= back for each in failures)}",
        "the last failure, after the end": f"{failures[-1]:.1f} s" if failures else "",
        "misses while it is away": f"{sum(each < back for each in misses)}",
        "misses after its return": f"{sum(each >= back for each in misses)}",
        "the last miss, after the end": f"{misses[-1]:.1f} s" if misses else "",
    }


def print_restarts(old: float) -> None:
    columns = {
        "one server": restart(1, old),
        "three servers": restart(3, old),
        "three servers, proxy": restart(3, old, through_proxy=True),
    }
    print("| |", *(f"{name} |" for name in columns))
    print("|---|" + "---|" * len(columns))
    for row in columns["one server"]:
        print(f"| {row} |", *(f"{column[row]} |" for column in columns.values()))
