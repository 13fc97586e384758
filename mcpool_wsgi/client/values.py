"""
Values
======

What the C code can store, and how it is written.
"""

from __future__ import annotations

from typing import Any

#: From this length in bytes on, zlib's lengths in the C code overflow.
TOO_LONG_TO_COMPRESS = 2**32
#: Types that the C code handles rightly whatever the value is.
PLAIN = frozenset({str, bytes, bool, type(None), float, dict, list, tuple})

_SMALL = 2**64


class LargeInt:
    """A number so long that it has no decimal form, as pickle writes it."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[type[int], tuple[str, int]]:
        return (int, (hex(self._number), 16))


def storable(value: Any) -> Any:
    """*value* in a form that does not crash the C code, and equal to it when it is read.

    The C code writes an int with ``str()``. That fails for more than some thousand
    digits, and for a subclass it writes what no reader understands.
    """
    if type(value) is bool or not isinstance(value, int):
        return value
    exact = int.__int__(value)
    if -_SMALL < exact < _SMALL:
        return exact
    try:
        str(exact)
    except ValueError:
        return LargeInt(exact)
    return exact


class NativeMethod:
    """``serialize`` or ``deserialize`` of the C code, with its arguments checked.

    The C code compares what the class has with its own method, and is faster if they are
    the same. So the class shows the C method, and an instance the checked one.
    """

    def __init__(self, native: Any, check: Any) -> None:
        self._native = native
        self._check = check

    def __get__(self, client: Any, client_class: type | None = None) -> Any:
        if client is None:
            return self._native

        def method(*args: Any) -> Any:
            return self._native(client, *self._check(*args))

        method.__name__ = self._native.__name__
        return method


def check_serialized(value: Any) -> tuple[Any]:
    """The arguments of ``serialize()``."""
    return (value if type(value) in PLAIN else storable(value),)


def check_deserialized(data: Any, flags: Any) -> tuple[bytes, int]:
    """The arguments of ``deserialize()``."""
    if not isinstance(data, bytes):
        raise TypeError(f"a stored value is bytes, not {type(data).__name__}")
    if not isinstance(flags, int) or not 0 <= flags < 2**32:
        raise ValueError(f"flags are an int of 32 bits, not {flags!r}")
    return bytes.__getitem__(data, slice(None)), int.__int__(flags)
