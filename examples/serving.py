"""How every example starts: it finds a memcached, serves on 127.0.0.1:5050, and ends cleanly."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Callable

import pylibmc
from werkzeug.serving import make_server

from mcpool_wsgi.config import client_from_environ
from mcpool_wsgi.devserver import format_address, memcached

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def find_servers(stack: ExitStack) -> list[str]:
    """The servers of ``MEMCACHED_SERVERS``, or a memcached that runs until *stack* is closed."""
    given = os.environ.get("MEMCACHED_SERVERS")
    try:
        if not given:
            server = stack.enter_context(memcached())
            print(f"Using {server}", flush=True)
            return [server.address]
        client = client_from_environ({"MEMCACHED_SERVERS": given})
        client.get_stats()
    except (RuntimeError, ValueError) as error:
        sys.exit(str(error))
    except pylibmc.Error as error:
        sys.exit(f"cannot use the memcached of MEMCACHED_SERVERS, {given}: {error}")
    servers = client.addresses
    print(f"Using the memcached of MEMCACHED_SERVERS: {', '.join(servers)}", flush=True)
    return servers


def listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]
        sys.exit(
            f"cannot listen on {format_address(host, port)}: {reason};"
            " choose another --port or --host"
        )


def run(make_app: Callable[[list[str]], WSGIApplication], try_path: str = "/") -> None:
    """Serve the app that *make_app* returns, in threads, until Ctrl-C, SIGTERM or SIGHUP."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5050)
    options = parser.parse_args()
    if not 0 <= options.port <= 65535:
        parser.error("--port must be 0 to 65535")
    # SIGTERM, and SIGHUP of a terminal that closes, end the program in the same way as Ctrl-C.
    # So the memcached ends, too.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit())
    with suppress(KeyboardInterrupt), ExitStack() as stack:
        listener = stack.enter_context(listen(options.host, options.port))
        app = make_app(find_servers(stack))
        server = make_server(options.host, options.port, app, threaded=True, fd=listener.fileno())
        stack.callback(server.server_close)
        url = f"http://{format_address(options.host, server.port)}{try_path}"
        print(f"Try: curl {url}", flush=True)
        server.serve_forever()
