"""
Request client
==============

Which client the running request has. The middleware says it, and a
:class:`~mcpool_wsgi.PooledClient` asks, so that it need not reserve another one.

It says so for the time in which code of the app runs: the call of the app, each chunk of its
response, and the response's ``close()``. So the answer is right in streams and in nested
requests, and on servers that interleave the responses of one thread. A context variable keeps
greenlets and threads apart.

The middleware says it only if the pool has a PooledClient. If the first one is made while
requests are running, their clients are looked for once, in the environs that there are. Each of
these requests is taken for the one that runs in the thread that reserved its client.
"""

from __future__ import annotations

import weakref
from _thread import get_ident
from collections.abc import Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Callable

from .holders import requests_of
from .slots import Slot

if TYPE_CHECKING:
    from .lent_client import LentClient

    #: The client of the running request, and those of the requests around it.
    Clients = tuple["LentClient", Any]

_clients: ContextVar[Clients | None] = ContextVar("mcpool_wsgi.clients", default=None)


def in_request(client: LentClient, function: Callable[..., Any], *args: Any) -> Any:
    """Call *function* for the request that has *client*."""
    token = _clients.set((client, _clients.get()))
    try:
        return function(*args)
    finally:
        _clients.reset(token)


def request_client(pool: Any) -> LentClient | None:
    """The client of *pool* that the running request has, if it has one that is not released."""
    clients = _clients.get()
    while clients is not None:
        client, clients = clients
        if client._pool is pool and not client.is_released:
            return client
    return pool.early_requests.client_here() if pool.early_requests else None


class EarlyRequests:
    """The requests that have *slots*. They began before anybody asked for their clients."""

    def __init__(self, slots: Iterable[Slot]) -> None:
        # The latest first. Weak, so that a client is released as if it were not here.
        self._clients: list[tuple[float, int, Callable[[], LentClient | None]]] = sorted(
            (
                (slot.since, slot.thread, weakref.ref(client))
                for client, _ in requests_of(slots)
                for slot in filter(None, [getattr(client, "_slot", None)])
            ),
            key=lambda item: -item[0],
        )

    def __bool__(self) -> bool:
        return bool(self._clients)

    def client_here(self) -> LentClient | None:
        """The client of the latest request that reserved it in this thread."""
        found = [(item, item[2]()) for item in self._clients]
        running = [
            (item, client)
            for item, client in found
            if client is not None and not client.is_released
        ]
        self._clients = [item for item, _ in running]
        here = [client for (_, thread, _), client in running if thread == get_ident()]
        return here[0] if here else None
