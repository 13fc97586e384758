"""Starts the servers that have no command line: ``launchers.py NAME PORT``."""

from __future__ import annotations

import sys


def serve_wsgiref(port: int) -> None:
    from wsgiref.simple_server import make_server

    from servers.apps import application

    make_server("127.0.0.1", port, application).serve_forever()


def serve_werkzeug(port: int) -> None:
    from werkzeug.serving import run_simple

    from servers.apps import application

    run_simple("127.0.0.1", port, application, threaded=True)


def serve_bjoern(port: int) -> None:
    import bjoern

    from servers.apps import application

    bjoern.run(application, "127.0.0.1", port)


def serve_gevent(port: int) -> None:
    from gevent import monkey

    monkey.patch_all()
    serve_gevent_unpatched(port)


def serve_gevent_unpatched(port: int) -> None:
    from gevent.pywsgi import WSGIServer

    from servers.apps import application

    WSGIServer(("127.0.0.1", port), application).serve_forever()


SERVE = {
    "wsgiref": serve_wsgiref,
    "werkzeug": serve_werkzeug,
    "bjoern": serve_bjoern,
    "gevent": serve_gevent,
    "gevent-unpatched": serve_gevent_unpatched,
}

if __name__ == "__main__":
    SERVE[sys.argv[1]](int(sys.argv[2]))
