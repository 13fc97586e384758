"""
Opened here
===========

The clients of this process. A forked child inherits their sockets and closes them. The parent
does not notice.
"""

from __future__ import annotations

from typing import Any

import _pylibmc

from .. import forks
from . import sockets


class OpenedHere:
    """The clients that were made in this process. A child closes their sockets."""

    def __init__(self) -> None:
        self._clients = forks.WeakList()
        forks.reset_in_child(self)

    def add(self, client: Any) -> None:
        """Remember *client*, if it is pylibmc's."""
        if isinstance(client, _pylibmc.client):
            self._clients.add(client)

    def _reset_in_child(self) -> None:
        inherited, self._clients = self._clients, forks.WeakList()
        clients = [reference() for reference in inherited.references()]
        for client in clients:
            if client is not None:
                sockets.close_inherited(client)
        sockets.close_unnamed([client for client in clients if _is_in_use(client)])


def _is_in_use(client: Any) -> bool:
    """Whether another thread of the parent, which this child does not have, has its turn."""
    turn = getattr(client, "_turn", None)  # pylibmc's own have none
    if turn is None:
        return False
    if not turn.acquire(False):
        return True
    turn.release()
    return False


#: Every client that may have a connection, of this package or of pylibmc.
opened_here: OpenedHere = OpenedHere()
