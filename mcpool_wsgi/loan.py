"""
Loan
====

The client of one request: a :class:`~mcpool_wsgi.leases.Lease` that knows the
environ that the client is in, and takes it out there when it ends.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from .leases import Lease

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Loan(Lease):
    """The lease of one request. To call it hands the client back."""

    __slots__ = ("environ", "key")

    environ: WSGIEnvironment | None  # None when the loan is over
    key: str

    def __call__(self) -> None:
        self.release()

    def release(self) -> None:
        environ = self.environ
        if environ is not None:
            try:  # noqa: SIM105  every request comes here
                del environ[self.key]
            except KeyError:
                pass
            self.__exit__()
            self.environ = None  # last, so that a finaliser does what an interrupt left undone

    def unlink(self) -> None:
        """Forget the environ; the client goes back when the server frees that.

        It holds this loan, and if this held it, too, neither would be freed.
        """
        self.environ = None  # not handed back early any more: it could not be taken out of there

    def _wait_limit(self) -> float:
        # A wait would keep the only thread from giving back what is waited for. But gevent's
        # lock, where it has been patched in, lets others go on.
        alone = self.environ is not None and not self.environ.get("wsgi.multithread", True)
        if alone and type(threading.Lock()).__module__ == "_thread":
            return 0
        return super()._wait_limit()


class ForeignLoan(Loan):
    """The same of a pool that reserves in its own way: somebody else's, or a subclass of ours."""

    __slots__ = ("reservation",)

    reservation: AbstractContextManager[Any]

    def __enter__(self) -> Any:
        return self.reservation.__enter__()

    def __exit__(self, *exc: object) -> None:
        try:
            reservation = self.reservation
            del self.reservation  # succeeds once
        except AttributeError:
            return
        reservation.__exit__(None, None, None)
