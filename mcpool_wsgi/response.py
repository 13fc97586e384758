"""
Response
========

What the middleware returns to the server in the place of the app's response:
closing it closes that, and then hands the client back. A server that drops it
without closing it has closed it, too, by its finaliser.

It is no iterator of its own: servers get the app's, so that a chunk costs no more
than without the middleware. And it has a length where the app's has one, because
servers make a ``Content-Length`` of that.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from sys import getrefcount
from types import GeneratorType
from typing import Any

from .loan import Loan


class Closing:
    """What a server closes, or drops without that."""

    __slots__ = ("loan",)

    loan: Loan

    def close(self) -> None:
        """Hand the client back; more often than once does no harm."""
        self.loan.release()

    def __del__(self) -> None:
        try:
            if self.loan.environ is None:
                return
        except AttributeError:  # interrupted in the making
            return
        self.dropped()

    def dropped(self) -> None:
        self.close()


class ListResponse(Closing):
    """A list has no code that could use the client, and nothing to close."""

    __slots__ = ("response",)

    response: list[bytes]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.response)

    def __len__(self) -> int:
        return len(self.response)


class GeneratorResponse(Closing):
    """A generator is its own iterator, and takes to be closed twice."""

    __slots__ = ("response",)

    response: GeneratorType[bytes, None, None]

    def __iter__(self) -> Iterator[bytes]:
        return self.response

    def close(self) -> None:
        try:
            self.response.close()
        except BaseException as error:
            # What is refused because it runs in another thread keeps the client. Not gi_running:
            # it may have come to its next yield by now, and will go on from there.
            if self.response.gi_frame is None or not isinstance(error, ValueError):
                self.loan.release()
            raise
        self.loan.release()

    def dropped(self) -> None:
        # More references than this one and getrefcount's own: somebody still iterates.
        if getrefcount(self.response) > 2:
            self.loan.unlink()
        else:
            self.close()


class Response(Closing):
    """Any other response of an app."""

    __slots__ = ("_iterator", "response")

    response: Any
    _iterator: Iterator[bytes]

    def __iter__(self) -> Iterator[bytes]:
        # The app's own iterator, so that a chunk costs no more than without the middleware.
        iterator: Iterator[bytes] = iter(getattr(self, "response", ()))
        self._iterator = iterator
        return iterator

    def close(self) -> None:
        try:
            response = self.response
            del self.response  # succeeds once
        except AttributeError:
            return  # whoever closes it at this moment has the client until he is done
        try:
            close = getattr(response, "close", None)
            if close is not None:
                close()
        finally:
            self.loan.release()

    def dropped(self) -> None:
        if not hasattr(self, "response"):  # an interrupt came into its closing
            self.loan.release()
            return
        mine = 2 + (getattr(self, "_iterator", None) is self.response)
        if hasattr(self, "_iterator") and getrefcount(self._iterator) > mine:
            self.loan.unlink()
        else:
            self.close()


class SizedResponse(Response):
    """One with a length: of a single chunk, servers make a Content-Length."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(getattr(self, "response", ()))


class FileClose(Closing):
    """In the place of a file's close(), once: puts that back, calls it, and ends the loan."""

    __slots__ = ("_file", "_own")

    def __init__(self, file: Any, loan: Loan) -> None:
        self._file = weakref.ref(file)  # it holds this
        self._own = vars(file).get("close")
        self.loan = loan

    def __call__(self) -> None:
        try:
            own = self._own
            del self._own  # succeeds once
        except AttributeError:
            return
        file = self._file()
        try:
            if file is not None:
                if vars(file).get("close") is not self:
                    pass  # somebody has put a close() of his own around this one
                elif own is None:
                    del file.close
                else:
                    file.close = own
                if own is not None:
                    own()
                elif hasattr(type(file), "close"):
                    type(file).close(file)
        finally:
            self.loan.release()


def closing(response: Any, loan: Loan, file_wrapper: Any) -> Any:
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
                file.close = FileClose(file, loan)
                return response
    wrapped = SizedResponse() if hasattr(response, "__len__") else Response()
    wrapped.response = response
    wrapped.loan = loan
    return wrapped
