"""Starts a server, waits until it answers, and stops it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import free_port

from . import wire
from .catalogue import THREADS, Server

START_TIMEOUT = 20.0
STOP_TIMEOUT = 10.0
TESTS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    server: Server
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    file: Path

    def stats(self, pool: str) -> dict[str, Any]:
        """The stats of *pool*, as the server reports them."""
        return self.report()["pools"][pool]  # type: ignore[no-any-return]

    def report(self) -> dict[str, Any]:
        return wire.get_json(self.port, "/-/stats")  # type: ignore[no-any-return]


@contextlib.contextmanager
def running(server: Server, memcached: str, *, command: str | None = None) -> Iterator[Running]:
    """Run *server* for the length of a ``with`` block."""
    with tempfile.TemporaryDirectory(prefix="server-") as name:
        directory = Path(name)
        directory.chmod(0o777)  # Apache may run under another user
        file, log, port = directory / "file", directory / "log", free_port()
        file.write_bytes(b"".join(b"line %07d\n" % number for number in range(16000)))
        environ = dict(os.environ, TEST_MEMCACHED=memcached, TEST_FILE=str(file))
        environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        arguments = (command or server.command).format(
            python=shlex.quote(sys.executable),
            scripts=shlex.quote(sysconfig.get_path("scripts")),
            tests=shlex.quote(str(TESTS)),
            directory=shlex.quote(name),
            port=port,
            threads=THREADS,
        )
        with log.open("wb") as output:
            process = subprocess.Popen(
                unprivileged(server) + shlex.split(arguments),
                cwd=directory,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that stop() ends the whole process group
            )
        try:
            wait_for(process, port, log)
            yield Running(server, port, process, log, file)
        finally:
            stop(process)


def unprivileged(server: Server) -> list[str]:
    """A prefix for the command: Apache does not serve as root, but it must read root's Python."""
    if server.name != "mod_wsgi" or os.geteuid() != 0:
        return []
    capability = "+dac_read_search"
    return [
        *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
        *(f"--inh-caps={capability}", f"--ambient-caps={capability}"),
    ]


def wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        with contextlib.suppress(OSError):
            if wire.get(port, "/-/stats").status == 200:
                return
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            problem = "has ended" if ended else "does not answer"
            raise RuntimeError(f"{process.args!r} {problem}: {log.read_text(errors='replace')}")
        time.sleep(0.02)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the process group of the server, with its children and its tracer."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
