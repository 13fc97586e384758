"""
Early release
=============

How the environ becomes what it was before a request, if removing two keys is not enough.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .response import Response

MISSING: Any = object()


class EarlyRelease:
    """What is at ``environ["mc.client.release"]`` if it must do more than release the client.

    It knows what an outer request has put into the environ. And a client of somebody else
    leaves the environ, because it cannot refuse commands after its release.
    """

    __slots__ = (
        "_find_environ",
        "_key",
        "_reservation",
        "client",
        "client_before",
        "is_over",
        "release_before",
    )

    def __init__(self, environ: WSGIEnvironment, key: str, reservation: Any, client: Any) -> None:
        self._key = key
        self._reservation = reservation
        self.client: Any = client
        self.is_over: bool = False  # set when the environ is left
        self._find_environ: Callable[[], WSGIEnvironment | None] = lambda: environ
        self.client_before: Any = environ.get(key, MISSING)
        self.release_before: Any = environ.get(f"{key}.release", MISSING)

    def follow(self, response: Response) -> None:
        """Find the environ by *response* from now on. It holds this: a reference is a circle."""
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
                environ.pop(self._key, None)
        self._reservation.release()

    def leave(self, environ: WSGIEnvironment, latest: Any) -> None:
        """Leave *environ* as it was. *latest* is the release of the latest request with it."""
        self.is_over = True
        if latest is not self:
            EarlyRelease.skip(latest, self, self.client_before, self.release_before)
            return
        restore(environ, self._key, self.client_before)
        restore(environ, f"{self._key}.release", self.release_before)

    @staticmethod
    def skip(latest: Any, ended: Any, client_before: Any, release_before: Any) -> None:
        """A request has *ended* before a later one with its environ.

        What was there before it is what was there before the later one.
        """
        while type(latest) is EarlyRelease:
            if latest.release_before is ended:
                latest.client_before = client_before
                latest.release_before = release_before
            latest = latest.release_before


def restore(environ: WSGIEnvironment, key: str, before: Any) -> None:
    """Put back what was in *environ* before."""
    if before is MISSING:
        environ.pop(key, None)
    else:
        environ[key] = before
