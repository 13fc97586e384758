"""Servers that misbehave: fake memcacheds that follow a script, and a proxy to a real one."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from harness import eventually, missing

_CHUNK = 1 << 16


class Conversation:
    """One connection to a fake memcached."""

    def __init__(self, connection: socket.socket, over: threading.Event) -> None:
        self._connection = connection
        self._over = over

    def request(self) -> bytes:
        """The next request, which ends with a line break, or whatever a binary client sends."""
        data = b""
        while not data.endswith(b"\r\n") and data[:1] != b"\x80":
            chunk = self._connection.recv(_CHUNK)
            if not chunk:
                raise ConnectionAbortedError
            data += chunk
        return data

    def send(self, data: bytes, interval: float = 0) -> None:
        """Send *data*, byte by byte if there is an *interval* between them."""
        for part in [data[n : n + 1] for n in range(len(data))] if interval else [data]:
            self.pause(interval)
            self._connection.sendall(part)

    def pause(self, seconds: float) -> None:
        if self._over.wait(seconds):
            raise ConnectionAbortedError

    def wait(self) -> None:
        """Read and say nothing until the client closes the connection."""
        while self._connection.recv(_CHUNK):
            pass


Script = Callable[[Conversation], None]


class _Listener:
    """Accepts connections and has a thread for each."""

    def __init__(self, receive_buffer: int | None = None) -> None:
        self._over = threading.Event()
        self._listener = socket.socket()
        if receive_buffer is not None:  # accepted connections inherit it
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(128)
        self.address = "{}:{}".format(*self._listener.getsockname())
        #: How many connections there have been.
        self.accepted = 0
        self._sockets: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._accepting = self._run(self._accept)

    def _run(self, work: Callable[..., None], *args: object) -> threading.Thread:
        def run() -> None:
            with contextlib.suppress(OSError):  # as when the other side has gone
                work(*args)
            self._threads.discard(thread)  # or Python's garbage collection takes ever longer

        thread = threading.Thread(target=run, daemon=True)
        self._threads.add(thread)
        thread.start()
        return thread

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            self.accepted += 1
            self._sockets.add(connection)
            self._run(self._serve_and_close, connection)

    def _serve_and_close(self, connection: socket.socket) -> None:
        try:
            self._serve(connection)
        finally:
            self._sockets.discard(connection)
            connection.close()

    def _serve(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def cut(self) -> None:
        """Close all connections."""
        for connection in self._sockets.copy():
            _shut(connection)

    def close(self) -> None:
        """Refuse connections from now on, and close those that there are."""
        self._over.set()
        _shut(self._listener)
        self._listener.close()
        self._join(self._accepting)  # it may be accepting a connection at this moment
        self.cut()
        for thread in self._threads.copy():
            self._join(thread)

    def _join(self, thread: threading.Thread) -> None:
        thread.join(10)
        assert not thread.is_alive(), "a thread of a hostile server hangs"


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class FakeMemcached(_Listener):
    """Follows a *script* on every connection, and closes the connection at the script's end."""

    def __init__(self, script: Script) -> None:
        self._script = script
        super().__init__()

    def _serve(self, connection: socket.socket) -> None:
        self._script(Conversation(connection, self._over))


class Proxy(_Listener):
    """Passes on what a client and the memcached *target* send, until it is told otherwise."""

    def __init__(self, target: str, receive_buffer: int | None = None) -> None:
        self._target = target
        #: Seconds by which every part of an answer is late.
        self.delay = 0.0
        #: Seconds between the bytes of an answer, which then comes byte by byte.
        self.drip = 0.0
        #: How many bytes of answers a connection passes on before it is closed.
        self.cut_after: int | None = None
        self._reading = threading.Event()
        self._reading.set()
        super().__init__(receive_buffer)

    def stop_reading(self) -> None:
        """Read no more requests, as a memcached that hangs."""
        self._reading.clear()

    def go_on(self) -> None:
        """Pass everything on again."""
        self.delay = self.drip = 0.0
        self.cut_after = None
        self._reading.set()

    def close(self) -> None:
        self._reading.set()
        super().close()

    def _serve(self, client: socket.socket) -> None:
        host, _, port = self._target.rpartition(":")
        with socket.create_connection((host, int(port))) as server:
            self._sockets.add(server)
            self._run(self._pass_requests, client, server)
            try:
                self._pass_answers(server, client)
            finally:
                for connection in (client, server):
                    _shut(connection)
                self._sockets.discard(server)

    def _pass_requests(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while self._reading.wait() and (data := client.recv(_CHUNK)):
                # What came while it waited stays unread.
                self._reading.wait()
                server.sendall(data)
        finally:
            _shut(server)

    def _pass_answers(self, server: socket.socket, client: socket.socket) -> None:
        passed = 0
        while data := server.recv(_CHUNK):
            self._over.wait(self.delay)
            if self.cut_after is not None:
                data = data[: self.cut_after - passed]
            for part in [data[n : n + 1] for n in range(len(data))] if self.drip else [data]:
                self._over.wait(self.drip)
                client.sendall(part)
            passed += len(data)
            if self.cut_after is not None and passed >= self.cut_after:
                return


@contextlib.contextmanager
def fake(script: Script) -> Iterator[FakeMemcached]:
    """A fake memcached for the length of a ``with`` block."""
    with contextlib.closing(FakeMemcached(script)) as server:
        yield server


@contextlib.contextmanager
def proxy(target: str, receive_buffer: int | None = None) -> Iterator[Proxy]:
    """A proxy to *target* for the length of a ``with`` block."""
    with contextlib.closing(Proxy(target, receive_buffer)) as server:
        yield server


# -- Scripts


def value(key: str, data: bytes = b"value", flags: int = 16) -> bytes:
    """An answer's part for *key*; the flags are those of text."""
    return b"VALUE %s %d %d\r\n%s\r\n" % (key.encode(), flags, len(data), data)


def silent(conversation: Conversation) -> None:
    """Accept, and say nothing."""
    conversation.wait()


def answers(answer: bytes, *, late: float = 0, interval: float = 0) -> Script:
    """Give the same *answer* to every request, *late* or byte by byte."""

    def script(conversation: Conversation) -> None:
        while True:
            conversation.request()
            conversation.pause(late)
            conversation.send(answer, interval)

    return script


def answers_once(answer: bytes) -> Script:
    """Give *answer* to one request, and close the connection: in the middle, if it is short."""

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(answer)

    return script


def endless(part: bytes, interval: float = 0, *, begin: bytes = b"") -> Script:
    """Begin to answer, and never come to an end."""

    def script(conversation: Conversation) -> None:
        conversation.request()
        conversation.send(begin)
        while True:
            conversation.send(part)
            conversation.pause(interval)

    return script


#: What memcached says when it has no room for a value.
OUT_OF_MEMORY = b"SERVER_ERROR out of memory storing object\r\n"


# -- Addresses


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """An address that refuses connections, and that nobody else takes meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield "{}:{}".format(*bound.getsockname())


@contextlib.contextmanager
def real(*options: str) -> Iterator[str]:
    """The address of a real memcached with *options* of its own."""
    program = shutil.which("memcached")
    if program is None:
        missing("memcached")
    command = [program, "-U", "0", "-l", "127.0.0.1", "-p", "-1", *options]
    command += ["-u", "root"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(prefix="memcached-") as directory:
        ports = Path(directory, "ports")
        environ = {**os.environ, "MEMCACHED_PORT_FILENAME": str(ports)}
        process = subprocess.Popen(command, env=environ)
        try:
            eventually(ports.exists, "memcached does not start")
            yield f"127.0.0.1:{int(ports.read_text().rpartition(':')[2])}"
        finally:
            process.kill()
            process.wait()
