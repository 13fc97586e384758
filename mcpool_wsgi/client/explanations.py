"""
Explanations
============

What an error of a command says: which key it is about, and what the caller can do. pylibmc's
own texts name neither.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import pylibmc

from ..errors import InvalidKey, PickleForbidden, shown
from .keys import Key

#: What pickle and serializers raise.
_FROM_PICKLE = (TypeError, AttributeError, ValueError, pickle.PicklingError)
#: What a command that stores a value raises because of the value.
VALUE_ERRORS = (PickleForbidden, pylibmc.TooBig, *_FROM_PICKLE)


def empty_key(key: Key) -> InvalidKey:
    """For ``incr``, ``decr``, ``incr_multi`` and ``cas``. For all others it is a miss."""
    return InvalidKey(key, "is empty")


def missing_number(key: Key) -> Exception:
    """For ``incr`` and ``decr``."""
    return pylibmc.NotFound(  # type: ignore[no-any-return]
        f"there is no memcached key {shown(key)} to increment or decrement: store a number first,"
        " for example with add(key, 0)"
    )


def no_number(key: Key) -> Exception:
    """For ``incr`` and ``decr``."""
    return pylibmc.ClientError(  # type: ignore[no-any-return]
        f"the value of memcached key {shown(key)} is no number: store an int from 0 to 2**64 - 1"
    )


def of_value(error: Exception, client: Any, key: Key, value: Any) -> Exception:
    """*error*, one of :data:`VALUE_ERRORS`, with the *key* of the *value* that it is about."""
    if isinstance(error, PickleForbidden):
        return PickleForbidden(error.why, key)
    if isinstance(error, pylibmc.TooBig):
        return pylibmc.TooBig(  # type: ignore[no-any-return]
            f"the value of memcached key {shown(key)} is larger than the server stores, which is"
            f" 1 MiB unless memcached runs with another -I. The command has {_size(client, value)}"
            " bytes of it, before compression. Store less, or compress it with min_compress_len"
        )
    if isinstance(error, UnicodeEncodeError):
        error.reason += f", in the value of memcached key {shown(key)}"
    # Its class and its traceback stay, because the caller may look at both.
    if type(error) in _FROM_PICKLE and list(map(type, error.args)) == [str]:
        error.args = (f"the value of memcached key {shown(key)} cannot be stored: {error}",)
    return error


def of_values(
    error: Exception, client: Any, values: Mapping[bytes, Any], named: Mapping[bytes, Key]
) -> Exception:
    """As :func:`of_value`, for the one of *values* that *error* is about."""
    if isinstance(error, pylibmc.TooBig):
        largest = max(values, key=lambda raw: _size(client, values[raw]))
        return of_value(error, client, named[largest], values[largest])
    for raw, value in values.items():
        try:
            client.serialize(value)
        except type(error) as again:
            return of_value(again, client, named[raw], value)
    return error


def _size(client: Any, value: Any) -> int:
    return len(client.serialize(value)[0])
