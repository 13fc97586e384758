"""
Without pickle
==============

pylibmc stores ``bytes``, ``str``, ``int`` and ``bool`` as they are, and pickles all other
values. A pickle can run code when it is read. So everybody who can write to memcached can run
code in the app. With ``allow_pickle=False`` a client stores ``str``, ``bytes``, ``int``, ``bool``
and ``float``, and reads nothing that is pickled. With a ``serializer`` it stores what that can
write (:mod:`json` for example), and reads nothing that is pickled either.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic
from typing import Any, Callable, Protocol, TypeVar

import _pylibmc
import pylibmc

from ..errors import PickleForbidden
from . import native
from .failures import MISS
from .values import INTEGER, LONG, PICKLE, TEXT, LargeInt, check_length, storable

_TYPES = PICKLE | INTEGER | LONG | TEXT
# pylibmc knows neither of these, so a client of its own refuses to read them.
_FLOAT = TEXT | INTEGER
_SERIALIZED = TEXT | LONG

_Class = TypeVar("_Class", bound=type)


class Serializer(Protocol):
    """An object with ``dumps`` and ``loads``, like the module :mod:`json`."""

    def dumps(self, value: Any, /) -> str | bytes: ...
    def loads(self, data: Any, /) -> Any: ...


class _WithoutPickle:
    """Overrides how a client writes and reads values, and what reads many."""

    __slots__ = ()

    _serializer: Serializer | None
    _command: Callable[..., Any]
    _prefixed: Callable[..., Any]
    _shared_limit: Callable[..., Callable[[], float]]

    def get_multi(self, keys: Iterable[Any], key_prefix: Any = None) -> Any:
        """The error for a value that is pickled names its key."""
        wanted: Any = keys if isinstance(keys, (str, bytes)) else list(keys)
        began = monotonic()
        try:
            return super().get_multi(wanted, key_prefix)  # type: ignore[misc]
        except PickleForbidden:
            left = self._shared_limit("get_multi", began)
            for raw, key in dict(self._prefixed(wanted, key_prefix)).items():
                try:
                    self._command(native.get, (self, raw, MISS), left())
                except PickleForbidden as error:
                    raise PickleForbidden(error.why, key) from None
                except pylibmc.Error:
                    break  # then the error names no key
            raise

    def serialize(self, value: Any) -> tuple[bytes, int]:
        """``(data, flags)`` of *value*.

        :raises PickleForbidden: *value* needs pickle.
        """
        if isinstance(value, bytes):
            return bytes.__getitem__(value, slice(None)), 0
        if isinstance(value, str):
            return str.encode(value), TEXT
        if isinstance(value, bool):
            return (b"1" if value else b"0"), INTEGER
        value = storable(value)
        if isinstance(value, LargeInt):
            raise PickleForbidden("is an int with too many digits")
        if isinstance(value, int):
            return str(value).encode(), LONG
        if self._serializer is not None:
            data = self._serializer.dumps(value)
            if not isinstance(data, (str, bytes, bytearray, memoryview)):  # bytes(5) are five NULs
                kind = type(data).__name__
                raise TypeError(f"dumps() of the serializer must return str or bytes, not {kind}")
            data = data.encode() if isinstance(data, str) else bytes(data)
            check_length(data)
            return data, _SERIALIZED
        if isinstance(value, float):
            return float.__repr__(value).encode(), _FLOAT
        raise PickleForbidden(f"is a {type(value).__name__}, which needs pickle")

    def deserialize(self, data: bytes | None, flags: int) -> Any:
        """The value of *data* and *flags*.

        :raises PickleForbidden: it is pickled. Nothing of it is read.
        """
        data = b"" if data is None else data  # as the C code gives what is empty
        kind = flags & _TYPES
        if kind == 0:
            return data
        if kind == TEXT:
            return data.decode()
        if kind == LONG:
            return int(data)
        if kind == INTEGER:
            return data == b"1" if data in (b"0", b"1") else int(data)
        if kind == _FLOAT:
            return float(data)
        if kind == _SERIALIZED and self._serializer is not None:
            return self._serializer.loads(data)
        if kind == PICKLE:
            raise PickleForbidden("is pickled, and this client reads no pickles")
        raise pylibmc.Error(f"unknown memcached key flags {flags}")


_without_pickle: dict[type, type] = {}


def reads_pickle(client: object) -> bool:
    """Whether *client* reads what is pickled."""
    return not isinstance(client, _WithoutPickle)


def without_pickle(client_class: _Class) -> _Class:
    """*client_class* with the methods above.

    It is a class of its own, because the C code is faster where a client's class has none
    of them.

    :raises TypeError: *client_class* has a ``serialize()`` or ``deserialize()`` already.
    """
    if issubclass(client_class, _WithoutPickle):
        return client_class
    found = _without_pickle.get(client_class)
    if found is None:
        for name in ("serialize", "deserialize"):
            if getattr(client_class, name) is not getattr(_pylibmc.client, name):
                raise TypeError(
                    f"{client_class.__name__} has a {name}() of its own, which allow_pickle=False"
                    " and serializer would replace"
                )
        found = type(client_class.__name__, (_WithoutPickle, client_class), {"__slots__": ()})
        found.__module__ = client_class.__module__
        _without_pickle[client_class] = found
    return found  # type: ignore[return-value]
