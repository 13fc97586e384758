"""
Response
========

What the server gets from the middleware, and closes.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .environ_keys import EnvironKeys

CLOSED: tuple[bytes, ...] = ()  # in the place of a response


class Response:
    """The response of an app. Closing it ends the request.

    It is no iterator of its own: servers get the app's iterator, so that a chunk costs no more
    than without the middleware. And it is no list: bjoern would not close it.
    """

    __slots__ = ("__weakref__", "environ", "keys", "release", "reservation", "response")

    def __init__(
        self,
        keys: EnvironKeys,
        environ: WSGIEnvironment,
        reservation: Any,
        release: Callable[[], None],
        response: Any,
    ) -> None:
        self.keys: EnvironKeys = keys
        self.environ: WSGIEnvironment = environ
        self.reservation: Any = reservation
        self.release: Callable[[], None] = release
        self.response: Any = response  # absent while a thread closes it, CLOSED from then on

    def __iter__(self) -> Iterator[bytes]:
        return iter(getattr(self, "response", CLOSED))

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
                self.keys.call_close(close, self.environ, self.reservation, self.release)
        except ValueError:
            # A generator that runs in another thread refuses to be closed, and keeps its client.
            is_closed = getattr(response, "gi_frame", None) is None
            raise
        finally:
            self.response = CLOSED if is_closed else response
            if is_closed:
                self.keys.end_request(self.environ, self.reservation, self.release)

    @property
    def gi_frame(self) -> Any:
        """Not None if it stays open. The Response of another middleware asks for it.

        A generator may have ended since it refused to be closed, so nobody asks it once more.
        """
        response = getattr(self, "response", CLOSED)
        return None if response is CLOSED else response

    def call_close(self, close: Callable[[], object]) -> None:
        """Call the app's *close* as a part of its request."""
        self.keys.call_close(close, self.environ, self.reservation, self.release)

    def end(self) -> None:
        """End the request. More than once does no harm."""
        self.keys.end_request(self.environ, self.reservation, self.release)


class SizedResponse(Response):
    """A response with a length: of a single chunk, servers make a ``Content-Length``."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(getattr(self, "response", CLOSED))


class ListResponse(SizedResponse):
    """A list, as most apps respond with. There is nothing of the app's to close."""

    __slots__ = ()

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.response)

    def close(self) -> None:
        """Release the client."""
        self.response = CLOSED
        self.keys.end_request(self.environ, self.reservation, self.release)


def response_class(response: Any) -> type[Response]:
    """The class for what an app has returned, if it is no list."""
    if type(response) is GeneratorType or not hasattr(response, "__len__"):
        return Response
    return SizedResponse
