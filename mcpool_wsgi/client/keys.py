"""
Keys
====

Which keys may reach memcached, and as which bytes. In memcached's text protocol the key
is a word of the command. A space or a line break in a key would make another command of
the rest.

The C code of pylibmc reads some keys after it has freed its own copy of them. So it gets
``bytes`` that Python holds, never a ``str`` and never a subclass.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar, Union

from ..errors import InvalidKey

Key = Union[str, bytes]
#: The keys of a mapping, which may be all ``str``: for type checkers that is another type.
AnyKey = TypeVar("AnyKey", bound=Key)

MAX_LENGTH = 250  # bytes
_FORBIDDEN = bytes([*range(0x21), 0x7F])
_forbidden_byte = re.compile(rb"[\x00-\x20\x7f]").search


class KeyRule:
    """What the keys of a client must be like.

    :param binary: the client speaks the binary protocol, where only the length counts.
    :param namespace: what libmemcached puts before every key, already checked.
    """

    __slots__ = ("_longest", "binary")

    def __init__(self, binary: bool, namespace: bytes) -> None:
        self.binary: bool = binary
        self._longest = MAX_LENGTH - len(namespace)

    def encoded(self, key: Key, prefix: bytes = b"") -> bytes:
        """*prefix* and *key* as the bytes that go over the wire.

        An empty key may pass. libmemcached does not send it.

        :raises InvalidKey: the key is longer than 250 bytes, or has a byte that the text
            protocol gives a meaning (0x00 to 0x20, and 0x7f).
        :raises TypeError: it is neither str nor bytes.
        """
        # Nearly all keys are like this, and the check runs on every command.
        if type(key) is str and key.isprintable() and " " not in key and not prefix:
            raw = key.encode()
            if len(raw) <= self._longest:
                return raw
        raw = prefix + encoded(key)
        if len(raw) > self._longest:
            raise InvalidKey(
                key,
                f"has {len(raw)} bytes where {self._longest} are allowed: send a hash of it,"
                " for example hashlib.sha256(key).hexdigest()",
            )
        if not self.binary:
            bad = _forbidden_byte(raw)
            if bad:
                raise InvalidKey(
                    key,
                    f"has the byte {bad[0]!r} in it, which ends a key: quote the key, for"
                    " example with urllib.parse.quote(), or send a hash of it",
                )
        return raw

    def are_plain(self, keys: list[Any]) -> bool:
        """Whether all *keys* are str that may go over the wire as they are, if not too long.

        It asks once for all keys, because asking for each costs more than the command. It does
        not ask for the length: libmemcached refuses a key that is too long, and pylibmc leaves
        out one that is empty.
        """
        try:
            text = "".join(keys)
        except TypeError:  # one is no str
            return False
        return (
            self._longest == MAX_LENGTH
            and text.isascii()
            and len(text.encode().translate(None, _FORBIDDEN)) == len(text)
        )


def encoded(key: Any) -> bytes:
    """*key* as UTF-8.

    :raises InvalidKey: it has half a surrogate pair, which is no text.
    :raises TypeError: it is neither str nor bytes.
    """
    # Not isinstance(): a proxy says that it is what it stands for.
    if issubclass(type(key), str):
        try:
            return str.encode(key)
        except UnicodeEncodeError:
            raise InvalidKey(key, "cannot be encoded as UTF-8") from None
    if issubclass(type(key), bytes):
        # A slice of a subclass is exact bytes, whatever the subclass says of itself.
        return bytes.__getitem__(key, slice(None))
    raise TypeError(f"a memcached key is str or bytes, not {type(key).__name__}")
