"""
Exhaustion
==========

What happens if a lazy request finds no client in time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import PoolTimeout
from ..pool import LazyClient

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class LazyExhaustion:
    """Calls *app* and, if its first command finds no client in time, *on_exhausted* instead."""

    def __init__(self, app: WSGIApplication, key: str, on_exhausted: WSGIApplication) -> None:
        self._app = app
        self._key = key
        self._on_exhausted = on_exhausted

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        client: LazyClient = environ[self._key]
        is_started = []

        def noting_start_response(*args: Any, **kwargs: Any) -> Any:
            is_started.append(True)
            return start_response(*args, **kwargs)

        try:
            return self._app(environ, noting_start_response)
        except PoolTimeout as error:
            if is_started or id(error) != client.timeout_id:
                raise
        return self._on_exhausted(environ, start_response)
