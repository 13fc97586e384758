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
these requests is taken for the one that runs in the thread that reserved its client. A lazy one
that has not reserved its client yet is not found.
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
    #: Of a request that began before anybody asked: when, in which thread, and a weak reference
    #: to its client, so that the client is freed as if it were not here.
    EarlyRequest = tuple[float, int, Callable[[], "LentClient | None"]]

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
    return _early_client(pool.early_requests) if pool.early_requests else None


def early_requests(slots: Iterable[Slot]) -> list[EarlyRequest]:
    """The requests that have *slots*, the latest first."""
    found = [
        (slot.since, slot.thread, weakref.ref(client))
        for client, _ in requests_of(slots)
        for slot in filter(None, [getattr(client, "_slot", None)])
    ]
    return sorted(found, key=lambda request: -request[0])


def _early_client(requests: list[EarlyRequest]) -> LentClient | None:
    """The client of the latest of *requests* that reserved it in this thread.

    It forgets those that have ended.
    """
    running = [
        (request, client)
        for request in requests.copy()  # another thread may forget some meanwhile
        for client in [request[2]()]
        if client is not None and not client.is_released
    ]
    requests[:] = [request for request, _ in running]
    here = [client for (_, thread, _), client in running if thread == get_ident()]
    return here[0] if here else None
