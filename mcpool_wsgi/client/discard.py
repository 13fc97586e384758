"""
Discard
=======

How a pool frees a client that nobody uses any more. In a finaliser, Python swallows what a signal
handler raises. So the work of the finaliser is done before, where an interrupt reaches the caller.
"""

from __future__ import annotations

from .. import forks
from . import sockets
from .client import Client
from .connection import Connection
from .watchdog import NEVER

_discarded: dict[type, type] = {}


def discard(client: object) -> None:
    """Do now what the finaliser of *client* would do, and let it do nothing.

    The finaliser stays as it is where it is still needed: if another thread has a command, or if
    the client is another process's. It also stays in a class of the user's, which may want to
    know of its subclasses.
    """
    kind = type(client)
    if not isinstance(client, Connection) or kind.__module__ != Client.__module__:
        return
    if client.deadline is not NEVER or forks.is_foreign(client._process):
        return
    if client._out_of_sync:
        sockets.shut_down(client)
    if kind not in _discarded:
        # int() is C code, where no signal handler runs. The class has this module's name.
        _discarded[kind] = type(kind.__name__, (kind,), {"__slots__": (), "__del__": int})
    client.__class__ = _discarded[kind]
