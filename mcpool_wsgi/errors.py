"""
Errors
======

What this package raises of its own. Errors of memcached and of the network
stay :class:`pylibmc.Error` and its subclasses.
"""

from __future__ import annotations

import queue


class PoolTimeout(queue.Empty):
    """No client came free in time.

    A :class:`queue.Empty`, because that is what code written for pylibmc's
    pools catches.
    """


class PoolClosed(RuntimeError):
    """The pool was closed; it lends no more clients."""


class InvalidKey(ValueError):
    """A key that must not reach the wire, because memcached would take it for
    something else and every later answer on the connection for another key's.
    """

    #: The key as it was given.
    key: object

    def __init__(self, key: object, why: str) -> None:
        # Escaped and cut: keys come from users, and messages go to logs.
        shown = ascii(key)
        if len(shown) > 80:
            shown = f"{shown[:70]}...{shown[-1]}"
        super().__init__(f"memcached key {shown} {why}")
        self.key = key
        self._why = why

    def __reduce__(self) -> tuple[type[InvalidKey], tuple[object, str]]:
        return (InvalidKey, (self.key, self._why))
