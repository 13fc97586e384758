"""
Sockets
=======

The sockets that a pylibmc client has open. pylibmc has no function for that. This package
needs them for these things:

-   libmemcached does not limit the time of a whole command. :func:`abort` ends a command that
    runs in another thread. It shuts the sockets of the client down
    (:mod:`mcpool_wsgi.client.watchdog`).
-   libmemcached reads what is left of an answer before it closes a connection. :func:`shut_down`
    comes first, so that this ends at once.
-   :func:`numbers` tells whether libmemcached has closed a connection or has opened another.
-   A forked child inherits the sockets of its parent. :func:`close_inherited` and
    :func:`close_unnamed` close them in the child. The parent does not notice.

If the sockets of clients cannot be found (:mod:`mcpool_wsgi.client.libmemcached`), no function
finds any. An object that is no ``pylibmc.Client`` has none.

All functions can be called in signal handlers, in forked children, in processes with threads,
and under gevent and eventlet. They take no lock, and they call no function that those
libraries replace.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterable
from typing import Any, Callable

from pylibmc.client import translate_server_spec

from .libmemcached import calibrated, has_send_timeout, is_connecting, is_socket, peer

PAUSE = 100  # microseconds between the two looks of abort()
#: What a child waits for another thread of its parent to go on with a new socket.
PATIENCE = 100  # milliseconds


def numbers(client: object) -> list[int]:
    """The descriptor of each server of *client*, -1 where there is no connection.

    It asks the system nothing, so a descriptor may be closed.
    """
    library = calibrated()
    if library is None:
        return []
    return [descriptor.value for descriptor in library.descriptors(client)]


def abort(client: object, is_due: Callable[[], bool] = lambda: True) -> int:
    """End the command that another thread runs on *client*: shut its sockets down.

    The command fails as if its servers had closed their connections. It may then connect to
    another server and wait again, so call this until the command has ended. A connection that
    is not yet established is ended, too.

    The other thread can close a socket at any time, and another file can then get its number.
    So each socket is duplicated first. After a pause of 100 microseconds the duplicate is shut
    down, but only if the client still has the socket under the same number. In CPython 3.11
    and later no other thread runs Python code between *is_due* and the shutdown, because the
    interpreter lock is held.

    :param is_due: called right before each shutdown, which happens only if it returns true.
    :return: how many sockets were shut down.
    """
    library = calibrated()
    if library is None:
        return 0
    count = 0
    looks: list[tuple[ctypes.c_int32, int, int]] = []
    try:
        for descriptor in library.descriptors(client):
            number = descriptor.value
            if number >= 0:
                looks.append((descriptor, number, _duplicate(number)))
        if looks:
            library.usleep(PAUSE)
        for descriptor, number, duplicate in looks:
            # One expression, because CPython must not switch threads before the shutdown. The
            # shutdown fails if it is no socket, or is not connected.
            if descriptor.value == number and is_due() and not library.shutdown(duplicate, 2):
                count += 1
    finally:
        for _, number, duplicate in looks:
            if duplicate != number:
                os.close(duplicate)
    return count


def shut_down(client: object) -> None:
    """Shut down the sockets of a *client* that no other thread uses."""
    library = calibrated()
    if library is not None:
        for descriptor in library.descriptors(client):
            library.shutdown(descriptor.value, 2)


def close_inherited(client: object) -> None:
    """Close the sockets of a *client* that the parent process has opened, in a forked child.

    Nothing is sent and nothing is shut down, so the connections of the parent stay. What listens,
    or is connected to something else than the client's servers, stays open: the child has put it
    there itself. A second call does nothing.

    Never call this in the process that opened the sockets. Never use or free the client after
    this call.
    """
    library = calibrated()
    # Without addresses, its __init__ has raised, and something keeps it.
    if library is None or not hasattr(client, "addresses"):
        return
    peers = _peers(client.addresses)
    for descriptor in library.descriptors(client):
        number = descriptor.value
        # Before close(): a second call must not close what has the same number by then.
        descriptor.value = -1
        if is_socket(number) and _is_connected_to(number, peers):
            with contextlib.suppress(OSError):
                os.close(number)


def close_unnamed(clients: list[Any]) -> None:
    """Close the sockets of *clients* that these do not name, in a forked child.

    Linux copies the descriptors of a process before its memory. If another thread of the parent
    was connecting or disconnecting a client, the child can have a socket of which its copy of the
    client does not know. Only libmemcached makes sockets that never block, and yet have a time
    limit for sending. A Unix socket has no such limit, and is not found.

    :param clients: those that other threads of the parent were using.
    """
    library = calibrated()
    if library is None or not clients:
        return
    peers = set().union(*(_peers(client.addresses) for client in clients))
    for _ in range(PATIENCE):
        if True not in [_close_if_unnamed(descriptor, peers) for descriptor in _descriptors()]:
            break
        library.usleep(1000)


def _close_if_unnamed(descriptor: int, peers: set[object]) -> bool:
    """Return whether it may be a socket that libmemcached has opened a moment ago."""
    if not is_socket(descriptor) or os.get_blocking(descriptor):
        return False
    if not _is_connected_to(descriptor, peers):
        return False
    try:
        if has_send_timeout(descriptor):
            os.close(descriptor)
        else:
            peer(descriptor)
    except OSError:  # it is not connected yet
        return True
    return False


def _descriptors() -> list[int]:
    try:
        return list(map(int, os.listdir("/proc/self/fd")))
    except OSError:  # not Linux
        return []


def _peers(addresses: Iterable[Any]) -> set[object]:
    """The ports and the paths of *addresses*."""
    peers: set[object] = set()
    for address in addresses:
        spec = translate_server_spec(address) if isinstance(address, str) else address
        peers.update((spec[1], spec[2]))
    return peers


def _is_connected_to(descriptor: int, peers: set[object]) -> bool:
    try:
        address = peer(descriptor)
    except OSError:  # the other side has gone, or another thread of the parent was connecting it
        with contextlib.suppress(OSError):  # too many open files
            return is_connecting(descriptor)
        return False
    return (address[1] if isinstance(address, tuple) else address) in peers


def _duplicate(number: int) -> int:
    try:
        return os.dup(number)
    except OSError:
        # Too many open files: a command must end then, too. If it is closed, it is no socket.
        return number
