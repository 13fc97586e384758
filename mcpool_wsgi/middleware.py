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

The client is reserved when the request starts. It goes back to its pool when the server
closes the response, also if the app or the iteration raises, or if the server closes twice.
If the server never closes the response, the client goes back when the environ is freed, and
with it whatever else holds the client.

An app that streams for a long time and needs memcached only at its beginning can release
the client early:

.. code-block:: python

    environ["mc.client.release"]()

From then on every command of the client raises :exc:`~mcpool_wsgi.ClientReleased`.

With ``lazy=True`` the client is reserved at its first command. A request that uses no
memcached then takes no client. Choose it if many requests need none, a health check for one.

If no client comes free in time, ``on_exhausted`` answers, which is a WSGI app too. By
default the answer is a 503 with ``Retry-After: 1``.
"""

from __future__ import annotations

import functools
import queue
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Callable, Protocol

from werkzeug.exceptions import ServiceUnavailable

from .errors import PoolTimeout
from .pool import LazyClient, LentClient, Pool, Reservation

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MISSING: Any = object()


class Reserving(Protocol):
    """What the middleware needs of a pool: one of this package's, of pylibmc's, or your own."""

    def reserve(self) -> AbstractContextManager[Any]: ...


def get_client(environ: WSGIEnvironment, environ_key: str = "mc.client") -> LentClient:
    """The client of the request that *environ* is of.

    :raises KeyError: there is none: the middleware is not in front of the app.
    """
    try:
        client: LentClient = environ[environ_key]
    except KeyError:
        raise KeyError(
            f"no {environ_key!r} in the environ: MemcachedPoolMiddleware is not in front of the"
            " app, or the request has released a client that is not this package's"
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
    :param on_exhausted: the WSGI app that answers when no client came free. Entering the
        reservation says so by :exc:`queue.Empty` (as this package's and pylibmc's pools do)
        or :exc:`IndexError` (as a list does).
    :raises TypeError: one of them is not what it must be.
    """

    def __init__(
        self,
        app: WSGIApplication,
        pool: Reserving,
        *,
        environ_key: str = "mc.client",
        lazy: bool = False,
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
        if lazy and not isinstance(pool, Pool):
            raise TypeError(f"lazy=True needs a pool of this package, not {pool!r}")
        self._app = LazyExhaustion(app, environ_key, on_exhausted) if lazy else app
        reserve: Any = pool.reserve
        self._reserve = functools.partial(reserve, lazy=True) if lazy else reserve
        if lazy:
            self._reserve()  # takes nothing, and raises if the pool cannot do it
        self._key = environ_key
        self._release_key = f"{environ_key}.release"
        self._on_exhausted = on_exhausted

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reservation = self._reserve()
        if not isinstance(reservation, Reservation):
            reservation = ForeignReservation(reservation)
        elif not environ.get("wsgi.multithread", True) and not _others_run_during_a_wait():
            reservation.wait_at_most(0)  # nobody could release a client meanwhile
        release = reservation.release
        try:
            try:
                client = reservation.__enter__()
            except (queue.Empty, IndexError):
                return self._on_exhausted(environ, start_response)
            if client is not reservation or self._release_key in environ:
                release = EarlyRelease(environ, self._key, reservation, client)
            environ[self._key] = client
            environ[self._release_key] = release
            file = None
            if "wsgi.file_wrapper" in environ:
                response, file = call_with_files(self._app, environ, start_response)
            else:
                response = self._app(environ, start_response)
            if type(response) is list:
                closing: Response = SizedResponse(self, environ, reservation, release, response)
            elif type(response) is GeneratorType:
                closing = Response(self, environ, reservation, release, response)
            elif file is not None or response is None:
                closing = Response(self, environ, reservation, release, None)
            else:
                kind = SizedResponse if hasattr(response, "__len__") else Response
                closing = kind(self, environ, reservation, release, response)
            if type(release) is EarlyRelease:
                release.follow(closing)
            if file is not None:
                file.on_close = closing.end
                return response  # type: ignore[no-any-return]
            if response is None:  # that is not WSGI, and the server will say so
                closing.end()
                return response  # type: ignore[return-value]
        except BaseException:
            self.end(environ, reservation, release)
            raise
        return closing

    def end(self, environ: WSGIEnvironment, reservation: Any, release: Any) -> None:
        """End a request: release its client, and leave *environ* as it was before it."""
        try:
            reservation.__exit__()
        except BaseException:
            reservation.__exit__()  # an interrupt came, and something may be left to do
            raise
        latest = environ.get(self._release_key)
        if type(release) is EarlyRelease:
            release.leave(environ, latest)
        elif latest is release:
            del environ[self._release_key]
            environ.pop(self._key, None)
        else:
            EarlyRelease.skip(latest, release, MISSING, MISSING)

    def call(
        self,
        close: Callable[[], object],
        environ: WSGIEnvironment,
        reservation: Any,
        release: Any,
    ) -> None:
        """Call *close* while *environ* holds the client of the request that it belongs to."""
        if environ.get(self._release_key) is release:
            close()
            return
        # A later request has its own there.
        later_client = environ.get(self._key, MISSING)
        later_release = environ.get(self._release_key, MISSING)
        environ[self._key] = release.client if type(release) is EarlyRelease else reservation
        environ[self._release_key] = release
        try:
            close()
        finally:
            restore(environ, self._key, later_client)
            restore(environ, self._release_key, later_release)


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


class ForeignReservation:
    """A reservation of somebody else's pool. It ends once.

    :param reservation: the context manager that the pool gave.
    """

    __slots__ = ("__weakref__", "_end", "_reservation")

    def __init__(self, reservation: AbstractContextManager[Any]) -> None:
        self._reservation = reservation
        self._end: weakref.finalize[Any, Any] | None = None

    def __enter__(self) -> Any:
        client = self._reservation.__enter__()
        # Without release() it ends when the environ is freed.
        self._end = weakref.finalize(self, self._reservation.__exit__, None, None, None)
        self._end.atexit = False
        return client

    def __exit__(self, *exc: object) -> None:
        if self._end is not None:
            self._end()  # only the first call does something

    def release(self) -> None:
        self.__exit__()


class EarlyRelease:
    """What is at ``environ["mc.client.release"]`` if it must do more than release the client.

    It knows what an outer request has put into the environ. And a client of somebody else
    leaves the environ, because it cannot refuse commands after its release.
    """

    __slots__ = (
        "_client_before",
        "_find_environ",
        "_key",
        "_release_before",
        "_reservation",
        "client",
    )

    def __init__(self, environ: WSGIEnvironment, key: str, reservation: Any, client: Any) -> None:
        self._key = key
        self._reservation = reservation
        self.client: Any = client
        self._find_environ: Callable[[], WSGIEnvironment | None] = lambda: environ
        self._client_before: Any = environ.get(key, MISSING)
        self._release_before: Any = environ.get(f"{key}.release", MISSING)

    def follow(self, response: Response) -> None:
        """Hold the environ no longer, which holds this; *response* has it as long as it lives."""
        find_response = weakref.ref(response)

        def find_environ() -> WSGIEnvironment | None:
            response = find_response()
            return None if response is None else response.environ

        self._find_environ = find_environ

    def __call__(self) -> None:
        if self.client is not self._reservation:
            environ = self._find_environ()
            if environ is None:  # the server has dropped the response, and the app goes on
                return
            if environ.get(self._key) is self.client:
                del environ[self._key]
        self._reservation.release()

    def leave(self, environ: WSGIEnvironment, latest: Any) -> None:
        """Leave *environ* as it was. *latest* is the release of the latest request with it."""
        if latest is not self:
            EarlyRelease.skip(latest, self, self._client_before, self._release_before)
            return
        restore(environ, self._key, self._client_before)
        restore(environ, f"{self._key}.release", self._release_before)

    @staticmethod
    def skip(latest: Any, ended: Any, client_before: Any, release_before: Any) -> None:
        """A request has *ended* before a later one with its environ.

        What was there before it is what was there before the later one.
        """
        while type(latest) is EarlyRelease:
            if latest._release_before is ended:
                latest._client_before = client_before
                latest._release_before = release_before
            latest = latest._release_before


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
        middleware: MemcachedPoolMiddleware,
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


def call_with_files(
    app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse
) -> tuple[Any, File | None]:
    """The response of *app* and, if it is a file for the server, that file.

    Servers know what their own wrapper made, and send such a file without reading it. So the
    response must stay what it is, and the file in it tells when it is closed.
    """
    server_wrapper = environ["wsgi.file_wrapper"]
    environ["wsgi.file_wrapper"] = wrapper = FileWrapper(server_wrapper)
    try:
        response = app(environ, start_response)
    finally:
        environ["wsgi.file_wrapper"] = server_wrapper
    file, wrapped = wrapper.file, wrapper.wrapped
    wrapper.file = wrapper.wrapped = None  # the app may keep the wrapper
    if file is None or response is not wrapped:
        return response, None
    # bjoern's wrapper does not close its file when the client goes away. It is read instead.
    is_closed_by_the_server = (
        response is file
        or hasattr(response, "filelike")
        or (isinstance(server_wrapper, type) and hasattr(response, "__dict__"))
    )
    return response, file if is_closed_by_the_server else None


class FileWrapper:
    """What stands in the environ for the server's ``wsgi.file_wrapper`` while the app runs."""

    __slots__ = ("_server_wrapper", "file", "wrapped")

    def __init__(self, server_wrapper: Callable[..., Any]) -> None:
        self._server_wrapper = server_wrapper
        self.file: Any = None
        self.wrapped: Any = MISSING

    def __call__(self, file: Any, *args: Any) -> Any:
        self.file = File(file)
        self.wrapped = self._server_wrapper(self.file, *args)
        return self.wrapped

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self._server_wrapper)  # type: ignore[arg-type]


class File:
    """A file that a server reads, sends and closes as if it were the app's own."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._open_file = file
        self._is_closed = False
        self.on_close: Callable[[], None] | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._file, name)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._file)

    def close(self) -> None:
        try:
            file = self._open_file
            del self._open_file  # succeeds once
        except AttributeError:
            if self._is_closed and self.on_close is not None:
                self.on_close()  # once more, because an interrupt may have kept it from its end
            return
        try:
            close = getattr(file, "close", None)
            if close is not None:
                close()
        finally:
            self._is_closed = True
            if self.on_close is not None:
                self.on_close()


def restore(environ: WSGIEnvironment, key: str, before: Any) -> None:
    """Put back what was in *environ* before."""
    if before is MISSING:
        environ.pop(key, None)
    else:
        environ[key] = before


def _others_run_during_a_wait() -> bool:
    """Whether a wait lets other requests of this thread go on, as gevent's patched lock does."""
    return type(threading.Lock()).__module__ != "_thread"
