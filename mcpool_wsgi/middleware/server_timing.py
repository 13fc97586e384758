"""
Server-Timing
=============

With ``server_timing=True`` the middleware adds a header that says what memcached did for the
request. The developer tools of browsers show it. It has the commands until the app has returned
or, if the app calls ``start_response()`` later, as a generator does, until the first chunk.

.. code-block:: text

    Server-Timing: memcached;dur=1.3;desc="4 commands, 1 miss"

``dur`` is in milliseconds. Commands of other threads are not in it, unless they run in a copy of
the request's context. Everybody who can see a response sees the header, so switch it on for
development, or for users whom you trust.
See https://www.w3.org/TR/server-timing/.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Callable

from ..client import CommandEvent
from ..pool import Pool
from .chunks import chunks_run_by

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class _Timing:
    """What one request has asked of memcached so far."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.commands = 0
        self.misses = 0
        self.failures = 0

    def note(self, event: CommandEvent) -> None:
        self.seconds += event.seconds
        self.commands += 1
        self.misses += event.misses or event.outcome == "miss"
        self.failures += event.outcome == "failure"

    def header(self) -> tuple[str, str]:
        counts = [_counted(self.commands, "command", "commands")]
        if self.misses:
            counts.append(_counted(self.misses, "miss", "misses"))
        if self.failures:
            counts.append(_counted(self.failures, "failure", "failures"))
        text = f'memcached;dur={self.seconds * 1000:.1f};desc="{", ".join(counts)}"'
        return ("Server-Timing", text)


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


class _Start:
    """The ``start_response()`` of the app, which the server gets as late as possible.

    Apps call it before their commands, too.
    """

    def __init__(self, start_response: StartResponse, timing: _Timing) -> None:
        self._start_response: Callable[..., Any] = start_response
        self._timing = timing
        self._given: tuple[Any, ...] | None = None  # until it is passed on
        self._server_write: Any = None

    def __call__(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        self.pass_on()
        self._given = (status, headers) if exc_info is None else (status, headers, exc_info)
        if exc_info is not None:
            self.pass_on()  # the server raises it if the headers were sent
        return self.write

    def pass_on(self) -> None:
        if self._given is not None:
            (status, headers, *exc_info), self._given = self._given, None
            if self._timing.commands:
                headers = [*headers, self._timing.header()]
            self._server_write = self._start_response(status, headers, *exc_info)

    def write(self, data: bytes) -> object:
        self.pass_on()
        return self._server_write(data)


class ServerTiming:
    """Adds the header to the responses of *app*, for the commands on clients of *pool*."""

    def __init__(self, app: WSGIApplication, pool: Pool) -> None:
        self._app = app
        self._timing: ContextVar[_Timing | None] = ContextVar("mcpool_wsgi.timing", default=None)
        pool.observe(self._note)

    def _note(self, event: CommandEvent) -> None:
        timing = self._timing.get()
        if timing is not None:
            timing.note(event)

    def _run(self, timing: _Timing, function: Callable[..., Any], *args: Any) -> Any:
        before = self._timing.get()
        try:
            self._timing.set(timing)
            return function(*args)
        finally:
            self._timing.set(before)  # an interrupt may come before one has the token of set()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        timing = _Timing()
        start = _Start(start_response, timing)

        def run(function: Callable[..., Any], *args: Any) -> Any:
            try:
                return self._run(timing, function, *args)
            finally:
                start.pass_on()

        response: Any = None

        def call() -> None:
            nonlocal response
            response = self._app(environ, start)

        try:
            run(call)
        except BaseException:  # from the server's start_response(), if there is a response
            close = getattr(response, "close", None)
            if close is not None:
                close()
            raise
        return chunks_run_by(run, environ, response)  # type: ignore[no-any-return]
