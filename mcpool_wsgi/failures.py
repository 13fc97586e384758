"""
Failures
========

What an error of pylibmc says of the connection: whether there still is one, and
whether it is in step, that is, whether the next answer on it belongs to the next
command.
"""

from __future__ import annotations

from typing import Any

import pylibmc

#: The server refused or was never asked; the connection is in step.
_IN_STEP = (
    pylibmc.NotFound,
    pylibmc.DataExists,
    pylibmc.BadKeyProvided,
    pylibmc.TooBig,
    pylibmc.CacheMiss,
)
#: There is no connection: libmemcached could not make one, or closed it. It now fails at once
#: until retry_timeout has passed, which disconnect_all() would make it forget.
_CLOSED = (
    pylibmc.ConnectionError,
    pylibmc.HostLookupError,
    pylibmc.ServerDead,
    pylibmc.ServerDown,
    pylibmc.WriteError,
)
#: The connection broke in the middle of an answer, or some servers of several failed.
_BROKEN = (
    pylibmc.ReadError,
    pylibmc.SomeErrors,
    pylibmc.UnknownReadFailure,
)


def is_unreachable(command: str, error: Exception) -> bool:
    """Whether there is no connection after the *command* of this name raised *error*."""
    if isinstance(error, _CLOSED):
        return True
    # A time-out, at which libmemcached closes the connection, has no class of its own, and
    # incr and its like do not even name it.
    return type(error) is pylibmc.Error and (
        "A TIMEOUT OCCURRED" in str(error) or command in ("incr", "decr", "incr_multi")
    )


def is_broken(error: Exception) -> bool:
    """Whether *error* says that an answer ended in its middle, or is the system's."""
    # What the system says, of a Unix socket that is not there, say, has no class of its own.
    return isinstance(error, _BROKEN) or str(error).startswith("error 26 from ")


def leaves_doubt(error: Exception) -> bool:
    """Whether the connection may be out of step after *error*."""
    if isinstance(error, pylibmc.Error):
        return not isinstance(error, _IN_STEP)
    # From (un)pickling or bad arguments, neither of which happens in the middle of a command;
    # but for pylibmc's own complaints of one that did not end.
    return type(error) is RuntimeError


def miss(command: str, args: tuple[Any, ...]) -> Any:
    """What the *command* of this name returns if memcached has nothing and takes nothing."""
    if command == "get":
        return args[1]
    if command == "gets":
        return (None, None)
    if command == "get_multi":
        return {}
    if command in ("set_multi", "add_multi"):
        return list(args[0])
    if command == "get_stats":
        return []
    return False
