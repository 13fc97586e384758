"""
Development server: the protocol
================================

The protocol that :mod:`mcpool_wsgi.devserver` speaks: memcached's classic text protocol.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
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
LINE_MAX_LENGTH = 2048  # of a request line whose end has not arrived
GET_MAX_LENGTH = 16 * MEBIBYTE  # the same for a get, which may name many keys
RELATIVE_MAX = 60 * 60 * 24 * 30  # a larger exptime is a Unix time
CHUNK = 65536
REQUESTS_PER_TURN = 20  # as memcached's -R
BINARY_MAGIC = b"\x80"
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


class Session:
    """The connection of one client.

    The method of a command returns the answer without its line end.
    """

    def __init__(
        self, cache: Cache, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.cache = cache
        self.reader = reader
        self.writer = writer
        self.buffer: bytearray = bytearray()

    async def run(self) -> None:
        self.cache.connections += 1
        self.cache.counts["total_connections"] += 1
        try:
            # It is no error that a client leaves or the server stops.
            with contextlib.suppress(EOFError, OSError, asyncio.CancelledError):
                await self.fill()
                binary = self.buffer.startswith(BINARY_MAGIC)
                for turn in () if binary else itertools.count(1):
                    self.writer.write(await self.answer(await self.read_line()))
                    await self.writer.drain()
                    if turn % REQUESTS_PER_TURN == 0:
                        await asyncio.sleep(0)  # the other clients have their turn
        finally:
            self.cache.connections -= 1
            self.writer.close()

    async def answer(self, line: bytes) -> bytes:
        name, *args = [word for word in line.split(b" ") if word] or [b""]
        command = COMMANDS.get(name)
        if command is None and args and args[-1].startswith(b"HTTP/"):
            raise EOFError  # a browser, perhaps sent here by a web page that attacks
        if command is None or not command.least <= len(args) <= command.most:
            return b"ERROR\r\n"
        try:
            answer = await command.method(self, name, args)
        except Rejected as error:
            answer = error.args[0]
        noreply = args[command.noreply_from :][-1:] == [b"noreply"]
        return b"" if noreply else answer + b"\r\n"

    # The connection

    async def fill(self) -> None:
        data = await self.reader.read(CHUNK)
        if not data:
            raise EOFError
        self.buffer += data

    async def read_line(self) -> bytes:
        while (end := self.buffer.find(b"\n")) < 0:
            many_keys = self.buffer.lstrip(b" ").startswith((b"get ", b"gets "))
            if len(self.buffer) > (GET_MAX_LENGTH if many_keys else LINE_MAX_LENGTH):
                raise EOFError
            await self.fill()
        line = await self.read_block(end + 1)
        # A NUL ends the line, because memcached reads it as a C string.
        return line[: -2 if line.endswith(b"\r\n") else -1].partition(b"\0")[0]

    async def read_block(self, length: int) -> bytes:
        while len(self.buffer) < length:
            await self.fill()
        block = bytes(self.buffer[:length])
        del self.buffer[:length]
        return block

    # The commands

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
    method: Callable[[Session, bytes, list[bytes]], Awaitable[bytes]]
    least: int = 0
    most: int = sys.maxsize
    noreply_from: int = sys.maxsize  #: the first argument that may be ``noreply``


COMMANDS = {
    **dict.fromkeys((b"get", b"gets", b"gat", b"gats"), Command(Session.get, 1)),
    **dict.fromkeys(
        (b"set", b"add", b"replace", b"append", b"prepend"),
        Command(Session.update, 4, 5, noreply_from=1),
    ),
    b"cas": Command(Session.update, 5, 6, noreply_from=1),
    b"incr": Command(Session.arithmetic, 2, 3, noreply_from=1),
    b"decr": Command(Session.arithmetic, 2, 3, noreply_from=1),
    b"touch": Command(Session.touch, 2, 3, noreply_from=1),
    b"delete": Command(Session.delete, 1, 3, noreply_from=1),
    b"flush_all": Command(Session.flush_all, 0, 2, noreply_from=0),
    b"verbosity": Command(Session.verbosity, 1, 2, noreply_from=0),
    b"stats": Command(Session.stats),
    b"version": Command(Session.version),
    b"quit": Command(Session.quit),
}
