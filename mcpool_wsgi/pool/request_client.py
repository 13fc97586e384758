"""
Request client
==============

Which client the running request has. The middleware tells it, and a
:class:`~mcpool_wsgi.PooledClient` asks, so that it need not reserve another one.

The middleware tells it while code of the app runs: in the call of the app, in each chunk of its
response, in the response's ``close()``, and in the same of a file that the server sends. So the
answer is right in streams and in nested requests, and on servers that interleave the responses of
one thread. A context variable keeps greenlets and threads apart. A process that a request forks is
in no request until one begins there: it may outlive the request that it comes from, with a copy of
its context and its frames.

The middleware tells it only if the pool has a PooledClient. If the first one is made while
requests are running, these are looked for once. A command belongs to a request if a frame of the
running code has the request's environ as ``environ``: the middleware's, the app's or the server's.
"""

from __future__ import annotations

import sys
import weakref
from contextvars import ContextVar
from types import FrameType
from typing import TYPE_CHECKING, Any, Callable

from .. import forks
from ..forks import enter_child, same_process
from .holders import requests_of

if TYPE_CHECKING:
    from .lent_client import LentClient

    #: The client of the running request, the process that runs it, and the same of the requests
    #: around it. The references are weak: what an interrupt leaves in the context keeps no slot.
    Clients = tuple[Callable[[], "LentClient | None"], forks.Process, Any]
    #: A request that began before anybody asked, so the middleware has not told of it: the id of
    #: its environ, and a weak reference to its client, which keeps nothing alive.
    UntoldRequest = tuple[int, Callable[[], "LentClient | None"]]

_clients: ContextVar[Clients | None] = ContextVar("mcpool_wsgi.clients", default=None)


def in_request(client: LentClient, function: Callable[..., Any], *args: Any) -> Any:
    """Call *function* for the request that has *client*."""
    if not same_process:
        enter_child()
    before = _clients.get()
    try:
        _clients.set((weakref.ref(client), forks.current, before))
        return function(*args)
    finally:
        _clients.set(before)  # an interrupt may come before one has the token of set()


def request_client(pool: Any) -> LentClient | None:
    """The client of *pool* that the running request has, if it has one that is not released."""
    if not same_process:
        enter_child()
    clients = _clients.get()
    while clients is not None:
        find, process, clients = clients
        client = find()
        if client is None or process is not forks.current:
            continue
        if client._pool is pool and not client.is_released:
            return client
    return _untold_client(pool._untold_requests) if pool._untold_requests else None


def untold_requests(pool: object) -> list[UntoldRequest]:
    """The requests that have a client of *pool* now."""
    return [(id(environ), weakref.ref(client)) for client, environ in requests_of([pool])]


def _untold_client(requests: list[UntoldRequest]) -> LentClient | None:
    """The client of the one of *requests* that runs here. It forgets those that have ended."""
    environs, clients, running = set(), {}, []
    for request in requests.copy():  # another thread may forget some meanwhile
        number, find = request
        client = find()
        if client is not None and not client.is_released:
            environs.add(number)
            clients[id(client)] = client
            running.append(request)
    requests[:] = running
    frame: FrameType | None = sys._getframe(1)
    while running and frame is not None:
        code = frame.f_code
        if "environ" in code.co_varnames + code.co_freevars + code.co_cellvars:
            environ = frame.f_locals.get("environ")
            if id(environ) in environs and type(environ) is dict:
                for value in list(environ.values()):
                    if id(value) in clients:
                        return clients[id(value)]
        frame = frame.f_back
    return None
