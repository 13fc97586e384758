"""
Development server: the commands
================================

The commands of memcached's classic text protocol, and how each changes the cache.
"""

from __future__ import annotations

import math
import os
import re
import sys
import time
from collections.abc import Awaitable
from typing import Callable, NamedTuple

from .cache import Cache, item_size

VERSION = "1.6.18-devserver"  # client libraries expect a number at its beginning
MEBIBYTE = 1024 * 1024
ITEM_SIZE_MAX = MEBIBYTE
KEY_MAX_LENGTH = 250
RELATIVE_MAX = 60 * 60 * 24 * 30  # a larger exptime is a Unix time
CHUNK = 65536
BAD_FORMAT = b"CLIENT_ERROR bad command line format"
NUMBER = re.compile(rb"[\t-\r ]*([+-]?[0-9]{1,40})(?:[\t-\r \0]|\Z)")  # as in strtoull()


class Rejected(Exception):
    """The server rejects a request. The argument is the error line that it answers with."""


def unsigned(text: bytes, error: bytes = BAD_FORMAT) -> int:
    """The unsigned 64-bit number at the beginning of *text*."""
    match = NUMBER.match(text)
    if match is None or not 0 <= int(match[1]) < 2**64:
        raise Rejected(error)
    return int(match[1])


def signed(text: bytes, error: bytes = BAD_FORMAT) -> int:
    """The signed 64-bit number at the beginning of *text*, truncated to 32 bits."""
    match = NUMBER.match(text)
    if match is None or not -(2**63) <= int(match[1]) < 2**63:
        raise Rejected(error)
    return (int(match[1]) + 2**31) % 2**32 - 2**31


def checked(key: bytes) -> bytes:
    if len(key) > KEY_MAX_LENGTH:
        raise Rejected(BAD_FORMAT)
    return key


def expiry(exptime: int) -> float:
    """The Unix time at which an item with this *exptime* expires."""
    if exptime == 0:
        return math.inf
    return exptime + time.time() if 0 < exptime <= RELATIVE_MAX else exptime


class Commands:
    """The commands of one client. Each returns the answer without its line end.

    :param read_block: waits for the next bytes that the client sends, and returns so many.
    """

    def __init__(self, cache: Cache, read_block: Callable[[int], Awaitable[bytes]]) -> None:
        self.cache = cache
        self.read_block = read_block

    async def get(self, name: bytes, args: list[bytes]) -> bytes:
        lines, keys, expires = [], args, None
        if name in (b"gat", b"gats"):
            keys = args[1:]
            expires = expiry(signed(args[0], b"CLIENT_ERROR invalid exptime argument"))
        for key in map(checked, keys):
            item = self.cache.get(key)
            self.cache.counts["cmd_get"] += 1
            self.cache.counts["get_misses" if item is None else "get_hits"] += 1
            if item is None:
                continue
            if expires is not None:
                self.cache.items[key] = item._replace(expires=expires)
            cas_unique = b" %d" % item.cas_unique if name.endswith(b"s") else b""
            lines.append(b"VALUE %s %d %d%s" % (key, item.flags, len(item.data), cas_unique))
            lines.append(item.data)
        return b"\r\n".join([*lines, b"END"])

    async def update(self, name: bytes, args: list[bytes]) -> bytes:
        key = checked(args[0])
        flags = unsigned(args[1]) % 2**32
        expires = expiry(signed(args[2]))
        length = signed(args[3])
        cas_unique = unsigned(args[4]) if name == b"cas" else None
        if not 0 <= length <= 2**31 - 3:
            raise Rejected(BAD_FORMAT)
        if item_size(key, flags, length) > ITEM_SIZE_MAX:
            for start in range(0, length + 2, CHUNK):  # the block may be larger than the memory
                await self.read_block(min(CHUNK, length + 2 - start))
            if name == b"set":
                self.cache.delete(key)  # a later get must not find the old value
            raise Rejected(b"SERVER_ERROR object too large for cache")
        block = await self.read_block(length + 2)
        if not block.endswith(b"\r\n"):
            raise Rejected(b"CLIENT_ERROR bad data chunk")
        data = block[:-2]
        self.cache.counts["cmd_set"] += 1
        old = self.cache.get(key)
        if name == b"cas":
            if old is None:
                return b"NOT_FOUND"
            if old.cas_unique != cas_unique:
                return b"EXISTS"
        elif name != b"set" and (old is None) != (name == b"add"):
            return b"NOT_STORED"
        elif old is not None and name in (b"append", b"prepend"):
            data = old.data + data if name == b"append" else data + old.data
            flags, expires = old.flags, old.expires
            if item_size(key, flags, len(data)) > ITEM_SIZE_MAX:
                return b"NOT_STORED"
        self.cache.put(key, flags, expires, data)
        return b"STORED"

    async def arithmetic(self, name: bytes, args: list[bytes]) -> bytes:
        key = checked(args[0])
        delta = unsigned(args[1], b"CLIENT_ERROR invalid numeric delta argument")
        item = self.cache.get(key)
        if item is None:
            return b"NOT_FOUND"
        value = unsigned(
            item.data, b"CLIENT_ERROR cannot increment or decrement non-numeric value"
        )
        value = (value + delta) % 2**64 if name == b"incr" else max(value - delta, 0)
        # memcached writes the number into the old data block, which does not shrink.
        data = (b"%d" % value).ljust(len(item.data))
        self.cache.put(key, item.flags, item.expires, data)
        return b"%d" % value

    async def touch(self, name: bytes, args: list[bytes]) -> bytes:
        key = checked(args[0])
        expires = expiry(signed(args[1], b"CLIENT_ERROR invalid exptime argument"))
        item = self.cache.get(key)
        if item is None:
            return b"NOT_FOUND"
        self.cache.items[key] = item._replace(expires=expires)
        return b"TOUCHED"

    async def delete(self, name: bytes, args: list[bytes]) -> bytes:
        if args[1:] not in ([], [b"0"], [b"noreply"], [b"0", b"noreply"]):
            raise Rejected(BAD_FORMAT + b".  Usage: delete <key> [noreply]")
        if self.cache.get(checked(args[0])) is None:
            return b"NOT_FOUND"
        self.cache.delete(args[0])
        return b"DELETED"

    async def flush_all(self, name: bytes, args: list[bytes]) -> bytes:
        delay = 0
        if args not in ([], [b"noreply"]):
            delay = signed(args[0], b"CLIENT_ERROR invalid exptime argument")
        if delay > 0:
            # memcached flushes a second sooner, and never at a time before its start.
            at = expiry(delay)
            self.cache.flush_at = at - 1 if at > self.cache.started else math.inf
        else:
            self.cache.flush()
        return b"OK"

    async def stats(self, name: bytes, args: list[bytes]) -> bytes:
        cache = self.cache
        topics: dict[bytes, dict[str, object]] = {
            b"": {
                "pid": os.getpid(),
                "uptime": int(time.time() - cache.started),
                "time": int(time.time()),
                "version": VERSION,
                "curr_connections": cache.connections,
                **cache.counts,
                "curr_items": len(cache.items),
                "bytes": cache.bytes,
                "limit_maxbytes": cache.limit_maxbytes,
                "threads": 1,
            },
            b"settings": {"maxbytes": cache.limit_maxbytes, "item_size_max": ITEM_SIZE_MAX},
            b"items": {},
            b"slabs": {"active_slabs": 0, "total_malloced": 0},
        }
        topic = args[0] if args else b""
        if topic == b"reset":
            cache.counts = dict.fromkeys(cache.counts, 0)
            return b"RESET"
        if topic not in topics:
            return b"ERROR"
        lines = [f"STAT {name} {value}" for name, value in topics[topic].items()]
        return "\r\n".join([*lines, "END"]).encode()

    async def version(self, name: bytes, args: list[bytes]) -> bytes:
        return b"VERSION " + VERSION.encode()

    async def verbosity(self, name: bytes, args: list[bytes]) -> bytes:
        unsigned(args[0])
        return b"OK"

    async def quit(self, name: bytes, args: list[bytes]) -> bytes:
        raise EOFError


class Command(NamedTuple):
    method: Callable[[Commands, bytes, list[bytes]], Awaitable[bytes]]
    least: int = 0
    most: int = sys.maxsize
    noreply_from: int = sys.maxsize  #: the first argument that may be ``noreply``


COMMANDS = {
    **dict.fromkeys((b"get", b"gets", b"gat", b"gats"), Command(Commands.get, 1)),
    **dict.fromkeys(
        (b"set", b"add", b"replace", b"append", b"prepend"),
        Command(Commands.update, 4, 5, noreply_from=1),
    ),
    b"cas": Command(Commands.update, 5, 6, noreply_from=1),
    b"incr": Command(Commands.arithmetic, 2, 3, noreply_from=1),
    b"decr": Command(Commands.arithmetic, 2, 3, noreply_from=1),
    b"touch": Command(Commands.touch, 2, 3, noreply_from=1),
    b"delete": Command(Commands.delete, 1, 3, noreply_from=1),
    b"flush_all": Command(Commands.flush_all, 0, 2, noreply_from=0),
    b"verbosity": Command(Commands.verbosity, 1, 2, noreply_from=0),
    b"stats": Command(Commands.stats),
    b"version": Command(Commands.version),
    b"quit": Command(Commands.quit),
}
