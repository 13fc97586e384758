"""
Request
=======

Says which client the running request has, for those who ask
(:mod:`mcpool_wsgi.pool.request_client`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..pool import LentClient, in_request
from .files import FileWrapper

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class InRequest:
    """Calls *app* as the request that has the client at *key* of the environ."""

    def __init__(self, app: WSGIApplication, key: str) -> None:
        self._app = app
        self._key = key

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        client: LentClient = environ[self._key]
        response: Any = in_request(client, self._app, environ, start_response)
        wrapper = environ.get("wsgi.file_wrapper")
        is_file = type(wrapper) is FileWrapper and response is wrapper.wrapped
        if response is None or is_file or type(response) in (list, tuple):
            return response  # type: ignore[no-any-return]  # no code of the app runs any more
        kind = SizedChunks if hasattr(response, "__len__") else Chunks
        return kind(client, response)


class Chunks:
    """The *response* of an app, whose code runs as the request that has *client*."""

    def __init__(self, client: LentClient, response: Any) -> None:
        self._client = client
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        chunks = in_request(self._client, iter, self._response)
        while True:
            try:
                chunk = in_request(self._client, next, chunks)
            except StopIteration:
                return
            yield chunk

    def close(self) -> None:
        close = getattr(self._response, "close", None)
        if close is not None:
            in_request(self._client, close)

    @property
    def gi_frame(self) -> Any:
        """Of a generator, which refuses to be closed while it runs in another thread."""
        return getattr(self._response, "gi_frame", None)


class SizedChunks(Chunks):
    """A response with a length."""

    def __len__(self) -> int:
        return len(self._response)
