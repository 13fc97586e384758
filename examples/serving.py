"""How every example starts: finds a memcached, serves on 127.0.0.1:5050, ends cleanly."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Callable

from werkzeug.serving import make_server

from mcpool_wsgi.devserver import memcached
from mcpool_wsgi.options import server_list

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


@contextmanager
def memcached_servers() -> Iterator[list[str]]:
    """Those that ``MEMCACHED_SERVERS`` names, or one that runs as long as the block."""
    given = os.environ.get("MEMCACHED_SERVERS")
    if given:
        try:
            servers = server_list(given)
        except ValueError as error:
            sys.exit(f"MEMCACHED_SERVERS is {given!r} and should be {error}")
        print(f"Using the memcached of MEMCACHED_SERVERS: {', '.join(servers)}", flush=True)
        yield servers
        return
    with memcached() as server:
        print(f"Using {server}", flush=True)
        yield [server.address]


def run(make_app: Callable[[list[str]], WSGIApplication], try_path: str = "/") -> None:
    """Serve what *make_app* makes of the servers, in threads, until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5050)
    options = parser.parse_args()
    # As Ctrl-C does, SIGTERM ends what is started here on its way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with memcached_servers() as servers:
        server = make_server(options.host, options.port, make_app(servers), threaded=True)
        host = f"[{options.host}]" if ":" in options.host else options.host
        print(f"Try: curl http://{host}:{server.port}{try_path}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
        finally:
            server.server_close()
