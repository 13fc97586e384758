"""One arrangement of clients, and what its threads find."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import Counter
from time import monotonic
from typing import Any

from mcpool_wsgi import Client, ClientPool, CommandEvent

from .values import Ledger

CALM = 5.5  # seconds of each round that come after the last restart
RECOVERY_AIM = 1.5  # seconds
THREADS = 4  # besides the main thread


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
        if self.fail_soft:  # which hides the cause of a failure from the caller
            self.client.observe(self.note_event)
            self.pool.observe(self.note_event)
        self.ledger = Ledger(strict=len(servers) == 1)
        self.counts: Counter[str] = Counter()
        self.counts_lock = threading.Lock()
        self.unexpected: list[str] = []
        self.last_failure = 0.0
        self.late_failures: list[str] = []  # the first ones, the cause of all
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

    def note_event(self, event: CommandEvent) -> None:
        if event.outcome == "failure":
            self.note_cause(event.error)

    def note_cause(self, error: Exception | None) -> None:
        """Keep the *error* of a command that failed later than the aim."""
        after = monotonic() - self.back
        if after > RECOVERY_AIM and len(self.late_failures) < 10:
            self.late_failures.append(f"{after:.2f} s: {error!r}")

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
