"""Objects that lie about themselves, numbers out of range, and addresses that are none."""

from __future__ import annotations

import enum
import math
import pickle
from typing import Any, Callable

import pylibmc

Call = Callable[[], object]


class Hostile(Exception):
    """What the hostile objects below raise."""


class Colour(enum.IntEnum):
    RED = 7


class Seven(int):
    def __str__(self) -> str:
        return "seven"


class NoText(int):
    """An integer that cannot be shown."""

    def __str__(self) -> str:
        raise Hostile

    __repr__ = __str__


class NoNumber(int):
    """An integer that converts to no other."""

    def __int__(self) -> int:
        raise Hostile

    __index__ = __float__ = __bool__ = __hash__ = __int__  # type: ignore[assignment]


class TextWithoutEnd(str):
    """Text that lies about its length, and about all else that a check may ask."""

    def __len__(self) -> int:
        return 1

    def encode(self, *args: Any) -> bytes:
        return b"k"

    def isascii(self) -> bool:
        return True

    isprintable = isascii


class BytesWithoutEnd(bytes):
    """Bytes that lie about their length."""

    def __len__(self) -> int:
        return 1

    def __bytes__(self) -> bytes:
        return b"k"


class EmptyBytes(bytes):
    def __len__(self) -> int:
        return 0


class NegativeText(str):
    def __len__(self) -> int:
        return -1


class NoList(list[Any]):
    """A list whose length is not that of what it yields."""

    def __len__(self) -> int:
        return 1


class NoDict(dict[Any, Any]):
    def __getitem__(self, key: Any) -> Any:
        raise Hostile

    def __iter__(self) -> Any:
        raise Hostile

    keys = items = values = __iter__


class Nothing:
    """Neither hashed, nor compared, nor shown, nor pickled."""

    def __hash__(self) -> int:
        raise Hostile

    def __repr__(self) -> str:
        raise Hostile

    def __eq__(self, other: object) -> bool:
        raise Hostile

    def __reduce__(self) -> Any:
        raise Hostile


NUMBERS: dict[str, Any] = {
    "-1": -1,
    "2**31": 2**31,
    "2**32": 2**32,
    "2**32 + 1": 2**32 + 1,
    "2**63": 2**63,
    "2**64": 2**64,
    "-2**63 - 1": -(2**63) - 1,
    "10**5000": 10**5000,
    "1.5": 1.5,
    "nan": math.nan,
    "inf": math.inf,
    "True": True,
    "IntEnum": Colour.RED,
    "int that cannot be shown": NoText(1),
    "int that does not convert": NoNumber(1),
}
HOSTILE: dict[str, Any] = {
    **NUMBERS,
    "None": None,
    "no text": "",
    "no bytes": b"",
    "NUL": "a\0b",
    "half a surrogate pair": "\ud800",
    "a megabyte of text": "x" * 1_000_000,
    "a megabyte of bytes": b"x" * 1_000_000,
    "long text that says it is short": TextWithoutEnd("x" * 300),
    "two words that say they are one": TextWithoutEnd("a\r\nget b"),
    "long bytes that say they are short": BytesWithoutEnd(b"x" * 300),
    "bytes that say they are empty": EmptyBytes(b"x" * 300),
    "text of negative length": NegativeText("x"),
    "bytearray": bytearray(b"x"),
    "memoryview": memoryview(b"x"),
    "list": ["a", b"b", None, 5],
    "list of 10 000 keys": [f"key{number}" for number in range(10_000)],
    "list that says it is short": NoList([f"key{number}" for number in range(100)]),
    "dict": {"a": 1, 5: None},
    "dict that does not say what is in it": NoDict(a=1),
    "tuple": ("a", 1),
    "object": object(),
    "object that raises": Nothing(),
    "class": Nothing,
    "function": lambda *args: args,
    "module": pickle,
}


BAD_SERVERS: dict[str, Any] = {
    "nothing": "",
    "NUL in a name": "127.0.0.1\0evil",
    "NUL in a path": "/tmp/\0evil",
    "half a surrogate pair in a path": "/tmp/caf\udce9.sock",
    "UDP": "udp:127.0.0.1:11211",
    "UDP as a tuple": (pylibmc.server_type_udp, "127.0.0.1", 11211),
    "port -1": "127.0.0.1:-1",
    "port 0": "127.0.0.1:0",
    "port 65536": "127.0.0.1:65536",
    "port 99999": "127.0.0.1:99999",
    "no port": "127.0.0.1:",
    "port that is no number": "127.0.0.1:memcached",
    "port with a space": "127.0.0.1: 11211",
    "port with an underscore": "127.0.0.1:11_211",
    "no host": ":11211",
    "weight -1": "127.0.0.1:11211:-1",
    "weight 65536": "127.0.0.1:11211:65536",
    "IPv6 without an end": "[::1",
    "IPv6 with port 99999": "[::1]:99999",
    "None": None,
    "number": 11211,
    "bytes": b"127.0.0.1",
    "empty tuple": (),
    "tuple of one": ("127.0.0.1",),
    "tuple of host and port": ("127.0.0.1", 11211),
    "tuple of four": (1, "127.0.0.1", 11211, 1),
    "tuple of unknown type": (9, "127.0.0.1", 11211),
    "tuple of text": (1, "127.0.0.1", "11211"),
    "tuple with port -1": (1, "127.0.0.1", -1),
    "tuple with port 0": (1, "127.0.0.1", 0),
    "tuple with port 65536": (1, "127.0.0.1", 65536),
    "tuple with NUL": (1, "127.0.0.1\0evil", 11211),
    "list": ["127.0.0.1", 11211],
}
