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
        noting = NotingStart(start_response)
        client: LazyClient = environ[self._key]
        try:
            return self._app(environ, noting)
        except PoolTimeout as error:
            if noting.is_started or error is not client.find_timeout():
                raise
        return self._on_exhausted(environ, start_response)


class NotingStart:
    """A ``start_response`` that knows whether it was called."""

    __slots__ = ("_start_response", "is_started")

    def __init__(self, start_response: StartResponse) -> None:
        self._start_response = start_response
        self.is_started: bool = False

    def __call__(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        self.is_started = True
        if exc_info is None:
            return self._start_response(status, headers)
        return self._start_response(status, headers, exc_info)
