"""
Early release
=============

What is at ``environ["mc.client.release"]`` if it must do more than release the client: if the
request found something at its keys, or has a client of somebody else.

An app may call another one with its own environ, for a redirect inside the server for example.
Then several requests have the same keys. The environ has the release of the latest one. It knows
what was there before, which may be the release of another request. So the releases are a stack:

-   If the latest request ends, what was there before is put back. If this belongs to a request
    that is over, what was there before that one is put back instead, and so on.
-   If another request ends, the environ stays as it is. Its release only says from then on that it
    is over.
-   If this was the first request, its release may be no :class:`EarlyRelease`, and cannot say so.
    Then those of the later requests forget what was there before them.

The environ has the release. A release with a reference to the environ would be a circle. So it
finds the environ by a weak reference to the call of the middleware and, later, to the response.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Callable, Protocol

from ..pool import HasReservations

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

#: In the place of what is not there.
MISSING: Any = object()


class Keys:
    """The two keys of a middleware."""

    def __init__(self, environ_key: str) -> None:
        self.client_key: str = environ_key
        self.release_key: str = f"{environ_key}.release"


class HasEnviron(Protocol):
    """What has the environ of a running request: its call, and then its response."""

    environ: WSGIEnvironment


class Call:
    """The running call of the middleware. It has the environ until there is a response."""

    __slots__ = ("__weakref__", "environ")

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.environ: WSGIEnvironment = environ


class EarlyRelease(HasReservations):
    """Releases the client of a request, and knows what was in the environ before the request.

    A client of somebody else leaves the environ, because it cannot refuse commands after its
    release.
    """

    __slots__ = (
        "_find_request",
        "_keys",
        "_reservation",
        "client",
        "client_before",
        "is_over",
        "release_before",
    )

    def __init__(self, call: Call, keys: Keys, reservation: Any, client: Any) -> None:
        environ = call.environ
        self._keys = keys
        self._reservation = reservation
        self.client: Any = client  # MISSING when it has left the environ
        self.is_over: bool = False  # set when the environ is left
        self.follow(call)
        self.client_before: Any = environ.get(keys.client_key, MISSING)
        self.release_before: Any = environ.get(keys.release_key, MISSING)

    def follow(self, request: HasEnviron) -> None:
        """Find the environ by *request* from now on, by a weak reference: *request* has this."""
        self._find_request: Callable[[], HasEnviron | None] = weakref.ref(request)

    def reservations(self) -> list[Any]:
        """That of the request, and those of the requests before it with this environ."""
        return [
            reservation
            for release in stack(self)
            for reservation in (release._reservation, release.client_before)
        ]

    def __call__(self) -> None:
        if self.client is not self._reservation:
            request = self._find_request()
            if request is None:  # the server has dropped the response, and the app goes on
                return
            self._take_client_out(request.environ)
        self._reservation.release()

    def _take_client_out(self, environ: WSGIEnvironment) -> None:
        if self.client is MISSING:  # what is there now, the app has put there
            return
        # By the release, because a later request with this environ may have the same client.
        latest = environ.get(self._keys.release_key)
        is_taken_out = type(latest) is not EarlyRelease  # by the app
        if latest is self or (is_taken_out and environ.get(self._keys.client_key) is self.client):
            environ.pop(self._keys.client_key, None)
        for release in stack(latest):
            if release.release_before is self:
                release.client_before = MISSING
        self.client = MISSING  # last: a second call does what an interrupt has left

    def leave(self, environ: WSGIEnvironment, latest: Any) -> None:
        """Leave *environ* as it was. *latest* is the release of the latest request with it."""
        if latest is self or (not self.is_over and self._is_replaced(environ, latest)):
            client, release = still_running(self.client_before, self.release_before)
            restore(environ, self._keys.client_key, client)
            restore(environ, self._keys.release_key, release)
        self.is_over = True

    def _is_replaced(self, environ: WSGIEnvironment, latest: Any) -> bool:
        """Whether *latest* is not of a later request, but what the app has put in its place."""
        if type(latest) is EarlyRelease:  # of a later request, which may have the same client
            return False
        client = environ.get(self._keys.client_key, MISSING)
        return latest is None if client is MISSING else client is self.client


def stack(latest: Any) -> list[EarlyRelease]:
    """*latest*, and those of the requests before it with this environ."""
    found = []
    while type(latest) is EarlyRelease:
        found.append(latest)
        latest = latest.release_before
    return found


def forget(first: Any, latest: Any) -> None:
    """Let no later request put back what the *first* one had in the environ.

    :param first: the release of a request that has ended, before which there was nothing.
    :param latest: the release of the latest request with this environ.
    """
    for release in stack(latest):
        if release.release_before is first:
            release.client_before = release.release_before = MISSING


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
