"""
Request
=======

Tells each :class:`~mcpool_wsgi.PooledClient` which client the running request has
(:mod:`mcpool_wsgi.pool.request_client`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..pool import in_request
from .chunks import chunks_run_by

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def as_request(app: WSGIApplication, key: str) -> WSGIApplication:
    """*app*, run as the request that has the client at *key* of the environ."""

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        run = functools.partial(in_request, environ[key])
        response: Any = run(app, environ, start_response)
        return chunks_run_by(run, environ, response)  # type: ignore[no-any-return]

    return call
