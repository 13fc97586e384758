"""
Request client
==============

Which client the running request has. The middleware says it, and a
:class:`~mcpool_wsgi.PooledClient` asks, so that it need not reserve another one.

It says so for the time in which code of the app runs: the call of the app, each chunk of its
response, and the response's ``close()``. So the answer is right in streams and in nested
requests, and on servers that interleave the responses of one thread. A context variable keeps
greenlets and threads apart.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Callable

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


def request_client(pool: object) -> LentClient | None:
    """The client of *pool* that the running request has, if it has one that is not released."""
    clients = _clients.get()
    while clients is not None:
        client, clients = clients
        if client._pool is pool and not client.is_released:
            return client
    return None
