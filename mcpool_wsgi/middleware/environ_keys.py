"""
Environ keys
============

What a request puts into the environ: its client, and the function that releases it early. When the
request ends, the environ is as it was before. For most requests, it is enough to remove two keys.
An :class:`EarlyRelease` is for the others: those that found something at these keys, and those
that have a client of somebody else.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Callable, Protocol

from ..pool import HasReservation

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MISSING: Any = object()


class EnvironKeys:
    """The two keys of a middleware, and what they are for."""

    def __init__(self, environ_key: str) -> None:
        self.client_key: str = environ_key
        self.release_key: str = f"{environ_key}.release"

    def end_request(self, environ: WSGIEnvironment, reservation: Any, release: Any) -> None:
        """End a request: release its client, and leave *environ* as it was before it."""
        try:
            reservation.__exit__()
            latest = environ.get(self.release_key)
            if type(release) is EarlyRelease:
                release.leave(environ, latest)
            elif latest is release or environ.get(self.client_key) is reservation:
                environ.pop(self.release_key, None)  # another thread may close it, too
                environ.pop(self.client_key, None)
            else:
                EarlyRelease.skip(latest, release)
        except BaseException:  # an interrupt came, or somebody else's reservation has raised
            self.end_request(environ, reservation, release)  # does what is left to do
            raise

    def call_close(
        self, close: Callable[[], object], environ: WSGIEnvironment, reservation: Any, release: Any
    ) -> None:
        """Call the *close* of a response. Meanwhile, *environ* has the client of its request."""
        if environ.get(self.release_key, release) is release:  # or the app has taken it out
            close()
            return
        # A later request has its own there.
        later_client = environ.get(self.client_key, MISSING)
        later_release = environ.get(self.release_key, MISSING)
        client = release.client if type(release) is EarlyRelease else reservation
        restore(environ, self.client_key, client)
        environ[self.release_key] = release
        try:
            close()
        finally:
            # The app may have passed on the response of the later request, which is over then.
            later_client, later_release = still_running(later_client, later_release)
            restore(environ, self.client_key, later_client)
            restore(environ, self.release_key, later_release)


class HasEnviron(Protocol):
    """What has the environ of a running request: its call, and then its response."""

    environ: WSGIEnvironment


class Call:
    """The running call of the middleware. It has the environ until there is a response."""

    __slots__ = ("__weakref__", "environ")

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.environ: WSGIEnvironment = environ


class EarlyRelease(HasReservation):
    """What is at ``environ["mc.client.release"]`` if it must do more than release the client.

    It knows what an outer request has put into the environ. And a client of somebody else
    leaves the environ, because it cannot refuse commands after its release.
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

    def __init__(self, call: Call, keys: EnvironKeys, reservation: Any, client: Any) -> None:
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
        while type(latest) is EarlyRelease:
            if latest.release_before is self:
                latest.client_before = MISSING
            latest = latest.release_before
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

    @staticmethod
    def skip(latest: Any, ended: Any) -> None:
        """Let a later request with this environ put nothing back of one that has ended.

        :param latest: the release of the latest request with this environ.
        :param ended: the release of the request that has ended, before which there was nothing.
        """
        while type(latest) is EarlyRelease:
            if latest.release_before is ended:
                latest.client_before = latest.release_before = MISSING
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
