"""An HTTP client that keeps every byte, and sees how a connection ends."""

from __future__ import annotations

import json
import re
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any

SILENCE = 2.0  # a response without a byte for these seconds is hung
QUIET = 0.5  # the same for a response that does not say where it ends


@dataclass(frozen=True)
class Response:
    """One response, as bytes."""

    head: bytes
    body: bytes  # with the chunk headers
    #: What follows: ``open`` (another response is possible), ``closed``, ``reset``, ``hung`` (the
    #: response is not complete, but nothing comes) or ``?`` (unknown).
    ending: str = "?"

    @property
    def status(self) -> int:
        line = re.match(rb"HTTP/1\.[01] (\d{3}) ", self.head)
        return int(line[1]) if line else 0

    def header(self, name: str) -> str | None:
        found = re.search(rb"(?im)^" + name.encode() + rb":[ \t]*(.*?)\r?$", self.head)
        return found[1].decode("latin-1") if found else None

    @property
    def is_chunked(self) -> bool:
        return (self.header("Transfer-Encoding") or "").lower() == "chunked"

    @property
    def is_endless(self) -> bool:
        """Whether it has a body and does not say where that ends."""
        return (
            self.status != 204
            and not self.is_chunked
            and self.header("Content-Length") is None
            and (self.header("Connection") or "").lower() == "keep-alive"
        )

    @property
    def keeps_open(self) -> bool:
        """Whether it says that the connection takes another request."""
        connection = (self.header("Connection") or "").lower()
        return connection == "keep-alive" or (
            connection != "close" and self.head.startswith(b"HTTP/1.1")
        )

    def without_chunks(self) -> Response:
        return Response(self.head, self.payload, self.ending)

    @property
    def payload(self) -> bytes:
        """The body without the chunk headers."""
        if not self.is_chunked:
            return self.body
        chunks: list[bytes] = []
        rest = self.body
        while True:
            size, _, rest = rest.partition(b"\r\n")
            length = int(size, 16) if size else 0
            if not length:  # the last chunk, or the end of an incomplete body
                return b"".join(chunks)
            chunks.append(rest[:length])
            rest = rest[length + 2 :]


class Connection:
    """A connection to a server on this machine."""

    def __init__(self, port: int, patience: float = SILENCE) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(patience)
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
        """Reset the connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, path: str, method: str = "GET", version: str = "1.1", *headers: str) -> None:
        lines = [f"{method} {path} HTTP/{version}", "Host: 127.0.0.1", *headers, "", ""]
        self.socket.sendall("\r\n".join(lines).encode())

    def receive(self) -> bool:
        """Wait for more bytes. False at the end of the connection."""
        data = self.socket.recv(65536)
        self.buffer += data
        return bool(data)

    def response(self) -> Response:
        """Read one response, up to the end that it names."""
        head = b""
        try:
            while b"\r\n\r\n" not in self.buffer:
                if not self.receive():
                    return Response(self.take(), b"", "closed")
            head = self.take(self.buffer.index(b"\r\n\r\n") + 4)
            response = Response(head, b"")
            if response.status == 204:
                return response
            if response.is_chunked:
                while (size := self.chunks()) is None:
                    if not self.receive():
                        return Response(head, self.take(), "closed")
            elif response.is_endless:
                return response
            else:
                size = int(response.header("Content-Length") or sys.maxsize)
                while len(self.buffer) < size:
                    if not self.receive():
                        return Response(head, self.take(), "closed")
            return Response(head, self.take(size))
        except ConnectionError:
            return Response(head, self.take(), "reset")
        except socket.timeout:
            return Response(head, self.take(), "hung")

    def chunks(self) -> int | None:
        """The length of the chunked body in the buffer, or None if it is not complete."""
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
        """Read all bytes until the connection ends."""
        try:
            while self.receive():
                pass
            ending = "closed"
        except ConnectionError:
            ending = "reset"
        except socket.timeout:
            ending = "hung"
        head, separator, body = self.take().partition(b"\r\n\r\n")
        return Response(head + separator, body, ending)

    def take(self, size: int | None = None) -> bytes:
        size = len(self.buffer) if size is None else size
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken


def get(port: int, path: str, method: str = "GET", patience: float = SILENCE) -> Response:
    """Send one request on a new connection."""
    with Connection(port, patience) as connection:
        connection.send(path, method, "1.1", "Connection: close")
        return connection.rest()


def get_json(port: int, path: str) -> Any:
    response = get(port, path)
    assert response.payload, f"no JSON in {response}"
    return json.loads(response.payload)


def exchange(port: int, path: str, method: str, version: str, *headers: str) -> Response:
    """Send one request, and find out whether the connection then takes another one."""
    with Connection(port) as connection:
        connection.send(path, method, version, *headers)
        close = "Connection: close" in headers
        response = connection.rest() if close else connection.response()
        body, ending = response.body, response.ending
        if ending == "?":
            more, ending = following(connection, response)
            body += more
    return Response(re.sub(rb"(?im)^date:.*\r\n", b"", response.head), body, ending)


def following(connection: Connection, response: Response) -> tuple[bytes, str]:
    """The bytes on *connection* after the end of *response*, and how it ends."""
    if (response.header("Connection") or "").lower() == "close":
        rest = connection.rest()  # another request would delay werkzeug
        return rest.head + rest.body, rest.ending
    if response.is_endless:  # gevent keeps it open; granian says so but closes it
        connection.socket.settimeout(QUIET)
        rest = connection.rest()
        connection.socket.settimeout(SILENCE)
        if rest.ending != "hung":
            return rest.head + rest.body, rest.ending
        connection.buffer = rest.head + rest.body
    try:
        connection.send("/-/stats", "GET", "1.1", "Connection: close")
    except ConnectionError:
        return connection.take(), "closed"
    rest = connection.rest()
    more, answer, _ = (rest.head + rest.body).partition(b"HTTP/1.1 200 OK\r\n")
    if answer:
        return more, "open"
    return more, "closed" if rest.ending == "reset" else rest.ending
