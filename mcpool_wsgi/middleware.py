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

Typed code says ``mc = get_client(environ)``, which is the same.

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
from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Protocol

from werkzeug.exceptions import ServiceUnavailable

from .client import Client
from .loan import ForeignLoan, Loan
from .pools import ClientPool
from .response import GeneratorResponse, ListResponse, closing

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Reserving(Protocol):
    """What the middleware needs of a pool: ours, pylibmc's, or your own."""

    def reserve(self) -> AbstractContextManager[Any]: ...


def get_client(environ: WSGIEnvironment, environ_key: str = "mc.client") -> Client:
    """The client of the request that *environ* is of, with a type that editors know.

    :raises KeyError: there is none: the middleware is not in front of the app, or
        the client was handed back already.
    """
    try:
        client: Client = environ[environ_key]
    except KeyError:
        raise KeyError(
            f"no {environ_key!r} in the environ: MemcachedPoolMiddleware is not in front of the"
            " app, or the client was handed back already"
        ) from None
    return client


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
        pool: Reserving,
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
        self._pool: Any = pool
        # Our own pools' leases are the loans themselves; a subclass may reserve as it likes. Both
        # pools inherit the one reserve().
        self._is_ours = getattr(type(pool), "reserve", None) is ClientPool.reserve
        self._client_key = environ_key
        self._release_key = f"{environ_key}.release"
        self._on_exhausted = on_exhausted

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # No __init__, here and below: it would cost as much as all the rest.
        if self._is_ours:
            loan = Loan()
            loan.pool = self._pool
        else:
            loan = ForeignLoan()
            loan.reservation = self._pool.reserve()
        loan.environ = environ
        loan.key = key = self._client_key
        try:
            client = loan.__enter__()
        except (queue.Empty, IndexError):
            return self._on_exhausted(environ, start_response)
        wrapped: Any
        try:
            environ[key] = client
            environ[self._release_key] = loan
            app = self._app  # a local name, or the call would look for a method first
            response = app(environ, start_response)
            if type(response) is list:
                wrapped = ListResponse()
                wrapped.response = response
                wrapped.loan = loan
            elif type(response) is GeneratorType:
                wrapped = GeneratorResponse()
                wrapped.response = response
                wrapped.loan = loan
            else:
                wrapped = closing(response, loan, environ.get("wsgi.file_wrapper"))
        except BaseException:
            loan.release()
            raise
        return wrapped  # type: ignore[no-any-return]
