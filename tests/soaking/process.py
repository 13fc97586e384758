"""A client process: all threads of one arrangement. It prints what it found."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import logging
import os
import random
import sys
import threading
import traceback
from contextlib import ExitStack
from typing import Any

import pylibmc

from mcpool_wsgi import PoolTimeout

from .arrangement import THREADS, Soaked
from .forks_and_signals import PATIENCE, Forker, Interrupted
from .values import EVIL
from .workers import Interrupt, InterruptingError, Worker


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
                "late failures": soaked.late_failures,
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
