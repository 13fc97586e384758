"""Talk to a memcached in bytes, and start the development server from the command line."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mcpool_wsgi.devserver import Memcached


@contextlib.contextmanager
def connected(address: str) -> Iterator[socket.socket]:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def received(connection: socket.socket) -> bytes:
    """The bytes that arrive until the server closes the connection."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def ask(server: Memcached, request: bytes) -> bytes:
    """The answer to *request*. The connection must be in sync afterwards."""
    with connected(server.address) as connection:
        connection.sendall(request + b"verbosity 0\r\nquit\r\n")
        answer = received(connection)
    assert answer.endswith(b"OK\r\n"), "the connection is out of sync"
    return re.sub(rb"(VALUE \S+ \d+ \d+) \d+", rb"\1 CAS", answer[: -len(b"OK\r\n")])


@contextlib.contextmanager
def command_line(*options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server that is started from the command line, and the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mcpool_wsgi.devserver", *options],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().decode()
            assert line.startswith("listening on ")
            yield process, line[len("listening on ") : -1]
        finally:
            process.kill()
