"""An HTTP client that keeps every byte as it came, and sees how a connection ends."""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any

SILENCE = 2.0  # seconds without a byte after which a response counts as hung


@dataclass(frozen=True)
class Response:
    """One response, as bytes."""

    head: bytes
    body: bytes  # with the framing of its chunks
    #: What came after it: ``open`` (another response could follow), ``closed``, ``reset``,
    #: ``hung`` (nothing, although there is more to come) or ``?``, when nobody looked.
    ending: str = "?"

    @property
    def status(self) -> int:
        line = re.match(rb"HTTP/1\.[01] (\d{3}) ", self.head)
        return int(line[1]) if line else 0

    def header(self, name: str) -> str | None:
        found = re.search(rb"(?im)^" + name.encode() + rb":[ \t]*(.*?)\r?$", self.head)
        return found[1].decode("latin-1") if found else None

    @property
    def payload(self) -> bytes:
        """The body without the framing of its chunks."""
        if (self.header("Transfer-Encoding") or "").lower() != "chunked":
            return self.body
        chunks, rest = [], self.body
        while True:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16) if size else 0
            if not length:
                return b"".join(chunks)
            chunks.append(rest[:length])
            rest = rest[length + 2 :]


class Connection:
    """A connection to a server on this machine."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(SILENCE)
        self.buffer = b""
        try:
            self.socket.connect(("127.0.0.1", port))
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Go away without a goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, path: str, method: str = "GET", version: str = "1.1", *headers: str) -> None:
        lines = [f"{method} {path} HTTP/{version}", "Host: 127.0.0.1", *headers, "", ""]
        self.socket.sendall("\r\n".join(lines).encode())

    def receive(self) -> bool:
        """Wait for some more bytes; False at the end."""
        data = self.socket.recv(65536)
        self.buffer += data
        return bool(data)

    def response(self) -> Response:
        """Read one response, as long as it says that it is."""
        head = b""
        try:
            while b"\r\n\r\n" not in self.buffer:
                if not self.receive():
                    return Response(self.take(), b"", "closed")
            head = self.take(self.buffer.index(b"\r\n\r\n") + 4)
            response = Response(head, b"")
            if response.status in (204, 304):
                return response
            if (response.header("Transfer-Encoding") or "").lower() == "chunked":
                while (size := self.chunks()) is None:
                    if not self.receive():
                        return Response(head, self.take(), "closed")
            else:
                size = int(response.header("Content-Length") or sys.maxsize)
                while len(self.buffer) < size:
                    if not self.receive():
                        return Response(head, self.take(), "closed")
            return Response(head, self.take(size))
        except ConnectionError:
            return Response(head, self.take(), "reset")
        except TimeoutError:
            return Response(head, self.take(), "hung")

    def chunks(self) -> int | None:
        """How long the chunked body in the buffer is, or None as long as there is more to come."""
        start = 0
        while True:
            end = self.buffer.find(b"\r\n", start)
            if end < 0:
                return None
            size = int(self.buffer[start:end], 16)
            start = end + 2 + size + 2
            if start > len(self.buffer):
                return None
            if not size:
                return start

    def rest(self) -> Response:
        """Everything that comes until the connection ends."""
        try:
            while self.receive():
                pass
            ending = "closed"
        except ConnectionError:
            ending = "reset"
        except TimeoutError:
            ending = "hung"
        head, separator, body = self.take().partition(b"\r\n\r\n")
        return Response(head + separator, body, ending)

    def take(self, size: int | None = None) -> bytes:
        size = len(self.buffer) if size is None else size
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken


def get(port: int, path: str, method: str = "GET") -> Response:
    """One request on a connection of its own."""
    with Connection(port) as connection:
        connection.send(path, method, "1.1", "Connection: close")
        return connection.rest()


def get_json(port: int, path: str) -> Any:
    return json.loads(get(port, path).payload)


def exchange(port: int, path: str, method: str, version: str, *headers: str) -> Response:
    """One request, and whether the connection then takes another one."""
    with Connection(port) as connection:
        connection.send(path, method, version, *headers)
        if "Connection: close" in headers:
            response = connection.rest()
        else:
            response = connection.response()
        body, ending = response.body, response.ending
        if ending == "?":
            body += connection.take()  # more than there should be
            ending = next_ending(connection, response)
    return Response(re.sub(rb"(?im)^date:.*\r\n", b"", response.head), body, ending)


def next_ending(connection: Connection, response: Response) -> str:
    """Whether *connection* is still open after *response*."""
    if (response.header("Connection") or "").lower() == "close":
        return connection.rest().ending  # sending more here may hold the server up
    try:
        connection.send("/-/stats", "GET", "1.1", "Connection: close")
    except ConnectionError:
        return "closed"
    following = connection.rest()
    if following.status == 200:
        return "open"
    return "closed" if following.ending == "reset" else following.ending
