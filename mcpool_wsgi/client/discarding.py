"""
Discarding
==========

How this package frees a client that nobody uses any more. In a finaliser, Python swallows what a
signal handler raises. So the work of the finaliser is done before, where an interrupt reaches the
caller.
"""

from __future__ import annotations

from .. import forks
from . import sockets
from .connection import Connection
from .watchdog import NEVER

#: Where the class of clients is.
_HOME = f"{__package__}.client"
_discarded: dict[type, type] = {}


def discard(client: object) -> None:
    """Close the connection of *client*, and let its finaliser do nothing.

    The connection is closed now, because something may hold *client* for long, the traceback of
    an error for example.

    Nothing is done if a command runs on *client*, or if another process has opened it. A class of
    the user keeps its finaliser, because it may notice that it gets a subclass.
    """
    if not isinstance(client, Connection) or forks.is_foreign(client._process):
        return
    if not client._turn.acquire(False):  # another thread has a command
        return
    try:
        if client._deadline is not NEVER:  # a signal handler has interrupted this thread's
            return
        if client._out_of_sync:  # with several servers, _disconnect() shuts nothing down
            sockets.shut_down(client)
        client._disconnect()
        kind = type(client)
        if kind.__module__ != _HOME:
            return
        if kind not in _discarded:
            # int is C code, where no signal handler runs. The new class has another __module__, so
            # a second call stops above.
            _discarded[kind] = type(kind.__name__, (kind,), {"__slots__": (), "__del__": int})
        client.__class__ = _discarded[kind]
    finally:
        client._turn.release()
