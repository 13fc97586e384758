"""
Holders
=======

Who holds the clients of a pool. A slot notes only when it was reserved, and by which thread.
The rest is found when somebody asks: the request in the environ that has the client, and the
place in the frames of the thread. The environ is found by Python's garbage collector, which knows
what refers to what. That takes some milliseconds in a large program.
"""

from __future__ import annotations

import gc
import os
import sys
import sysconfig
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from types import FrameType
from typing import Any

from .. import forks
from . import greenlets
from .slots import HasReservations, HasSlot, Slot

FRAMES = 3  # that a holder shows
_paths = sysconfig.get_paths()
#: Where no code of an app is: the standard library, installed packages, this package.
_OTHER_CODE = tuple(
    os.path.join(path, "")
    for path in {
        *(_paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        os.path.dirname(os.path.dirname(__file__)),
    }
)


@dataclass(frozen=True)
class Holder:
    """Who has reserved a client, at one moment."""

    #: For how long.
    seconds: float
    #: Since when, in seconds of ``time.monotonic()``.
    reserved_at: float
    #: The name of the thread that reserved it, or ``thread`` and its number if it has ended.
    thread: str
    #: The method and the path of the request, if the middleware reserved it.
    request: str | None
    #: Where the thread is now: its innermost frames in code of the app, the innermost first, as
    #: ``file:line in function``. Empty if the thread has ended, with gevent or eventlet, and in a
    #: process that was forked in C (uWSGI) while its parent had threads.
    frames: tuple[str, ...]

    def __str__(self) -> str:
        of = f", {self.request}" if self.request else ""
        at = f", at {self.frames[0]}" if self.frames else ""
        return f"{self.seconds:.1f} s by {self.thread}{of}{at}"


def find_holders(slots: Iterable[Slot], longer_than: float = 0.0) -> list[Holder]:
    """The holders of *slots*, which are in use, the longest first.

    :param longer_than: seconds. Holders with a shorter time are left out.
    """
    now = monotonic()
    held = sorted(
        (
            (since, slot.thread, slot)
            for slot in slots
            for since in (slot.since,)  # read once: a release sets it to 0.0
            if since and now - since >= longer_than
        ),
        key=lambda item: item[:2],
    )
    if not held:
        return []
    requests = {
        id(getattr(reservation, "_slot", None)): _printable(
            f"{environ.get('REQUEST_METHOD')} {_path(environ)}"
        )
        for reservation, environ in requests_of([slot for _, _, slot in held])
        if "REQUEST_METHOD" in environ
    }
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    # The frames of a thread are those of the greenlet that runs now, which asks for the holders.
    frames = {} if greenlets.are_used() or forks.has_dead_threads else sys._current_frames()
    try:
        return [
            Holder(
                now - since,
                since,
                _printable(names.get(thread, f"thread {thread}")),
                requests.get(id(slot)),
                _places(frames.get(thread)),
            )
            for since, thread, slot in held
            if slot.since == since  # or another request may have it, which began meanwhile
        ]
    finally:
        frames.clear()  # one of them is this one, which would be a circle


def requests_of(things: list[Any]) -> list[tuple[Any, dict[str, Any]]]:
    """The reservations that are in the environ of a request, each with the environ.

    :param things: slots or pools. Only reservations that refer to them are looked for.
    """
    reservations = {
        id(one): one for one in gc.get_referrers(*things) if issubclass(type(one), HasSlot)
    }
    dicts: list[dict[Any, Any]] = []
    found = list(reservations.values())
    while found:
        found = gc.get_referrers(*found)
        dicts += [one for one in found if type(one) is dict]  # not the list that this adds to
        # A client of another package is no reservation. And the client of a request is not in its
        # environ while a later request has the same. An object in the environ knows of both.
        found = [one for one in found if issubclass(type(one), HasReservations)]
    return [
        (reservations[id(reservation)], one)
        for one in dicts
        for key, value in list(one.items())
        for reservation in _stood_for(value)
        if id(reservation) in reservations and type(key) is str
        if "REQUEST_METHOD" in one or f"{key}.release" in one
    ]


def _stood_for(value: Any) -> list[Any]:
    return value.reservations() if issubclass(type(value), HasReservations) else [value]


def _path(environ: dict[str, Any]) -> str:
    path = f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"
    # WSGI has its bytes as latin-1.
    return path.encode("latin-1", "replace").decode("utf-8", "replace")


def _printable(text: str) -> str:
    # Some servers take any method, an app may name a thread after what a user sends, and a path
    # may be no UTF-8. Neither a log nor a page must get a character that is not printable.
    return "".join(char if char.isprintable() else "?" for char in text)


def _places(frame: FrameType | None) -> tuple[str, ...]:
    """The innermost frames of the app's code."""
    places: list[str] = []
    while frame is not None and len(places) < FRAMES:
        code = frame.f_code
        if not code.co_filename.startswith(("<frozen", *_OTHER_CODE)):
            place = f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"
            places.append(_printable(place))
        frame = frame.f_back
    return tuple(places)
