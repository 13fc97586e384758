"""How every example starts: finds a memcached, serves on 127.0.0.1:5050, ends cleanly."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Callable

import pylibmc
from werkzeug.serving import make_server

from mcpool_wsgi.devserver import memcached, shown
from mcpool_wsgi.options import ADDRESS, parsed

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


@contextmanager
def memcached_servers() -> Iterator[list[str]]:
    """Those that ``MEMCACHED_SERVERS`` names, or one that runs as long as the block."""
    given = os.environ.get("MEMCACHED_SERVERS")
    if given:
        try:
            options = parsed({"servers": given}, ADDRESS, {"servers": "MEMCACHED_SERVERS"})
        except ValueError as error:
            sys.exit(str(error))
        servers = options["servers"]
        print(f"Using the memcached of MEMCACHED_SERVERS: {', '.join(servers)}", flush=True)
        yield servers
        return
    with memcached() as server:
        print(f"Using {server}", flush=True)
        yield [server.address]


def run(make_app: Callable[[list[str]], WSGIApplication], try_path: str = "/") -> None:
    """Serve what *make_app* makes of the servers, in threads, until Ctrl-C, SIGTERM or SIGHUP."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5050)
    options = parser.parse_args()
    if not 0 <= options.port <= 65535:
        parser.error("--port must be 0 to 65535")
    # As Ctrl-C does, SIGTERM ends what is started here on its way out, and so does SIGHUP, which
    # comes when the terminal is closed.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit())
    with suppress(KeyboardInterrupt), memcached_servers() as servers:
        try:
            app = make_app(servers)
        except pylibmc.Error as error:
            sys.exit(f"cannot use the memcached at {', '.join(servers)}: {error}")
        server = make_server(options.host, options.port, app, threaded=True)
        try:
            where = shown(options.host, server.port)
            print(f"Try: curl http://{where}{try_path}", flush=True)
            server.serve_forever()
        finally:
            server.server_close()
