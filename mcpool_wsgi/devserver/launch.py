"""
Development server: the context manager
=======================================

Runs a memcached in a child process: the real one or :mod:`mcpool_wsgi.devserver`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .server import format_address

START_TIMEOUT = 10.0
IMPORT_PATH = Path(__file__).resolve().parents[2]  # the directory that has this package


@dataclass(frozen=True)
class Memcached:
    """A running server. :func:`memcached` yields it."""

    #: The address in the form that :class:`pylibmc.Client` takes.
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
    """Run a memcached in a child process for the length of a ``with`` block.

    :param embedded: ``True`` starts the development server, ``False`` the real memcached.
        ``None`` starts the real memcached if it is installed, and the development server
        otherwise.
    :param port: ``0`` chooses a free one.
    :param unix_socket: the path of a socket to listen on instead of *host* and *port*. The
        address is its absolute path, because a client takes no other.
    :raises FileExistsError: *unix_socket* belongs to a running server, or is not a socket.
    :raises FileNotFoundError: *embedded* is ``False`` and no memcached is installed.
    :raises RuntimeError: the server does not start, or does not answer within 10 seconds.
    """
    if unix_socket is not None:
        unix_socket = os.path.abspath(unix_socket)
    binary = None if embedded else shutil.which("memcached")
    if binary is None and embedded is False:
        raise FileNotFoundError("there is no memcached on the PATH; embedded=None works without")
    if binary is not None:
        kind, command = "memcached", [binary, "-U", "0", "-c", "1024"]
        command += ["-s", unix_socket] if unix_socket else ["-l", host, "-p", str(port or -1)]
        command += ["-u", "root"] if os.geteuid() == 0 else []
    else:
        kind, command = "devserver", [sys.executable, "-m", "mcpool_wsgi.devserver"]
        command += ["--unix-socket", unix_socket] if unix_socket else []
        command += ["--host", host, "--port", str(port)]
    if unix_socket and os.path.lexists(unix_socket) and not is_abandoned(unix_socket):
        raise FileExistsError(f"{unix_socket} is in use")
    with tempfile.TemporaryDirectory(prefix="memcached-") as directory:
        # memcached writes its port into a file. The development server prints it into the same.
        listening, errors = Path(directory, "listening"), Path(directory, "errors")
        environ = dict(os.environ, MEMCACHED_PORT_FILENAME=str(listening))
        path = [str(IMPORT_PATH), environ.get("PYTHONPATH")]
        environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        with listening.open("wb") as stdout, errors.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,  # Ctrl-C in the terminal is for the parent only
            )
        try:
            deadline = time.monotonic() + START_TIMEOUT
            while (found := probe(listening, host, unix_socket)) is None:
                if process.poll() is not None or time.monotonic() > deadline:
                    problem = "does not answer" if process.returncode is None else "has ended"
                    raise RuntimeError(f"{command} {problem}: {errors.read_text().strip()}")
                time.sleep(0.01)
            yield Memcached(*found, kind, process)
        finally:
            process.kill()  # memcached takes a second to end on SIGTERM, and has nothing to save
            process.wait()
            # A killed server leaves its socket behind. In a forked child the server still runs.
            if unix_socket is not None and is_abandoned(unix_socket):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(unix_socket)


def is_abandoned(unix_socket: str) -> bool:
    """Whether *unix_socket* is a socket that a killed server left behind."""
    try:
        connect("", 0, unix_socket).close()
    except ConnectionRefusedError:
        return Path(unix_socket).is_socket()
    except OSError:
        pass
    return False


def probe(listening: Path, host: str, unix_socket: str | None) -> tuple[str, str] | None:
    """The address and the version of the server, or ``None`` if it does not answer yet.

    :raises RuntimeError: it cannot be reached at all.
    """
    try:
        port = 0 if unix_socket else int(listening.read_text().rpartition(":")[2])
        with connect(host, port, unix_socket) as connection, connection.makefile("rb") as answer:
            # After "quit" the server closes the connection before it answers anybody else. So
            # nobody finds this connection in the statistics.
            connection.sendall(b"version\r\nquit\r\n")
            version = answer.read().decode().split()[1]
    except (OSError, ValueError, IndexError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.ENETDOWN):
            raise RuntimeError(
                f"cannot connect to {format_address(host, port)}: {error.strerror}; is the"
                " loopback interface up? (ip link set lo up)"
            ) from None
        return None
    return unix_socket or format_address(host, port), version


def connect(host: str, port: int, unix_socket: str | None) -> socket.socket:
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
