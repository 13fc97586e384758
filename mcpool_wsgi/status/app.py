"""
Status page: the WSGI app
=========================

What a request gets: the page, the JSON, or an error.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from werkzeug.wrappers import Request, Response

from .. import forks
from ..pool import Pool, pools_by_name
from . import page
from .report import Reporter

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: No cache, no search engine and no frame of another site gets the page.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": page.CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}


class StatusApp:
    """A WSGI app that shows what *pools* do. It answers everybody: who may see it is your task.

    :param pools: a pool, several, or ``{name: pool}``. The pools are those of this package.
        Without names, each has its own ``name``.
    :raises TypeError: something in *pools* is no pool of this package, or a name is no str.
    :raises ValueError: there is no pool, or two have the same name.

    From now on it counts the commands of the pools, until it is freed.
    """

    def __init__(self, pools: Pool | Iterable[Pool] | Mapping[str, Pool]) -> None:
        named = pools_by_name(pools)
        if not named:
            raise ValueError(f"StatusApp needs one pool or more, and {pools!r} has none")
        self._reporter = Reporter(named)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        forks.check_process()
        response = self._respond(Request(environ))
        response.headers.update(HEADERS)
        return response(environ, start_response)

    def _respond(self, request: Request) -> Response:
        if request.environ.get("PATH_INFO", "") not in ("", "/"):
            return Response("There is nothing here.\n", 404)
        if request.method not in ("GET", "HEAD"):
            text = f"This page is read only: GET or HEAD, not {request.method!r}.\n"
            return Response(text, 405, {"Allow": "GET, HEAD"})
        wanted = request.args.get("format", "html")
        if wanted not in ("html", "json"):
            return Response(f"format must be html or json, not {wanted!r}.\n", 400)
        pid = str(os.getpid())
        if request.args.get("process", pid) not in (pid, f"{pid}@{socket.gethostname()}"):
            response = Response(status=204)
            del response.headers["Content-Type"]
            return response
        report = self._reporter.report()
        if wanted == "json":
            return Response(json.dumps(report), mimetype="application/json")
        return Response(page.render(report), mimetype="text/html")
