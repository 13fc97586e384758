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
        self._clients = forks.Living()
        forks.reset_in_child(self)

    def add(self, client: Any) -> None:
        """Remember *client*, if it is pylibmc's."""
        if isinstance(client, _pylibmc.client):
            self._clients.add(client)

    def _reset_in_child(self) -> None:
        inherited, self._clients = self._clients, forks.Living()
        for reference in inherited.references():
            client = reference()
            if client is not None:
                sockets.close_inherited(client)


#: Every client that may have a connection, of this package or of pylibmc.
opened_here: OpenedHere = OpenedHere()
