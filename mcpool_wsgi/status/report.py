"""
Status page: the report
=======================

All figures of one moment, as one dict. The page shows it, and ``?format=json`` is it.
:mod:`mcpool_wsgi.status` documents it.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from time import monotonic
from typing import Any

from .. import forks
from ..pool import Pool, PoolStats
from .history import History
from .servers import Servers

KEPT = 1.0  # seconds for which all who look get the same report


class Reporter:
    """Reports on *pools*."""

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self._pools = pools
        self._histories = {name: History(pool) for name, pool in pools.items()}
        self._servers = Servers()
        self._reset_in_child()
        forks.reset_in_child(self)

    def _reset_in_child(self) -> None:
        vars(self).pop("_lock", None)
        self._report: dict[str, Any] = {}
        self._until = 0.0

    def report(self) -> dict[str, Any]:
        """The newest report. It is up to a second old."""
        # Made here and not at import: where gevent has patched threading, this is gevent's lock.
        with vars(self).setdefault("_lock", threading.Lock()):
            if monotonic() >= self._until:
                self._report = self._new_report()
                self._until = monotonic() + KEPT
            return self._report

    def _new_report(self) -> dict[str, Any]:
        servers = self._servers.ask(self._pools)  # first, because it can take a second
        return {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "pools": [self._pool(name, pool) for name, pool in self._pools.items()],
            "servers": servers,
        }

    def _pool(self, name: str, pool: Pool) -> dict[str, Any]:
        history = self._histories[name].look()
        stats = pool.stats()
        return {
            "name": name,
            "kind": type(pool).__name__,
            "timeout": pool.timeout,
            "states": states(pool.closed, stats, history["last_minute"]),
            "stats": asdict(stats),
            "holders": [asdict(holder) for holder in pool.holders()],
            "history": history,
        }


def states(closed: bool, stats: PoolStats, last_minute: Mapping[str, Any]) -> list[str]:
    """What is remarkable about a pool, the worst first."""
    is_empty = stats.slots == 0
    found = {
        "timeouts": last_minute["timeouts"] > 0,
        "failures": last_minute["failures"] > 0,
        "closed": closed,
        "empty": is_empty and not closed,
        "waiting": stats.waiting > 0,
        "full": stats.slots == stats.in_use and not is_empty,
    }
    return [state for state, is_so in found.items() if is_so]
