"""
Development server: the protocol
================================

The protocol that :mod:`mcpool_wsgi.devserver` speaks: memcached's classic text protocol. A session
reads the requests of one client and sends the answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools

from .cache import Cache
from .commands import CHUNK, COMMANDS, MEBIBYTE, Commands, Rejected

LINE_MAX_LENGTH = 2048  # of a request line whose end has not arrived
GET_MAX_LENGTH = 16 * MEBIBYTE  # the same for a get, which may name many keys
REQUESTS_PER_TURN = 20  # as memcached's -R
BINARY_MAGIC = b"\x80"


class Requests:
    """What a client sends."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.reader = reader
        self.buffer: bytearray = bytearray()

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


class Session:
    """The connection of one client."""

    def __init__(
        self, cache: Cache, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.cache = cache
        self.requests: Requests = Requests(reader)
        self.commands: Commands = Commands(cache, self.requests.read_block)
        self.writer = writer

    async def run(self) -> None:
        self.cache.connections += 1
        self.cache.counts["total_connections"] += 1
        try:
            # It is no error that a client leaves or the server stops.
            with contextlib.suppress(EOFError, OSError, asyncio.CancelledError):
                await self.requests.fill()
                if self.requests.buffer.startswith(BINARY_MAGIC):
                    return
                for turn in itertools.count(1):
                    self.writer.write(await self.answer(await self.requests.read_line()))
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
            answer = await command.method(self.commands, name, args)
        except Rejected as error:
            answer = error.args[0]
        noreply = args[command.noreply_from :][-1:] == [b"noreply"]
        return b"" if noreply else answer + b"\r\n"
