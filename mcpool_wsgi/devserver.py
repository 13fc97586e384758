"""
A memcached for development
===========================

A small memcached, so that the examples and the tests run where none is
installed. It speaks the classic text protocol, byte for byte as memcached
1.6.18 does, keeps its items in one bounded, least-recently-used dictionary, and
needs nothing but the standard library.

From the command line, like ``memcached`` itself:

.. code-block:: console

    $ python -m mcpool_wsgi.devserver --port 11211
    listening on 127.0.0.1:11211

In tests and scripts :func:`memcached` starts a server for the length of a
``with`` block: the real one where it is installed, this one otherwise.

.. code-block:: python

    import pylibmc
    from mcpool_wsgi.devserver import memcached

    with memcached() as server:
        client = pylibmc.Client([server.address])
        client.set("greeting", "hello")

What it is *not* for: production, measuring speed, or a network with anybody
else on it. The binary protocol, SASL, UDP and the meta commands are not
spoken, so use :class:`pylibmc.Client` with ``binary=False``, its default.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .devcache import Cache
from .devprotocol import MEBIBYTE, Session

START_TIMEOUT = 10.0


async def serve(cache: Cache, host: str, port: int, unix_socket: str | None) -> None:
    """Serve until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Awaitable[None]:
        return Session(cache, reader, writer).run()

    if unix_socket is None:
        server = await asyncio.start_server(accept, host, port, backlog=1024)
        where = shown(*server.sockets[0].getsockname()[:2])
    else:
        os.umask(0o077)  # memcached's own default: nobody else may connect
        server = await asyncio.start_unix_server(accept, unix_socket, backlog=1024)
        where = unix_socket
    print(f"listening on {where}", flush=True)
    await stop.wait()
    server.close()
    if unix_socket is not None:
        with contextlib.suppress(FileNotFoundError):  # from Python 3.13 asyncio has done it
            os.unlink(unix_socket)


def shown(host: str, port: int) -> str:
    """*host* and *port* as clients and URLs take them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mcpool_wsgi.devserver")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=11211, help="0 chooses a free one")
    parser.add_argument("--unix-socket", metavar="PATH", help="instead of host and port")
    parser.add_argument("--memory", type=int, default=64, metavar="MiB")
    options = parser.parse_args()
    if options.unix_socket == "":
        parser.error("--unix-socket must be a path")
    if options.memory < 1:
        parser.error("--memory must be at least 1")
    cache = Cache(options.memory * MEBIBYTE)
    try:
        asyncio.run(serve(cache, options.host, options.port, options.unix_socket))
    except (OSError, OverflowError, ValueError) as error:
        sys.exit(f"cannot listen: {error}")


@dataclass(frozen=True)
class Memcached:
    """A running server, as :func:`memcached` yields it."""

    #: Where it listens, in the form that :class:`pylibmc.Client` takes.
    address: str
    version: str
    #: ``memcached`` or ``devserver``.
    kind: str
    process: subprocess.Popen[bytes]

    def __str__(self) -> str:
        if self.kind == "devserver":
            return f"the embedded development server at {self.address}"
        return f"memcached {self.version} at {self.address}"


@contextlib.contextmanager
def memcached(
    *,
    embedded: bool | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    unix_socket: str | None = None,
) -> Iterator[Memcached]:
    """A memcached in a child process, for the length of a ``with`` block.

    :param embedded: ``True`` for this module's server, ``False`` for the real one, ``None``
        for the real one if it is installed.
    :param port: ``0`` for one that is free.
    :param unix_socket: the path of a socket to listen on instead of *host* and *port*.
    :raises FileExistsError: *unix_socket* is a server's that runs, or no socket at all.
    :raises FileNotFoundError: *embedded* is ``False`` and none is installed.
    :raises RuntimeError: it does not start, or does not answer within 10 seconds.
    """
    binary = None if embedded else shutil.which("memcached")
    if binary is None and embedded is False:
        raise FileNotFoundError("there is no memcached on the PATH; embedded=None does without")
    if binary is not None:
        kind, command = "memcached", [binary, "-U", "0", "-c", "1024"]
        command += ["-s", unix_socket] if unix_socket else ["-l", host, "-p", str(port or -1)]
        command += ["-u", "root"] if os.geteuid() == 0 else []
    else:
        kind, command = "devserver", [sys.executable, "-m", "mcpool_wsgi.devserver"]
        command += ["--unix-socket", unix_socket] if unix_socket else []
        command += ["--host", host, "--port", str(port)]
    # The socket that a killed server has left behind may be taken, and nothing else.
    if (
        unix_socket
        and os.path.lexists(unix_socket)
        and (not Path(unix_socket).is_socket() or find(Path(), host, unix_socket))
    ):
        raise FileExistsError(f"{unix_socket} is in use")
    with tempfile.TemporaryDirectory(prefix="memcached-") as directory:
        # One server prints its port, the other writes a file: here they are the same.
        listening, errors = Path(directory, "listening"), Path(directory, "errors")
        environ = dict(os.environ, MEMCACHED_PORT_FILENAME=str(listening))
        path = [str(Path(__file__).resolve().parent.parent), environ.get("PYTHONPATH")]
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        with listening.open("wb") as stdout, errors.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # the terminal's Ctrl-C is for the parent alone
            )
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while (found := find(listening, host, unix_socket)) is None:
                if process.poll() is not None or time.monotonic() > deadline:
                    problem = "does not answer" if process.returncode is None else "has ended"
                    raise RuntimeError(f"{command} {problem}: {errors.read_text().strip()}")
                time.sleep(0.01)
            yield Memcached(*found, kind, process)
        finally:
            process.kill()  # memcached takes a second to end by itself, and has nothing to save
            process.wait()
            if unix_socket is not None:
                with contextlib.suppress(FileNotFoundError):  # a killed server leaves it behind
                    os.unlink(unix_socket)


def find(listening: Path, host: str, unix_socket: str | None) -> tuple[str, str] | None:
    """The server's address and version, or ``None`` when it does not answer yet."""
    try:
        port = 0 if unix_socket else int(listening.read_text().rpartition(":")[2])
        with connected(host, port, unix_socket) as connection:
            connection.sendall(b"version\r\n")
            version = connection.recv(100).decode().split()[1]
    except (OSError, ValueError, IndexError):
        return None
    return unix_socket or shown(host, port), version


def connected(host: str, port: int, unix_socket: str | None) -> socket.socket:
    if unix_socket is None:
        return socket.create_connection((host, port), timeout=1)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(1)
    try:
        connection.connect(unix_socket)
    except OSError:
        connection.close()
        raise
    return connection


if __name__ == "__main__":
    main()
