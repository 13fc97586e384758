"""
Failures
========

What an error of pylibmc says of the connection: whether there still is one, and
whether it is in step, that is, whether the next answer on it belongs to the next
command.
"""

from __future__ import annotations

from typing import Any, Callable

import pylibmc

Command = Callable[..., Any]

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


def is_unreachable(command: Command, error: Exception) -> bool:
    """Whether there is no connection after *command* raised *error*."""
    if isinstance(error, _CLOSED):
        return True
    # A time-out, at which libmemcached closes the connection, has no class of its own, and
    # incr and decr do not even name it.
    return type(error) is pylibmc.Error and (
        "A TIMEOUT OCCURRED" in str(error) or command in (pylibmc.Client.incr, pylibmc.Client.decr)
    )


def is_broken(error: Exception) -> bool:
    """Whether *error* says that an answer ended in its middle."""
    return isinstance(error, _BROKEN)


def leaves_doubt(error: Exception) -> bool:
    """Whether the connection may be out of step after *error*."""
    if isinstance(error, pylibmc.Error):
        return not isinstance(error, _IN_STEP)
    # From (un)pickling or bad arguments, neither of which happens in the middle of a command;
    # but for pylibmc's own complaints of one that did not end.
    return type(error) is RuntimeError


def miss(command: Command, args: tuple[Any, ...]) -> Any:
    """What *command* returns of a memcached that has nothing and takes nothing."""
    if command is pylibmc.Client.get:
        return args[1]
    if command is pylibmc.Client.gets:
        return (None, None)
    if command is pylibmc.Client.get_multi:
        return {}
    if command in (pylibmc.Client.set_multi, pylibmc.Client.add_multi):
        return list(args[0])
    if command is pylibmc.Client.get_stats:
        return []
    return False
