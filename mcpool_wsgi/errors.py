"""
Errors
======

The exceptions of this package. Errors of memcached and of the network stay
:class:`pylibmc.Error` and its subclasses.
"""

from __future__ import annotations

import queue


class PoolTimeout(queue.Empty):
    """No client came free in time.

    It is a :class:`queue.Empty`, because code for pylibmc's pools catches that.
    """

    # The id() of the lazy client whose command has raised it. The client itself would be a circle,
    # because frames of the traceback have it. They keep it, so no other client gets this id.
    _client_id: int | None = None


class PoolClosed(RuntimeError):
    """The pool is closed, and nothing can be reserved any more."""


class ClientReleased(RuntimeError):
    """A command on a client that was released.

    The request or the ``with`` block that had the client has ended, or has released it early.
    """


class InvalidKey(ValueError):
    """A key that must not reach the wire.

    memcached would take it for something else. From then on every answer on the
    connection would belong to another key.
    """

    #: The key as the caller gave it.
    key: object

    def __init__(self, key: object, why: str) -> None:
        super().__init__(f"memcached key {shown(key)} {why}")
        self.key = key
        self._why = why

    def __reduce__(self) -> tuple[type[InvalidKey], tuple[object, str]]:
        return (InvalidKey, (self.key, self._why))


class PickleForbidden(ValueError):
    """With ``allow_pickle=False``: a value that only pickle can store or read."""

    #: The key of the value; None where no command is at work.
    key: object

    def __init__(self, why: str, key: object = None) -> None:
        of = "" if key is None else f" of memcached key {shown(key)}"
        super().__init__(f"the value{of} {why}")
        self.key = key
        self.why = why

    def __reduce__(self) -> tuple[type[PickleForbidden], tuple[str, object]]:
        return (PickleForbidden, (self.why, self.key))


def shown(key: object) -> str:
    """*key* for a message, escaped and cut: keys come from users, and messages go to logs."""
    text = ascii(key)
    return text if len(text) <= 80 else f"{text[:70]}...{text[-1]}"


def without_password(value: object) -> str:
    """*value* for a message, but not if it has an ``@``, because it may have a password then."""
    text = repr(value)
    return "a text that may contain a password" if "@" in text else text
