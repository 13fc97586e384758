"""
Connections
===========

How many connections a pool of twelve slots opens for twelve requests, one at a time.
Counted by memcached.
"""

from __future__ import annotations

from typing import Any

import pylibmc
from contenders import OURS, PYLIBMC
from measure import Figures, Track

from mcpool_wsgi import Client, ClientPool
from mcpool_wsgi.devserver import memcached

SLOTS = REQUESTS = 12


def run(quick: bool, track: Track) -> Figures:
    """Connections, by pool."""
    figures: Figures = {}
    with memcached(embedded=False) as server:
        observer = pylibmc.Client([server.address])
        for _ in track("connections", 1):
            pools: dict[str, Any] = {
                OURS: ClientPool(Client([server.address]), SLOTS),
                PYLIBMC: pylibmc.ClientPool(pylibmc.Client([server.address]), SLOTS),
            }
            for name, pool in pools.items():
                before = opened(observer)
                for _ in range(REQUESTS):
                    with pool.reserve() as mc:
                        mc.get("key")
                figures[name] = [opened(observer) - before]
    return figures


def opened(observer: pylibmc.Client) -> int:
    """Since the server started: those that are open change late, when it notices an end."""
    ((_, stats),) = observer.get_stats()
    return int(stats["total_connections"])
