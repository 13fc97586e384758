"""
End to end
==========

Requests per second of gunicorn, one worker with 12 threads, whose app does one ``get``
a request. Three such servers run at once and are loaded in turn, by a process of
its own with 12 kept-alive connections.

A pool is some microseconds of the hundreds that such a request takes, so the
question is whether this one is any slower than the blog's, and what no pool costs.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pylibmc
from measure import Figures, Track, interleaved

from mcpool_wsgi.devserver import memcached

HERE = Path(__file__).resolve().parent
THREADS = 12

OURS = "the middleware on mcpool_wsgi.ClientPool"
BLOG = "the blog's app on pylibmc.ClientPool"
NO_POOL = "a client per request"
APPS = {OURS: "ours", BLOG: "blog", NO_POOL: "client_per_request"}


def run(quick: bool, track: Track) -> Figures:
    """Requests per second, by app. Nothing if *quick*."""
    if quick:
        return {}
    with ExitStack() as stack:
        server = stack.enter_context(memcached(embedded=False))
        pylibmc.Client([server.address]).set("key", b"v" * 100)
        ports = {
            name: stack.enter_context(gunicorn(app, server.address)) for name, app in APPS.items()
        }
        loads = {name: lambda port=port: load(port, 1.0) for name, port in ports.items()}
        for port in ports.values():
            load(port, 0.5)
        return interleaved(loads, track("end to end", 23))


@contextmanager
def gunicorn(app: str, memcached_address: str) -> Iterator[int]:
    """A server of *app*; the port that it listens on."""
    environ = dict(
        os.environ, BENCHMARK_MEMCACHED=memcached_address, BENCHMARK_THREADS=str(THREADS)
    )
    # Bound here, so that no two take the same port and nobody has to wait for the server.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        bind = f"--bind=fd://{listener.fileno()}"
        command = [sys.executable, "-m", "gunicorn", "--worker-class=gthread", bind]
        command += [f"--threads={THREADS}", "--log-level=warning", f"end_to_end_app:{app}"]
        process = subprocess.Popen(
            command, env=environ, cwd=HERE, pass_fds=[listener.fileno()], start_new_session=True
        )
    try:
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()


def load(port: int, seconds: float) -> float:
    """Requests per second that the server at *port* answers, asked by another process."""
    command = [sys.executable, __file__, str(port), str(seconds)]
    return float(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)


def generate(port: int, seconds: float) -> float:
    answered = [0] * THREADS
    errors: list[BaseException] = []

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            while time.monotonic() < end:
                connection.request("GET", "/")
                response = connection.getresponse()
                if response.status != 200 or len(response.read()) != 100:
                    raise RuntimeError(f"answered {response.status} {response.reason}")
                answered[number] += 1
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(THREADS)]
    began = time.monotonic()
    end = began + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(answered) / (time.monotonic() - began)


if __name__ == "__main__":
    print(generate(int(sys.argv[1]), float(sys.argv[2])))
