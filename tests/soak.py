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
-   **A late recovery.** A command fails more than ``RECOVERY`` seconds after the last restart
    (:mod:`soaking.round`).
-   **An unexpected exception**, in a command, in a thread or in a finaliser.

The exit status is 1 if there was a violation. The seed settles what happens, but not when: the
threads run as the system lets them.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from soaking.arrangement import CALM
from soaking.process import be_client
from soaking.round import HEADINGS, Round
from soaking.servers import Server, disturb

ROUND = 12.0  # seconds, about
KINDS = ("pooled", "lazy", "shared")
ARRANGEMENTS = list(itertools.product((False, True), KINDS, (False, True)))


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
                for line in [*one.problems, *one.late_failures()]:
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
    table = [list(HEADINGS), *(one.row() for one in done)]
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
    for servers in (1, 3):
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
