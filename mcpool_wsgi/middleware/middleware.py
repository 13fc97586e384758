"""
Memcached Pool Middleware
=========================

Reserves a memcached client for every request.

.. code-block:: python

    from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware

    def app(environ, start_response):
        mc = environ["mc.client"]
        ...

    app = MemcachedPoolMiddleware(app, ClientPool(Client(["127.0.0.1"]), 12))

``get_client(environ)`` returns the same client, with its type.

The client is reserved when the request starts. It is released when the server closes the
response, even if the app or the iteration raises, or if the server closes twice. If the server
never closes the response, the slot is idle again as soon as Python has freed the environ and the
client.

An app that streams for a long time and needs memcached only at its beginning can release
the client early:

.. code-block:: python

    environ["mc.client.release"]()

From then on every command of the client raises :exc:`~mcpool_wsgi.ClientReleased`.

With ``lazy=True`` the client is reserved at its first command. A request that uses no
memcached then takes no client. Choose it if many requests need none, health checks for example.

If no client comes free in time, ``on_exhausted`` answers, which is a WSGI app too. By
default the answer is a 503 with ``Retry-After: 1``.
"""

from __future__ import annotations

import queue
from _thread import get_ident
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Callable, Protocol

from werkzeug.exceptions import ServiceUnavailable

from ..pool import LentClient, Pool, Reservation
from .arguments import check_arguments, reserve_function
from .early_release import Call, EarlyRelease
from .environ_keys import EnvironKeys
from .exhaustion import answered_when_exhausted
from .files import call_with_files
from .request import as_request
from .response import ListResponse, response_class
from .server_timing import ServerTiming
from .third_party import from_any_pool

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


#: The answer if no client came free in time.
NO_CLIENT = ServiceUnavailable("All memcached connections are in use.", retry_after=1)


class Reserving(Protocol):
    """What the middleware needs of a pool: one of this package's, of pylibmc's, or your own."""

    def reserve(self) -> AbstractContextManager[Any]: ...


def get_client(environ: WSGIEnvironment, environ_key: str = "mc.client") -> LentClient:
    """The client of the request to which *environ* belongs.

    :raises KeyError: there is none: the middleware is not in front of the app.
    """
    try:
        client: LentClient = environ[environ_key]
    except KeyError:
        raise KeyError(
            f"no {environ_key!r} in the environ: MemcachedPoolMiddleware is not in front of the"
            " app (wrap it: MemcachedPoolMiddleware(app, pool), with this environ_key), or the"
            " request has released a client that is not this package's"
        ) from None
    return client


class MemcachedPoolMiddleware:
    """Puts a client from *pool* into the environ of every request.

    :param app: the WSGI app to wrap.
    :param pool: anything with a ``reserve()`` that returns a context manager.
    :param environ_key: where the app finds the client. The same key with ``.release``
        behind it has the function that releases the client early.
    :param lazy: reserve the client at its first command. It needs a pool of this package
        with clients of this package.
    :param slow_after: seconds after which a client of *pool* that is still held is logged, once,
        with the request and the place where its thread is. One that is not of a request is logged,
        too.
    :param server_timing: add a ``Server-Timing`` header that says what memcached did for the
        request. *slow_after* and *server_timing* need a pool of this package, too.
    :param on_exhausted: the WSGI app that answers when no client came free. Entering the
        reservation says so by :exc:`queue.Empty` (as this package's and pylibmc's pools do)
        or :exc:`IndexError` (as a list does).
    :raises TypeError: one of them is not what it must be.
    :raises ValueError: *slow_after* is not positive or not finite.
    """

    def __init__(
        self,
        app: WSGIApplication,
        pool: Reserving,
        *,
        environ_key: str = "mc.client",
        lazy: bool = False,
        slow_after: float | None = None,
        server_timing: bool = False,
        on_exhausted: WSGIApplication = NO_CLIENT,
    ) -> None:
        check_arguments(app, pool, environ_key, lazy, server_timing, on_exhausted)
        self._reserve: Callable[[], Any]
        self._tells_requests: list[bool]
        if isinstance(pool, Pool):
            self._reserve = reserve_function(pool, lazy, slow_after)
            self._tells_requests = pool._tells_requests
            if server_timing:
                app = ServerTiming(app, pool)
        elif lazy or server_timing or slow_after is not None:
            raise TypeError(
                "lazy=True, slow_after and server_timing=True need a pool of this package, not"
                f" {pool!r}"
            )
        else:
            self._reserve = from_any_pool(pool.reserve)
            self._tells_requests = [True]  # it may reserve clients of a pool of ours
        app_in_request = as_request(app, environ_key)
        if lazy:
            app = answered_when_exhausted(app, environ_key, on_exhausted)
            app_in_request = answered_when_exhausted(app_in_request, environ_key, on_exhausted)
        self._app = app
        self._app_in_request = app_in_request
        self._keys = EnvironKeys(environ_key)
        self._on_exhausted = on_exhausted

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reserve = self._reserve
        reservation = reserve()
        if not environ.get("wsgi.multithread", True) and isinstance(reservation, Reservation):
            reservation._server_thread = get_ident()
        release = reservation.release
        keys = self._keys
        call = None
        try:
            try:
                client = reservation.__enter__()
            except (queue.Empty, IndexError):
                return self._on_exhausted(environ, start_response)
            if (
                client is not reservation
                or keys.client_key in environ
                or keys.release_key in environ
            ):
                call = Call(environ)  # this frame alone keeps it
                release = EarlyRelease(call, keys, reservation, client)
            environ[keys.client_key] = client
            environ[keys.release_key] = release
            tells = self._tells_requests and isinstance(client, LentClient)
            app = self._app_in_request if tells else self._app
            file = None
            if "wsgi.file_wrapper" in environ:
                response, file = call_with_files(app, environ, start_response)
            else:
                response = app(environ, start_response)
            to_close = response if file is None else None  # the server closes a file
            kind = ListResponse if type(response) is list else response_class(to_close)
            closing = kind(keys, environ, reservation, release, to_close)
            if call is not None:
                release.follow(closing)
            if file is not None:
                file.response = closing
                return response  # type: ignore[no-any-return]
            # Neither is WSGI. But uWSGI and bjoern send bytes, and only if they get the bytes.
            if response is None or type(response) is bytes:
                closing.end()
                return response  # type: ignore[return-value]
        except BaseException:
            keys.end_request(environ, reservation, release)
            raise
        return closing
