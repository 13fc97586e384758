"""
Clients
=======

Clients and pools from options that have been read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, TypeVar

from ..client import NOWHERE, Client
from ..discovery import Discovery, is_source, look_up
from ..pool import Pool
from .options import ADDRESS, CLIENT, part

_Pool = TypeVar("_Pool", bound=Pool)


def pool_for(
    make_pool: Callable[[Client], _Pool], options: Mapping[str, Any], behaviors: Mapping[str, Any]
) -> _Pool:
    """A pool of such clients, which *make_pool* makes. It follows its source, if it has one."""
    source = options["servers"][0]
    if not is_source(source):
        return make_pool(client_for(options, behaviors))
    # Until the source answers, a command fails at once.
    client = client_for({**options, "servers": [f"{NOWHERE}{source}"]}, behaviors)
    pool = make_pool(client)
    Discovery(pool, source).start()
    return pool


def client_for_now(options: Mapping[str, Any], behaviors: Mapping[str, Any]) -> Client:
    """A client for the servers that its source tells now, if it has one."""
    source = options["servers"][0]
    if is_source(source):
        options = {**options, "servers": look_up(source)}
    return client_for(options, behaviors)


def client_for(options: Mapping[str, Any], behaviors: Mapping[str, Any]) -> Client:
    """A client with these options.

    :raises ValueError: one is refused, or two do not go together.
    """
    given = part(options, [*ADDRESS, *CLIENT, "serializer"])
    if "username" in given and not given.setdefault("binary", True):
        raise ValueError("binary is false, but a username needs the binary protocol")
    return Client(**given, behaviors=behaviors)
