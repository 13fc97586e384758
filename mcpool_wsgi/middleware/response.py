"""
Response
========

What the server gets from the middleware, and closes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable, Protocol

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Middleware(Protocol):
    """What a response needs of the middleware."""

    def end(self, environ: WSGIEnvironment, reservation: Any, release: Any) -> None: ...

    def call(
        self,
        close: Callable[[], object],
        environ: WSGIEnvironment,
        reservation: Any,
        release: Any,
    ) -> None: ...


class Response:
    """The response of an app. Closing it ends the request, once.

    It is no iterator of its own: servers get the app's iterator, so that a chunk costs no more
    than without the middleware.
    """

    __slots__ = (
        "__weakref__",
        "_is_closed",
        "_middleware",
        "_release",
        "_reservation",
        "_response",
        "environ",
    )

    def __init__(
        self,
        middleware: Middleware,
        environ: WSGIEnvironment,
        reservation: Any,
        release: Callable[[], None],
        response: Any,
    ) -> None:
        self._middleware = middleware
        self.environ: WSGIEnvironment = environ
        self._reservation = reservation
        self._release = release
        self._response = response
        self._is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        return iter(getattr(self, "_response", ()))

    def close(self) -> None:
        """Close the app's response, then release the client."""
        try:
            response = self._response
            del self._response  # succeeds once
        except AttributeError:
            if self._is_closed:
                self.end()  # once more, because an interrupt may have kept it from its end
            return
        is_closed = True
        try:
            close = getattr(response, "close", None)
            if close is not None:
                self._middleware.call(close, self.environ, self._reservation, self._release)
        except ValueError:
            # A generator that runs in another thread refuses to be closed, and keeps its client.
            is_closed = getattr(response, "gi_frame", None) is None
            raise
        finally:
            if is_closed:
                self._is_closed = True
                self.end()
            else:
                self._response = response

    def end(self) -> None:
        """End the request."""
        self._middleware.end(self.environ, self._reservation, self._release)


class SizedResponse(Response):
    """A response with a length: of a single chunk, servers make a ``Content-Length``."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(getattr(self, "_response", ()))
