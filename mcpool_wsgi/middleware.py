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
import threading
import weakref
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from sys import getrefcount
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Protocol

from werkzeug.exceptions import ServiceUnavailable

from .client import Client
from .lending import Lease
from .pools import ClientPool

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
        # Our own pools' leases are the loans themselves; a subclass may reserve as it likes.
        self._is_ours = getattr(type(pool), "reserve", None) is ClientPool.reserve
        self._client_key = environ_key
        self._release_key = f"{environ_key}.release"
        self._on_exhausted = on_exhausted

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # No __init__, here and below: it would cost as much as all the rest.
        if self._is_ours:
            loan = _Loan()
            loan._pool = self._pool
        else:
            loan = _ForeignLoan()
            loan._reservation = self._pool.reserve()
        loan._environ = environ
        loan._key = key = self._client_key
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
                wrapped = _ListResponse()
                wrapped._response = response
                wrapped._loan = loan
            elif type(response) is GeneratorType:
                wrapped = _GeneratorResponse()
                wrapped._response = response
                wrapped._loan = loan
            else:
                wrapped = _closing(response, loan, environ.get("wsgi.file_wrapper"))
        except BaseException:
            loan.release()
            raise
        return wrapped  # type: ignore[no-any-return]


class _Loan(Lease):
    """The lease of one request. Called, it hands the client back: from then on the environ does
    not have it any more."""

    __slots__ = ("_environ", "_key")

    _environ: WSGIEnvironment | None
    _key: str

    def __call__(self) -> None:
        self.release()

    def release(self) -> None:
        environ = self._environ
        if environ is not None:
            try:  # noqa: SIM105  every request comes here
                del environ[self._key]
            except KeyError:
                pass
            self.__exit__()
            self._environ = None  # last, so that a finaliser does what an interrupt left undone

    def unlink(self) -> None:
        """End the circle early, so that both are freed as soon as nobody has them."""
        self._environ = {}

    def _wait_limit(self) -> float:
        # A wait would keep the only thread from giving back what is waited for. But gevent's
        # lock, where it has been patched in, lets others go on.
        alone = self._environ is not None and not self._environ.get("wsgi.multithread", True)
        if alone and type(threading.Lock()).__module__ == "_thread":
            return 0
        return super()._wait_limit()


class _ForeignLoan(_Loan):
    """The same of somebody else's pool."""

    __slots__ = ("_reservation",)

    _reservation: AbstractContextManager[Any]

    def __enter__(self) -> Any:
        return self._reservation.__enter__()

    def __exit__(self, *exc: object) -> None:
        try:
            reservation = self._reservation
            del self._reservation  # succeeds once
        except AttributeError:
            return
        reservation.__exit__(None, None, None)


def _closing(response: Any, loan: _Loan, file_wrapper: Any) -> Any:
    """*response*, such that its close() ends the *loan*."""
    if response is None:  # not WSGI, but for the server to say
        loan.release()
        return response
    if isinstance(file_wrapper, type):
        is_file = isinstance(response, file_wrapper)
    else:  # uWSGI's is a function that returns the file itself
        is_file = file_wrapper is not None and hasattr(response, "read")
    if is_file:
        # Servers know it when they see it, and send the file without reading it. What mod_wsgi
        # has is of a C type, whose instances take no close of ours, but it closes its filelike.
        files: list[Any] = [response, getattr(response, "filelike", None)]
        for file in files:
            if hasattr(file, "__dict__"):
                file.close = _FileClose(file, loan)
                return response
    wrapped = _SizedResponse() if hasattr(response, "__len__") else _Response()
    wrapped._response = response
    wrapped._iterator = None
    wrapped._loan = loan
    return wrapped


class _ListResponse:
    """A list has no code that could use the client, and nothing to close."""

    __slots__ = ("_loan", "_response")

    _loan: _Loan
    _response: list[bytes]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._response)

    def __len__(self) -> int:
        return len(self._response)

    def close(self) -> None:
        self._loan.release()

    def __del__(self) -> None:
        if self._loan._environ is not None:
            self._loan.release()


class _GeneratorResponse:
    """A generator is its own iterator, and takes to be closed twice."""

    __slots__ = ("_loan", "_response")

    _loan: _Loan
    _response: Generator[bytes, None, None]

    def __iter__(self) -> Iterator[bytes]:
        return self._response

    def close(self) -> None:
        try:
            self._response.close()
        finally:
            self._loan.release()

    def __del__(self) -> None:
        if self._loan._environ is None:
            return
        if getrefcount(self._response) > 2:
            self._loan.unlink()
        else:
            self.close()


class _Response:
    """The app's response; closing it hands the client back."""

    __slots__ = ("_iterator", "_loan", "_response")

    _iterator: Iterator[bytes] | None
    _loan: _Loan
    _response: Any

    def __iter__(self) -> Iterator[bytes]:
        # The app's own iterator, so that a chunk costs no more than without the middleware.
        iterator: Iterator[bytes] = iter(self._response)
        self._iterator = iterator
        return iterator

    def close(self) -> None:
        response, self._response = self._response, ()  # so that it is closed once
        try:
            close = getattr(response, "close", None)
            if close is not None:
                close()
        finally:
            self._loan.release()

    def __del__(self) -> None:
        """The server has let go of the response. If it did not close it, that is done now."""
        loan = self._loan
        if loan._environ is None:
            return
        mine = 2 + (self._iterator is self._response)  # the attributes, and getrefcount's own
        if self._iterator is not None and getrefcount(self._iterator) > mine:
            # Somebody still iterates: the client stays reserved for as long as the environ lives.
            loan.unlink()
        else:
            self.close()


class _SizedResponse(_Response):
    """Servers make a Content-Length of the number of chunks, if there is one."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._response)


class _FileClose:
    """In the place of a file's close(), once: puts that back, calls it, and ends the loan."""

    __slots__ = ("_file", "_loan", "_own")

    def __init__(self, file: Any, loan: _Loan) -> None:
        self._file = weakref.ref(file)  # it holds this
        self._own = vars(file).get("close")
        self._loan = loan

    def __call__(self) -> None:
        file = self._file()
        try:
            if file is not None and vars(file).get("close") is self:
                if self._own is None:
                    del file.close
                else:
                    file.close = self._own
                close = getattr(file, "close", None)
                if close is not None:
                    close()
        finally:
            self._loan.release()

    def __del__(self) -> None:
        if self._loan._environ is not None:
            self._loan.release()
