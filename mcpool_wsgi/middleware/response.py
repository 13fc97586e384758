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
    """The response of an app. Closing it ends the request.

    It is no iterator of its own: servers get the app's iterator, so that a chunk costs no more
    than without the middleware. And it is no list: bjoern would not close it.
    """

    # There is no __init__: calling one costs as much as all else here. See the middleware.
    __slots__ = ("__weakref__", "environ", "middleware", "release", "reservation", "response")

    middleware: Middleware
    environ: WSGIEnvironment
    reservation: Any
    release: Callable[[], None]
    response: Any  # the app's; absent while a thread closes it, () from then on

    def __iter__(self) -> Iterator[bytes]:
        return iter(getattr(self, "response", ()))

    def close(self) -> None:
        """Close the app's response, then release the client."""
        try:
            response = self.response
            del self.response  # succeeds once
        except AttributeError:
            return
        is_closed = True
        try:
            close = getattr(response, "close", None)
            if close is not None:
                self.middleware.call(close, self.environ, self.reservation, self.release)
        except ValueError:
            # A generator that runs in another thread refuses to be closed, and keeps its client.
            is_closed = getattr(response, "gi_frame", None) is None
            raise
        finally:
            self.response = () if is_closed else response
            if is_closed:
                self.end()

    def end(self) -> None:
        """End the request. More than once does no harm."""
        self.middleware.end(self.environ, self.reservation, self.release)


class SizedResponse(Response):
    """A response with a length: of a single chunk, servers make a ``Content-Length``."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(getattr(self, "response", ()))


class ListResponse(SizedResponse):
    """A list, as most apps respond with. There is nothing of the app's to close."""

    __slots__ = ()

    def close(self) -> None:
        """Release the client."""
        self.response: Any = ()
        self.end()
