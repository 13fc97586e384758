"""Values that name their key and their number, and which of them may be read."""

from __future__ import annotations

import zlib
from collections import Counter
from typing import Any

NUMBER_BITS = 24  # of a value that is an int
EVIL = "evil"  # a key that only a value taken for a command would write


def value_of(key: str, number: int) -> Any:
    """What the writer of *key* stores as its value *number*."""
    text = f"{key}|{number}"
    kind = number % 7
    if kind == 1:
        return text.encode()
    if kind == 2:
        return (key, number)
    if kind == 3:
        return f"{text}|\r\nset {EVIL} 0 0 4\r\nevil\r\n"
    if kind == 4:
        return f"{text}|{'x' * 30_000}"
    if kind == 5:
        return text.encode() + b"|" + bytes(range(256)) * 200
    if kind == 6:
        return zlib.crc32(key.encode()) << NUMBER_BITS | number
    return text


def number_of(value: Any) -> int:
    """The number of a value.

    :raises ValueError: it has none.
    """
    if type(value) is int:
        return value % (1 << NUMBER_BITS)
    if isinstance(value, tuple) and len(value) == 2:
        return int(value[1])
    if isinstance(value, bytes):
        return int(value.split(b"|")[1])
    if isinstance(value, str):
        return int(value.split("|")[1])
    raise ValueError(value)


class Ledger:
    """What was written under each key, and what may be read."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self.tried: Counter[str] = Counter()
        self.settled: Counter[str] = Counter()
        self._unacknowledged: set[tuple[str, int]] = set()
        self.wrong: list[str] = []
        self.late = 0  # values that nobody acknowledged, and that came after an acknowledged one

    def begins(self, key: str) -> int:
        """The next number for *key*, about to be written."""
        number = self.tried[key] + 1
        self._unacknowledged.add((key, number))
        self.tried[key] = number
        return number

    def settles(self, key: str, number: int) -> None:
        """The server said that it has *number*."""
        self.settled[key] = number
        self._unacknowledged.discard((key, number))

    def check(self, command: str, key: str, value: Any, floor: int) -> None:
        """Note whether *value* is wrong.

        :param floor: what was settled for *key* before it was read.
        """
        try:
            number = number_of(value)
        except (ValueError, IndexError):
            self.note_wrong(command, key, value, "names no number")
            return
        if value != value_of(key, number) or type(value) is not type(value_of(key, number)):
            self.note_wrong(command, key, value, "is not of this key")
        elif not 0 < number <= self.tried[key]:
            self.note_wrong(command, key, value, f"was never written, {self.tried[key]} was")
        elif number < floor and self._strict:
            if (key, number) in self._unacknowledged:
                self.late += 1
            else:
                self.note_wrong(command, key, value, f"is older than {floor}")

    def note_wrong(self, command: str, key: str, value: Any, why: str) -> None:
        self.wrong.append(f"{command} of {key}: {str(value)[:120]!r} {why}")
