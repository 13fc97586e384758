"""
Memcached Pool Middleware
=========================

Lends every request a memcached client.

.. code-block:: python

    from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware

    def app(environ, start_response):
        mc = environ["mc.client"]
        ...

    app = MemcachedPoolMiddleware(app, ClientPool(Client(["127.0.0.1"]), 12))

The client is reserved when the request starts and goes back to its pool when
the server closes the response, whatever happens in between: the app or the
iteration raises, the server closes twice, or not at all.

An app that streams for a long time and needs memcached only at its beginning
hands the client back early:

.. code-block:: python

    environ["mc.client.release"]()

From then on ``environ["mc.client"]`` is a :exc:`KeyError`, so that nothing in the
request can use a client which by then may be another request's.

When no client comes free, the app is not called: ``on_exhausted``, a WSGI app
too, answers in its place. It is a 503 with ``Retry-After: 1`` by default.
"""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from sys import getrefcount
from typing import TYPE_CHECKING, Any, Protocol

from werkzeug.exceptions import ServiceUnavailable

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Pool(Protocol):
    """What the middleware needs of a pool: ours, pylibmc's, or your own."""

    def reserve(self) -> AbstractContextManager[Any]: ...


class MemcachedPoolMiddleware:
    """Puts a client from *pool* into the environ of every request.

    :param app: the WSGI app to wrap.
    :param pool: anything with a ``reserve()`` that returns a context manager.
    :param environ_key: where the app finds the client. What hands it back early
        is under the same key with ``.release`` behind it.
    :param on_exhausted: the WSGI app that answers when entering the reservation
        says that there is no client, by :exc:`queue.Empty` (as this package's and
        pylibmc's pools do) or :exc:`IndexError` (as a list does).
    :raises TypeError: one of them is not what it must be.
    """

    def __init__(
        self,
        app: WSGIApplication,
        pool: Pool,
        *,
        environ_key: str = "mc.client",
        on_exhausted: WSGIApplication = ServiceUnavailable(  # noqa: B008  it has no state
            "All memcached connections are in use.", retry_after=1
        ),
    ) -> None:
        if not callable(app):
            raise TypeError(f"app must be a WSGI app, which can be called, not {app!r}")
        if not callable(getattr(pool, "reserve", None)):
            raise TypeError(
                f"pool must have a method reserve() that returns a context manager, and {pool!r}"
                " has none"
            )
        if not isinstance(environ_key, str) or not environ_key:
            raise TypeError(f"environ_key must be a name, not {environ_key!r}")
        if not callable(on_exhausted):
            raise TypeError(
                f"on_exhausted must be a WSGI app, which can be called, not {on_exhausted!r}"
            )
        self._app = app
        self._reserve = pool.reserve
        self._client_key = environ_key
        self._release_key = f"{environ_key}.release"
        self._on_exhausted = on_exhausted

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reservation = self._reserve()
        try:
            client = reservation.__enter__()
        except (queue.Empty, IndexError):
            return self._on_exhausted(environ, start_response)
        release = _Release(reservation, environ, self._client_key)
        try:
            environ[self._client_key] = client
            environ[self._release_key] = release
            response = self._app(environ, start_response)
        except BaseException:
            release()
            raise
        if response is None:  # not WSGI, but for the server to say
            release()
            return response
        if hasattr(response, "__len__"):
            return _SizedResponse(response, release)
        return _Response(response, release)


class _Release:
    """Hands the client back, once, however often and wherever it is called."""

    __slots__ = ("_environ", "_key", "_reservation")

    def __init__(
        self, reservation: AbstractContextManager[Any], environ: WSGIEnvironment, key: str
    ) -> None:
        self._reservation = reservation
        self._environ: WSGIEnvironment | None = environ
        self._key = key

    def __call__(self) -> None:
        try:
            reservation = self._reservation
            del self._reservation  # succeeds once
        except AttributeError:
            return
        environ = self._environ
        self.unlink()
        try:
            if environ is not None:
                environ.pop(self._key, None)
        finally:
            reservation.__exit__(None, None, None)

    def unlink(self) -> None:
        """End the circle of the environ and this, so that both are freed at once."""
        self._environ = None


class _Response:
    """The app's response; closing it hands the client back."""

    __slots__ = ("_iterator", "_release", "_response")

    def __init__(self, response: Iterable[bytes], release: _Release) -> None:
        self._response = response
        self._release = release
        self._iterator: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        # The app's own iterator, so that a chunk costs no more than without the middleware.
        self._iterator = iterator = iter(self._response)
        return iterator

    def close(self) -> None:
        try:
            release = self._release
            del self._release  # succeeds once
        except AttributeError:
            return
        try:
            close = getattr(self._response, "close", None)
            if close is not None:
                close()
        finally:
            release()

    def __del__(self) -> None:
        """The server has let go of the response. If it did not close it, that is done now."""
        try:
            release = self._release
        except AttributeError:
            return
        mine = 2 + (self._iterator is self._response)  # the attributes, and getrefcount's own
        if self._iterator is not None and getrefcount(self._iterator) > mine:
            # Somebody still iterates: the client stays reserved for as long as the environ lives.
            release.unlink()
        else:
            self.close()


class _SizedResponse(_Response):
    """Servers make a Content-Length of the number of chunks, if there is one."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._response)  # type: ignore[arg-type]
