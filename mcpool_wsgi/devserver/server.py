"""
Development server: the command line
====================================

Listens on a port or a Unix socket, until SIGINT or SIGTERM comes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import Awaitable

from .cache import Cache
from .commands import MEBIBYTE
from .protocol import Session

DESCRIPTORS = 4096  # more than the 1024 clients that memcached takes


def raise_limit_of_descriptors() -> None:
    """Raise the soft limit, which may be 256, as memcached does for its clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def serve(cache: Cache, host: str, port: int, unix_socket: str | None) -> None:
    """Serve until SIGINT or SIGTERM comes."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Awaitable[None]:
        return Session(cache, reader, writer).run()

    if unix_socket is None:
        server = await asyncio.start_server(accept, host, port, backlog=1024)
        address = format_address(*server.sockets[0].getsockname()[:2])
    else:
        os.umask(0o077)  # only this user may connect, as with memcached
        server = await asyncio.start_unix_server(accept, unix_socket, backlog=1024)
        address, own_socket = unix_socket, os.stat(unix_socket)
    print(f"listening on {address}", flush=True)
    await stop.wait()
    server.close()
    if unix_socket is not None:
        with contextlib.suppress(FileNotFoundError):  # close() removes it from Python 3.13 on
            if os.path.samestat(os.stat(unix_socket), own_socket):  # not that of another server
                os.unlink(unix_socket)


def format_address(host: str, port: int) -> str:
    """*host* and *port* in the form that clients and URLs use."""
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
    raise_limit_of_descriptors()
    cache = Cache(options.memory * MEBIBYTE)
    try:
        asyncio.run(serve(cache, options.host, options.port, options.unix_socket))
    except (OSError, OverflowError, ValueError) as error:
        sys.exit(f"cannot listen: {error}")
