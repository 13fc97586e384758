"""
Sockets
=======

The sockets that a pylibmc client has open. pylibmc has no function for that. This package
needs them for two things:

-   libmemcached does not limit the time of a whole command. :func:`abort` ends a command that
    runs in another thread. It shuts the sockets of the client down
    (:mod:`mcpool_wsgi.client.watchdog`).
-   A forked child inherits the sockets of its parent. :func:`close_inherited` closes them in
    the child. The parent does not notice.

.. code-block:: python

    if sockets.is_available():
        print(sockets.open_sockets(client))  # [7, 8]

The sockets are found like this: a client of ``_pylibmc`` is a C struct. Its first field is the
address of libmemcached's ``memcached_st``. A function that libmemcached exports gives the
struct of each server. libmemcached 1.0.16 and 1.0.18 have the descriptor at the same offset of
that struct.

libmemcached does not promise this offset, so the module checks it once, at first need. A client
connects to a listener of this module. The descriptor that is found must be the socket that is
connected to this listener. The check takes less than a millisecond. If it fails, all functions
find no sockets, and one warning is logged.

All functions can be called in signal handlers, in forked children, in processes with threads,
and under gevent and eventlet. They take no lock, and they call no function that those
libraries replace.
"""

from __future__ import annotations

import _socket
import contextlib
import ctypes
import logging
import os
import stat
from collections.abc import Collection
from typing import Any, Callable

import _pylibmc
import pylibmc

logger: logging.Logger = logging.getLogger(__name__)

FD_OFFSET = 20  # bytes from the start of libmemcached's struct of a server
POINTER_SIZE = ctypes.sizeof(ctypes.c_void_p)
CALIBRATION_TIMEOUT = 100  # milliseconds that each step of the calibration may take
PAUSE = 100  # microseconds between the two looks of abort()


class Library:
    """The C functions that find and end connections, and that tell the cause of a failure."""

    def __init__(self) -> None:
        # PyDLL holds the interpreter lock during calls. A module also finds the functions of the
        # libraries that it is linked with, under whatever names these are installed.
        library = ctypes.PyDLL(_pylibmc.__file__)
        self._count: Callable[..., int] = library.memcached_server_count
        self._server: Callable[..., int] = library.memcached_server_instance_by_position
        _declare(self._count, ctypes.c_uint32, ctypes.c_void_p)
        _declare(self._server, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)
        self.last_error: Callable[[int], int] = library.memcached_last_error
        self.last_errno: Callable[[int], int] = library.memcached_last_error_errno
        self.last_message: Callable[[int], bytes | None] = library.memcached_last_error_message
        _declare(self.last_error, ctypes.c_int, ctypes.c_void_p)
        _declare(self.last_errno, ctypes.c_int, ctypes.c_void_p)
        _declare(self.last_message, ctypes.c_char_p, ctypes.c_void_p)
        # Not PyDLL: it may connect, and other threads run meanwhile.
        unlocked = ctypes.CDLL(_pylibmc.__file__)
        self.behavior: Callable[[int | None, int], int] = unlocked.memcached_behavior_get
        _declare(self.behavior, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_int)
        program = ctypes.PyDLL(None)
        self.shutdown: Callable[[int, int], int] = program.shutdown
        _declare(self.shutdown, ctypes.c_int, ctypes.c_int, ctypes.c_int)
        self.usleep: Callable[[int], int] = ctypes.CDLL(None).usleep
        _declare(self.usleep, ctypes.c_int, ctypes.c_uint)
        # The fields are an address and eight bytes of flags. Another size means other fields.
        if _pylibmc.client.__basicsize__ != object.__basicsize__ + POINTER_SIZE + 8:
            raise LookupError("pylibmc's client is not the C struct that is known")

    def memcached_st(self, client: object) -> int | None:
        """The address of libmemcached's struct of *client*, which must be one of ``_pylibmc``."""
        return ctypes.c_void_p.from_address(id(client) + object.__basicsize__).value

    def descriptors(self, client: object) -> list[ctypes.c_int32]:
        """The descriptor of each server, -1 where there is no connection.

        Each ``value`` is read from the struct anew. *client* must outlive the result.
        """
        # Not isinstance(), which believes the __class__ of a mock.
        if not issubclass(type(client), _pylibmc.client):
            return []
        memcached_st = self.memcached_st(client)
        if not memcached_st:
            return []
        return [
            ctypes.c_int32.from_address(self._server(memcached_st, position) + FD_OFFSET)
            for position in range(self._count(memcached_st))
        ]

    def calibrate(self) -> None:
        """Check that descriptors() finds the descriptor of a connection.

        :raises LookupError: it does not.
        :raises OSError: the system refuses a socket on loopback.
        """
        # Not the socket module, where gevent and eventlet replace the classes.
        listener = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        try:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            host, port = listener.getsockname()
            client = _pylibmc.client([(_pylibmc.server_type_tcp, host, port)])
            client.set_behaviors(
                {"connect_timeout": CALIBRATION_TIMEOUT, "_poll_timeout": CALIBRATION_TIMEOUT}
            )
            (descriptor,) = self.descriptors(client)
            if descriptor.value != -1:
                raise LookupError("no field was found that is -1 without a connection")
            client.get_behaviors()  # connects, to ask for the size of the socket's buffers
            if not _is_socket(descriptor.value) or _peer(descriptor.value) != (host, port):
                raise LookupError("no field was found that is the socket of a connection")
        finally:
            listener.close()


def _declare(function: Any, result: Any, *arguments: Any) -> None:
    function.restype = result
    function.argtypes = arguments


_library: Library | None = None
_is_calibrated: bool = False
_warnings: list[str] = []  # what is still to be logged


def calibrated() -> Library | None:
    """The library, calibrated at the first call. None if the calibration failed."""
    # No lock, because a signal handler may interrupt the calibration and call this. Two
    # calibrations at once do no harm.
    global _library, _is_calibrated
    if not _is_calibrated:
        try:
            library = Library()
            library.calibrate()
        except (LookupError, OSError, AttributeError, pylibmc.Error) as error:
            _warnings[:] = [str(error) or repr(error)]
        else:
            _library = library
            _warnings.clear()
        _is_calibrated = True
    return _library


def is_available() -> bool:
    """Whether this module finds the sockets of clients. The first call calibrates it."""
    library = calibrated()
    # Logged here only: where abort() and close_inherited() are called, logging may hang.
    with contextlib.suppress(IndexError):
        if _warnings:
            logger.warning(
                "command limits and the closing of inherited sockets are best effort, because"
                " the sockets of pylibmc's clients cannot be found: %s",
                _warnings.pop(),
            )
    return library is not None


def open_sockets(client: object) -> list[int]:
    """The descriptors of the connections that *client* has open, to all its servers.

    :param client: a ``pylibmc.Client``. An object of another type has no sockets.
    :return: descriptors of sockets. Empty if :func:`is_available` is false.
    """
    if not is_available():
        return []
    return [number for number in numbers(client) if _is_socket(number)]


def numbers(client: object) -> list[int]:
    """The descriptor of each server of *client*, -1 where there is no connection.

    It asks the system nothing, so a descriptor may be closed. Empty if :func:`is_available` is
    false.
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

    :param client: a ``pylibmc.Client``. An object of another type has no sockets.
    :param is_due: called right before each shutdown, which happens only if it returns true.
    :return: how many sockets were shut down. 0 if :func:`is_available` is false.
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
    """Shut down the sockets of a *client* that no other thread uses.

    If :func:`is_available` is false, nothing happens.

    :param client: a ``pylibmc.Client``. An object of another type has no sockets.
    """
    library = calibrated()
    if library is not None:
        for descriptor in library.descriptors(client):
            library.shutdown(descriptor.value, 2)


def close_inherited(client: object, peers: Collection[object] | None = None) -> None:
    """Close the sockets of a *client* that the parent process has opened, in a forked child.

    Nothing is sent and nothing is shut down, so the connections of the parent stay. A second
    call does nothing. If :func:`is_available` is false, the sockets stay open.

    Never call this in the process that opened the sockets. Never use or free the client after
    this call.

    :param client: a ``pylibmc.Client``. An object of another type has no sockets.
    :param peers: the ports and the paths of the client's servers. What is connected to
        something else stays open: the child has put it there itself.
    """
    library = calibrated()
    if library is None:
        return
    for descriptor in library.descriptors(client):
        number = descriptor.value
        # Before close(): a second call must not close what has the same number by then.
        descriptor.value = -1
        if _is_socket(number) and (peers is None or _is_connected_to(number, peers)):
            with contextlib.suppress(OSError):
                os.close(number)


def _is_connected_to(descriptor: int, peers: Collection[object]) -> bool:
    try:
        peer = _peer(descriptor)
    except OSError:  # the other side has gone, or it was never connected
        return False
    return (peer[1] if isinstance(peer, tuple) else peer) in peers


def _duplicate(number: int) -> int:
    try:
        return os.dup(number)
    except OSError:
        # Too many open files: a command must end then, too. If it is closed, it is no socket.
        return number


def _is_socket(descriptor: int) -> bool:
    try:
        return descriptor >= 0 and stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def _peer(descriptor: int) -> object:
    connection = _socket.socket(fileno=os.dup(descriptor))
    try:
        return connection.getpeername()
    finally:
        connection.close()
