"""
Server-Timing
=============

With ``server_timing=True`` the middleware adds a header that says what memcached did for the
request, until the headers were sent. The developer tools of browsers show it.

.. code-block:: text

    Server-Timing: memcached;dur=1.3;desc="4 commands, 1 miss"

``dur`` is in milliseconds. Commands of other threads are not in it, unless they run in a copy of
the request's context. Everybody who can see a response sees the header, so switch it on for
development, or for users whom you trust.
See https://www.w3.org/TR/server-timing/.
"""

from __future__ import annotations

import functools
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

        def timing_start_response(
            status: str, headers: list[tuple[str, str]], exc_info: Any = None
        ) -> Any:
            if timing.commands:
                headers = [*headers, timing.header()]
            if exc_info is None:
                return start_response(status, headers)
            return start_response(status, headers, exc_info)

        run = functools.partial(self._run, timing)
        response: Any = run(self._app, environ, timing_start_response)
        return chunks_run_by(run, environ, response)  # type: ignore[no-any-return]
