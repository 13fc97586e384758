"""
Opened here
===========

The clients of this process. A forked child inherits their sockets and closes them. The parent
does not notice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import _pylibmc
import pylibmc.client

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
                close_inherited(client)


def close_inherited(client: Any) -> None:
    """Close the sockets of *client*, of the parent, in a child. A second call does nothing."""
    # Without addresses, its __init__ has raised, and something keeps it.
    if hasattr(client, "addresses"):
        sockets.close_inherited(client, _peers(client.addresses))


def _peers(addresses: Iterable[Any]) -> set[object]:
    """The ports and the paths of *addresses*."""
    peers: set[object] = set()
    for address in addresses:
        spec = address
        if isinstance(address, str):
            spec = pylibmc.client.translate_server_spec(address)
        peers.update((spec[1], spec[2]))
    return peers


#: Every client that may have a connection, of this package or of pylibmc.
opened_here: OpenedHere = OpenedHere()
