"""
libmemcached
============

The C functions that pylibmc does not offer: those that tell the cause of a failure, and those that
lead to the sockets of a client.

The sockets are found like this: a client of ``_pylibmc`` is a C struct. Its first field is the
address of libmemcached's ``memcached_st``. A function that libmemcached exports gives the
struct of each server. libmemcached 1.0.16 and 1.0.18 have the descriptor at the same offset of
that struct.

libmemcached does not promise this offset, so the module checks it once, at first need. A client
connects to a listener of this module. The descriptor that is found must be the socket that is
connected to this listener. The check takes less than a millisecond. If it fails, nothing of
this module is used, and one warning is logged.
"""

from __future__ import annotations

import _socket
import contextlib
import ctypes
import errno
import logging
import os
import stat
from typing import Any, Callable

import _pylibmc
import pylibmc

logger: logging.Logger = logging.getLogger(__name__)

FD_OFFSET = 20  # bytes from the start of libmemcached's struct of a server
POINTER_SIZE = ctypes.sizeof(ctypes.c_void_p)
SOCKET_SEND_SIZE = 4  # the number of the behavior that libmemcached connects for, to look it up
CALIBRATION_TIMEOUT = 100  # milliseconds that each step of the calibration may take


class Library:
    """The C functions of libmemcached, and those of the system that shut a socket down."""

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
        :raises OSError: the system refuses a socket on loopback to this module or libmemcached.
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
            memcached_st = self.memcached_st(client)
            self.behavior(memcached_st, SOCKET_SEND_SIZE)
            number = self.last_errno(memcached_st or 0)
            if number and descriptor.value == -1:
                raise OSError(number, os.strerror(number))
            if not is_socket(descriptor.value) or peer(descriptor.value) != (host, port):
                raise LookupError("no field was found that is the socket of a connection")
        finally:
            listener.close()


def _declare(function: Any, result: Any, *arguments: Any) -> None:
    function.restype = result
    function.argtypes = arguments


_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_library: Library | None = None
_is_calibrated: bool = False
_warnings: list[str] = []  # what is still to be logged


def calibrated() -> Library | None:
    """The library, calibrated at the first call. None if the calibration failed.

    While the process has too many open files, each call tries again.
    """
    # No lock, because a signal handler may interrupt the calibration and call this. Two
    # calibrations at the same time do no harm.
    global _library, _is_calibrated
    if not _is_calibrated:
        try:
            library = Library()
            library.calibrate()
        except (LookupError, OSError, AttributeError, pylibmc.Error) as error:
            if getattr(error, "errno", None) in _PASSING:
                return None
            _warnings[:] = [str(error) or repr(error)]
        else:
            _library = library
            _warnings.clear()
        _is_calibrated = True
    return _library


def has_failed() -> bool:
    """Whether the calibration has failed for good."""
    return _is_calibrated and _library is None


def log_failure() -> None:
    """Log once that the calibration has failed. The first call calibrates the library."""
    calibrated()
    # Here only: logging may hang in a forked child, and while a command is ended.
    with contextlib.suppress(IndexError):
        logger.warning(
            "command_timeout and the closing of inherited sockets do not work, because the"
            " sockets of pylibmc's clients cannot be found: %s",
            _warnings.pop(),
        )


def is_socket(descriptor: int) -> bool:
    """Whether *descriptor* is open, and is a socket."""
    try:
        return descriptor >= 0 and stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def peer(descriptor: int) -> object:
    """The address that the socket is connected to.

    :raises OSError: it is connected to nothing.
    """
    connection = _socket.socket(fileno=os.dup(descriptor))
    try:
        return connection.getpeername()
    finally:
        connection.close()


def is_connecting(descriptor: int) -> bool:
    """Whether the socket, which is connected to nothing, may have been about to be connected."""
    connection = _socket.socket(fileno=os.dup(descriptor))
    try:
        listens = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN)
        return connection.type == _socket.SOCK_STREAM and not listens
    finally:
        connection.close()


def has_send_timeout(descriptor: int) -> bool:
    """Whether the socket has a time limit for sending."""
    connection = _socket.socket(fileno=os.dup(descriptor))
    try:
        # A struct of two numbers.
        return any(connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, 16))
    finally:
        connection.close()
