"""
Files
=====

Responses that the server sends with its own ``wsgi.file_wrapper``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable

from .early_release import MISSING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from .response import Response

#: Runs the code of an app, for example as that of a request: it calls a function with arguments,
#: and returns what the function returns.
Runner = Callable[..., Any]

#: What a FileWrapper has made before it is called, and when the app has returned. The app may have
#: kept the wrapper then, in a copy of its environ. The two are told apart by identity.
NOT_YET: tuple[Any, Any] = (None, MISSING)
NO_MORE: tuple[Any, Any] = (None, MISSING)


def chunks_of(run: Runner, response: Any) -> Iterator[bytes]:
    """The chunks of *response*. *run* asks it for its iterator now, and then for each chunk."""
    return each_of(functools.partial(run, next, run(iter, response)))


def each_of(next_chunk: Callable[[], bytes]) -> Iterator[bytes]:
    """What *next_chunk* returns, until it raises StopIteration.

    It gets a function and no iterator. ``yield from`` would close an iterator, as the server does.
    ``for`` would call ``iter()`` again, and some iterators then begin anew. And ``iter()`` with a
    sentinel would compare each chunk, which may have an ``__eq__()`` of its own.
    """
    while True:
        try:
            chunk = next_chunk()
        except StopIteration:
            return
        yield chunk


def call_with_files(
    app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse
) -> tuple[Any, File | None]:
    """The response of *app* and, if it is a file for the server, that file.

    Servers know what their own wrapper made, and send such a file without reading it. So the
    response must stay what it is, and the file in it tells when it is closed.
    """
    server_wrapper = environ["wsgi.file_wrapper"]
    wrapper = FileWrapper()
    wrapper.server_wrapper = server_wrapper
    wrapper.made = NOT_YET
    environ["wsgi.file_wrapper"] = wrapper
    try:
        response = app(environ, start_response)
    finally:
        environ["wsgi.file_wrapper"] = server_wrapper
        file, wrapped = wrapper.made
        wrapper.made = NO_MORE
    if response is not wrapped:
        return response, None
    is_closed = is_closed_by_the_server(response, file, server_wrapper)
    return response, file if is_closed else None


def is_closed_by_the_server(response: Any, file: Any, wrapper: Any) -> bool:
    """Whether the server closes *file*, from which *wrapper* has made the *response*."""
    if type(wrapper) is FileWrapper:  # of a middleware around this one
        inner_file = file if wrapper.made is NO_MORE else wrapper.made[0]
        return is_closed_by_the_server(response, inner_file, wrapper.server_wrapper)
    # bjoern's wrapper does not close its file when the client goes away. It is read instead.
    return (
        response is file
        or hasattr(response, "filelike")
        or (isinstance(wrapper, type) and hasattr(response, "__dict__"))
    )


class FileWrapper:
    """What stands in the environ for the server's ``wsgi.file_wrapper`` while the app runs."""

    # There is no __init__, as in Response. call_with_files() sets these.
    __slots__ = ("made", "server_wrapper")

    server_wrapper: Callable[..., Any]
    made: tuple[Any, Any]  # the last file, and what the server's wrapper has made of it

    def __call__(self, file: Any, *args: Any) -> Any:
        if self.made is NO_MORE:
            return self.server_wrapper(file, *args)
        ours = File(file)
        wrapped = self.server_wrapper(ours, *args)
        self.made = ours, wrapped
        return wrapped

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self.server_wrapper)  # type: ignore[arg-type]


class File:
    """A file that a server reads, sends and closes as if it were the app's own."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._open_file = file
        self._is_closed = False
        self._run: Runner | None = None
        #: What the middleware has for the response. Its request ends when the file is closed.
        self.response: Response | None = None

    def run_by(self, run: Runner) -> None:
        """Let *run* run the code of the app in this file: it may be no file of the system."""
        self._run = run if self._run is None else functools.partial(run, self._run)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._file, name)
        if self._run is None or not callable(value):
            return value
        return functools.partial(self._run, value)

    def __iter__(self) -> Iterator[bytes]:
        if self._run is None:
            return iter(self._file)
        return chunks_of(self._run, self._file)

    def close(self) -> None:
        try:
            file = self._open_file
            del self._open_file  # succeeds once
        except AttributeError:
            if self._is_closed and self.response is not None:
                self.response.end()  # once more: an interrupt may have kept it from its end
            return
        try:
            close = getattr(file, "close", None)
            if close is not None and self._run is not None:
                close = functools.partial(self._run, close)
            if close is not None and self.response is not None:
                self.response.call_close(close)
            elif close is not None:
                close()
        finally:
            self._is_closed = True
            if self.response is not None:
                self.response.end()
