"""
Keys
====

What may stand between ``get`` and the end of the line. In memcached's text
protocol the key is a word of the command, so a space or a line break in it
makes another command of the rest.
"""

from __future__ import annotations

import re
from typing import Union

from .errors import InvalidKey

Key = Union[str, bytes]

_forbidden_byte = re.compile(rb"[\x00-\x20\x7f]").search


class KeyRule:
    """What a client's keys must be like.

    :param binary: the binary protocol is spoken, where only the length counts.
    :param namespace: what libmemcached puts before every key.
    """

    __slots__ = ("_binary", "_longest")

    def __init__(self, binary: bool, namespace: Key = b"") -> None:
        self._binary = binary
        self._longest = 250
        if namespace:
            self.check(namespace)
            self._longest -= len(encoded(namespace))

    def check(self, key: Key, prefix: bytes = b"") -> None:
        """Refuse *key* if, put behind *prefix*, it must not reach memcached.

        :raises InvalidKey: it is empty, longer than 250 bytes, or has a byte that
            the text protocol gives a meaning (0x00 to 0x20, and 0x7f).
        :raises TypeError: it is neither str nor bytes.
        """
        # Nearly all keys are like this, and the check runs on every command.
        if (
            type(key) is str
            and not prefix
            and key.isascii()
            and key.isprintable()
            and " " not in key
            and 0 < len(key) <= self._longest
        ):
            return
        raw = prefix + encoded(key)
        if not raw:
            raise InvalidKey(key, "is empty")
        if len(raw) > self._longest:
            raise InvalidKey(key, f"has {len(raw)} bytes where {self._longest} are allowed")
        if not self._binary:
            bad = _forbidden_byte(raw)
            if bad:
                raise InvalidKey(key, f"has the byte {bad[0]!r} in it, which ends a key")


def encoded(key: Key) -> bytes:
    """*key* as the bytes that pylibmc makes of it.

    :raises InvalidKey: it has half a surrogate pair, which is no text.
    :raises TypeError: it is neither str nor bytes.
    """
    if isinstance(key, str):
        try:
            return str.encode(key)
        except UnicodeEncodeError:
            raise InvalidKey(key, "cannot be encoded as UTF-8") from None
    if isinstance(key, bytes):
        return key
    raise TypeError(f"a memcached key is str or bytes, not {type(key).__name__}")
