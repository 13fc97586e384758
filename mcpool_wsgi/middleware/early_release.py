"""
Early release
=============

At the end of most requests, two keys are removed from the environ. This module is for the others:
those that found something at these keys, and those that have a client of somebody else.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Callable

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

    from .response import Response

MISSING: Any = object()


class Place:
    """Where the environ of a running request is. The call of the middleware holds it."""

    __slots__ = ("__weakref__", "environ")

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.environ: WSGIEnvironment = environ


class EarlyRelease:
    """What is at ``environ["mc.client.release"]`` if it must do more than release the client.

    It knows what an outer request has put into the environ. And a client of somebody else
    leaves the environ, because it cannot refuse commands after its release.
    """

    __slots__ = (
        "_find_place",
        "_key",
        "_reservation",
        "client",
        "client_before",
        "is_over",
        "release_before",
    )

    def __init__(self, place: Place, key: str, reservation: Any, client: Any) -> None:
        environ = place.environ
        self._key = key
        self._reservation = reservation
        self.client: Any = client  # MISSING when it has left the environ
        self.is_over: bool = False  # set when the environ is left
        self.follow(place)
        self.client_before: Any = environ.get(key, MISSING)
        self.release_before: Any = environ.get(f"{key}.release", MISSING)

    def follow(self, place: Place | Response) -> None:
        """Find the environ by *place* from now on. The reference is weak: *place* holds this."""
        self._find_place: Callable[[], Place | Response | None] = weakref.ref(place)

    def __call__(self) -> None:
        if self.client is not self._reservation:
            place = self._find_place()
            if place is None:  # the server has dropped the response, and the app goes on
                return
            self._take_client_out(place.environ)
        self._reservation.release()

    def _take_client_out(self, environ: WSGIEnvironment) -> None:
        if self.client is MISSING:  # what is there now, the app has put there
            return
        # By the release, because a later request with this environ may have the same client.
        latest = environ.get(f"{self._key}.release")
        if latest is self or environ.get(self._key) is self.client:
            environ.pop(self._key, None)
        while type(latest) is EarlyRelease:
            if latest.release_before is self:
                latest.client_before = MISSING
            latest = latest.release_before
        self.client = MISSING  # last: a second call does what an interrupt has left

    def leave(self, environ: WSGIEnvironment, latest: Any) -> None:
        """Leave *environ* as it was. *latest* is the release of the latest request with it."""
        if latest is self or (not self.is_over and self._is_replaced(environ, latest)):
            client, release = still_running(self.client_before, self.release_before)
            restore(environ, self._key, client)
            restore(environ, f"{self._key}.release", release)
        else:
            EarlyRelease.skip(latest, self, self.client_before, self.release_before)
        self.is_over = True

    def _is_replaced(self, environ: WSGIEnvironment, latest: Any) -> bool:
        """Whether *latest* is not of a later request, but what the app has put in its place."""
        client = environ.get(self._key, MISSING)
        return latest is None if client is MISSING else client is self.client

    @staticmethod
    def skip(latest: Any, ended: Any, client_before: Any, release_before: Any) -> None:
        """Let a later request restore what was there before the one that has ended.

        Both have the same environ.

        :param latest: the release of the latest request with this environ.
        :param ended: the release of the request that has ended.
        :param client_before: the client that was there before that request.
        :param release_before: the release that was there before it.
        """
        while type(latest) is EarlyRelease:
            if latest.release_before is ended:
                latest.client_before = client_before
                latest.release_before = release_before
            latest = latest.release_before


def still_running(client: Any, release: Any) -> tuple[Any, Any]:
    """The client and the release, or those before them if their request is over."""
    while type(release) is EarlyRelease and release.is_over:
        client, release = release.client_before, release.release_before
    return client, release


def restore(environ: WSGIEnvironment, key: str, before: Any) -> None:
    """Put back what was in *environ* before."""
    if before is MISSING:
        environ.pop(key, None)
    else:
        environ[key] = before
