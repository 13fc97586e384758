"""
Exhaustion
==========

What happens if a lazy request finds no client in time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Callable

from ..errors import PoolTimeout
from ..pool import LazyClient
from .files import each_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


def answered_when_exhausted(
    app: WSGIApplication, key: str, on_exhausted: WSGIApplication
) -> WSGIApplication:
    """*app*, in whose place *on_exhausted* answers if the first command finds no client in time.

    :param key: of the client in the environ.
    """

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        client: LazyClient = environ[key]
        is_started = False

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            nonlocal is_started
            is_started = True
            if exc_info is None:
                return start_response(status, headers)
            return start_response(status, headers, exc_info)

        try:
            response: Any = app(environ, start)
        except PoolTimeout as error:
            if is_started or error._client_id != id(client):
                raise
            return on_exhausted(environ, start_response)
        if is_started or response is None or type(response) in (list, tuple, bytes):
            return response  # type: ignore[no-any-return]
        # Its code may not have run yet, as that of a generator.
        kind = SizedUnstarted if hasattr(response, "__len__") else Unstarted
        return kind(
            response,
            lambda error: not is_started and error._client_id == id(client),
            lambda: on_exhausted(environ, start_response),
        )

    return call


class Unstarted:
    """A *response* whose code may find no client at its first chunk.

    :param is_exhausted: whether the error of the first chunk means that.
    :param answer: makes the response that is sent then.
    """

    def __init__(
        self,
        response: Any,
        is_exhausted: Callable[[PoolTimeout], bool],
        answer: Callable[[], Iterable[bytes]],
    ) -> None:
        self._response = response
        self._is_exhausted = is_exhausted
        self._answer = answer
        self._other: Any = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            chunks = iter(self._response)  # which may run code of the app, too
            chunk = next(chunks)
        except StopIteration:
            return
        except PoolTimeout as error:
            if not self._is_exhausted(error):
                raise
            self._other = self._answer()
            chunks = iter(self._other)
        else:
            yield chunk
        yield from each_of(functools.partial(next, chunks))

    def close(self) -> None:
        try:
            getattr(self._response, "close", int)()
        finally:
            getattr(self._other, "close", int)()

    @property
    def gi_frame(self) -> Any:
        """Response asks for it if a generator refuses to be closed."""
        return getattr(self._response, "gi_frame", None)


class SizedUnstarted(Unstarted):
    """A response with a length."""

    def __len__(self) -> int:
        return len(self._response)
