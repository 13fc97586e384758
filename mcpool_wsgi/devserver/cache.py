"""
Development server: the items
=============================

The items that :mod:`mcpool_wsgi.devserver` stores. When they take too much
memory, the least recently used ones are evicted.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from typing import NamedTuple

ITEM_OVERHEAD = 57  # memcached adds this to key and data block when it measures an item
COUNTED: tuple[str, ...] = ("cmd_get", "cmd_set", "get_hits", "get_misses")
COUNTED += ("total_connections", "total_items", "evictions")


def item_size(key: bytes, flags: int, length: int) -> int:
    return ITEM_OVERHEAD + len(key) + (4 if flags else 0) + length + len(b"\r\n")


class Item(NamedTuple):
    flags: int
    expires: float
    data: bytes
    cas_unique: int


class Cache:
    """The items, least recently used first.

    :param limit_maxbytes: the memory that the items may take.
    """

    def __init__(self, limit_maxbytes: int) -> None:
        self.limit_maxbytes = limit_maxbytes
        self.bytes: int = 0
        self.items: OrderedDict[bytes, Item] = OrderedDict()
        self.counts: dict[str, int] = dict.fromkeys(COUNTED, 0)
        self.connections = 0
        self.started: float = time.time()
        self.flush_at: float = math.inf
        self.cas_unique: int = 0

    def get(self, key: bytes) -> Item | None:
        if self.flush_at <= time.time():
            self.flush()
        item = self.items.get(key)
        if item is None:
            return None
        if item.expires <= time.time():
            self.delete(key)
            return None
        self.items.move_to_end(key)
        return item

    def put(self, key: bytes, flags: int, expires: float, data: bytes) -> None:
        self.delete(key)
        self.items[key] = Item(flags, expires, data, self.next_cas_unique())
        self.bytes += item_size(key, flags, len(data))
        self.counts["total_items"] += 1
        while self.bytes > self.limit_maxbytes:
            self.delete(next(iter(self.items)))
            self.counts["evictions"] += 1

    def delete(self, key: bytes) -> None:
        item = self.items.pop(key, None)
        if item is not None:
            self.bytes -= item_size(key, item.flags, len(item.data))

    def flush(self) -> None:
        self.items.clear()
        self.bytes = 0
        self.flush_at = math.inf
        self.next_cas_unique()  # memcached uses one up here, too

    def next_cas_unique(self) -> int:
        self.cas_unique += 1
        return self.cas_unique
