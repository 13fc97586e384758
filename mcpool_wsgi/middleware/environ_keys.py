"""
Environ keys
============

What a request puts into the environ: its client, and the function that releases it early. When the
request ends, the environ is as it was before. For most requests, it is enough to remove two keys.
An :class:`~mcpool_wsgi.middleware.early_release.EarlyRelease` does the rest for the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable

from .early_release import MISSING, EarlyRelease, Keys, forget, restore, still_running

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class EnvironKeys(Keys):
    """The two keys of a middleware, and what becomes of them."""

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
                forget(release, latest)
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
