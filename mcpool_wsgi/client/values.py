"""
Values
======

What the C code can store, and how it is written.

The C code writes ``bytes``, ``str``, ``bool`` and pickled values correctly. It writes an ``int``
with the C function of ``str()``, and crashes if that fails: for a number of too many digits, at
the recursion limit, and if a signal handler raises, because that function runs signal handlers.
So ints are written here.
"""

from __future__ import annotations

import ctypes
import functools
from types import MethodType
from typing import Any, Callable

import _pylibmc

from . import native

#: From this length in bytes on, memcached refuses the line of the command and reads the value as
#: commands. From twice as many on, lengths in the binary protocol and in zlib overflow, too.
TOO_LONG = 2**31 - 2
#: A text of fewer characters has fewer bytes than that.
MAY_BE_TOO_LONG = TOO_LONG // 4
#: Types that the C code writes correctly, whatever the value is.
PLAIN = frozenset({str, bytes, bool, type(None), float, dict, list, tuple})

PICKLE, INTEGER, LONG, TEXT = 1, 2, 4, 16  # flags of pylibmc; INTEGER is for bool, LONG for int


class LargeInt:
    """A number so long that it has no decimal form, as pickle writes it."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[type[int], tuple[str, int]]:
        return (int, (hex(self._number), 16))


def storable(value: Any) -> Any:
    """*value* in a form that can be written, and is equal to it when it is read.

    For an instance of a subclass of int, the C code would write what no reader understands.
    """
    # Not isinstance(): a proxy says that it is what it stands for. The C code pickles it.
    if type(value) is bool or not issubclass(type(value), int):
        return value
    exact = int.__int__(value)
    try:
        int.__repr__(exact)
    except ValueError:
        return LargeInt(exact)
    return exact


def check_length(data: Any) -> None:
    """:raises ValueError: *data* is str or bytes, and no memcached takes so many bytes."""
    if issubclass(type(data), str) and str.__len__(data) >= MAY_BE_TOO_LONG:
        data = str.encode(data)
    if issubclass(type(data), bytes) and bytes.__len__(data) >= TOO_LONG:
        length = bytes.__len__(data)
        raise ValueError(f"it has {length} bytes, and fewer than {TOO_LONG} can be stored")


def serialize(client: Any, value: Any) -> tuple[bytes, int]:
    """``(data, flags)`` of *value*, as pylibmc writes it."""
    value = storable(value)
    if type(value) is int:
        return int.__repr__(value).encode(), LONG
    data, flags = native.serialize(client, value)
    check_length(data)
    return data, flags


def _find_choice() -> int | None:
    """Where the struct of a client says who writes values, in bytes from its start.

    One byte is 1 if the C code does, and 0 if the method ``serialize()`` of its class does.
    """

    class OwnClient(_pylibmc.client):  # type: ignore[misc]
        def serialize(self, value: Any) -> tuple[bytes, int]:
            return b"", 0

    size = _pylibmc.client.__basicsize__
    servers = [(_pylibmc.server_type_tcp, "127.0.0.1", 1)]
    clients = (_pylibmc.client(servers), OwnClient(servers))
    fields = object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)  # an address comes before
    one, other = (ctypes.string_at(id(client), size)[fields:] for client in clients)
    different = [number for number, byte in enumerate(one) if byte != other[number]]
    if len(different) != 1 or (one[different[0]], other[different[0]]) != (1, 0):
        return None
    return fields + different[0]


_choice = _find_choice()


@functools.cache
def writing_ints(command: native.Command) -> native.Command:
    """*command*, which stores a value, with :func:`serialize` in place of the C code's."""
    if _choice is None:
        return command

    def write(client: Any, *args: Any) -> Any:
        # The other values stay with the C code, which is faster.
        choice = ctypes.c_bool.from_address(id(client) + _choice)
        before = choice.value
        choice.value = False
        try:
            return command(client, *args)
        finally:
            choice.value = before  # False in a subclass with a serialize() of its own

    write.__name__ = command.__name__
    return write


def deserialize(client: Any, data: Any, flags: Any) -> Any:
    """The value of *data* and *flags*."""
    if not isinstance(data, bytes):
        raise TypeError(f"a stored value is bytes, not {type(data).__name__}")
    if not isinstance(flags, int) or not 0 <= flags < 2**32:
        raise ValueError(f"flags are an int of 32 bits, not {flags!r}")
    return native.deserialize(client, bytes.__getitem__(data, slice(None)), int.__int__(flags))


class NativeMethod:
    """A method of the C code, for which clients have one of Python.

    The C code compares what the class has with its own method, and is faster if they are
    the same. So the class shows the C method, and an instance the other one.
    """

    def __init__(self, native_method: native.Command, method: Callable[..., Any]) -> None:
        self._native_method = native_method
        self._method = method

    def __get__(self, client: Any, client_class: type | None = None) -> Any:
        return self._native_method if client is None else MethodType(self._method, client)
