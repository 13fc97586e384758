"""
Runner
======

A function that runs the code of an app for the middleware, for example as that of a request.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Callable

#: Calls a function with arguments, and returns what it returns.
Runner = Callable[..., Any]


def each_of(next_chunk: Callable[[], bytes]) -> Iterator[bytes]:
    """What *next_chunk* returns, until it raises StopIteration.

    It gets a function and no iterator. ``yield from`` would close an iterator, as the server does.
    ``for`` would call ``iter()`` again, and some iterators then begin anew.
    """
    while True:
        try:
            chunk = next_chunk()
        except StopIteration:
            return
        yield chunk
