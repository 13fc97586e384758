"""
Chunks
======

A response whose code is run by a function. The function tells which request runs, or measures its
commands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .files import FileWrapper, Runner, chunks_of


def chunks_run_by(run: Runner, environ: dict[str, Any], response: Any) -> Any:
    """The *response* of an app for *environ*. *run* runs the code of the app in it."""
    wrapper = environ.get("wsgi.file_wrapper")
    if type(wrapper) is FileWrapper and response is wrapper.made[1]:
        wrapper.made[0].run_by(run)  # the server knows the response, and sends its file
        return response
    if response is None or type(response) in (list, tuple, bytes):
        return response  # no code of the app runs any more
    kind = SizedChunks if hasattr(response, "__len__") else Chunks
    return kind(run, response)


class Chunks:
    """A response. *run* asks it for each chunk."""

    def __init__(self, run: Runner, response: Any) -> None:
        self._run = run
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        return chunks_of(self._run, self._response)

    def close(self) -> None:
        close = getattr(self._response, "close", None)
        if close is not None:
            self._run(close)

    @property
    def gi_frame(self) -> Any:
        """Response asks for it if a generator refuses to be closed."""
        return getattr(self._response, "gi_frame", None)


class SizedChunks(Chunks):
    """A response with a length."""

    def __len__(self) -> int:
        return len(self._response)
