"""
Failures
========

What an error of pylibmc means. Either memcached could not do what it was asked, or the caller
asked for something wrong. After some errors the connection is still in sync: the next answer
on it belongs to the next command.
"""

from __future__ import annotations

import re
from types import FrameType
from typing import TYPE_CHECKING, Any

import pylibmc

if TYPE_CHECKING:

    class _Error(Exception):
        """pylibmc has no types."""

    class _ServerDown(_Error):
        """Likewise."""

else:
    _Error = pylibmc.Error
    _ServerDown = pylibmc.ServerDown


class CommandExpired(_Error):
    """A command took longer than ``command_timeout``."""


class NoTurn(CommandExpired):
    """Other threads used the client for half of the time limit. Nothing was sent."""


class Interrupted(_Error):
    """A signal ended the read. libmemcached has given the answer up."""


class ServerResting(_ServerDown):
    """The server failed, or refused a login, a short time ago. The command was not sent."""


class LoginFailed(_Error):
    """memcached refused the username or the password, or has no mechanism in common."""


#: What a read of one key returns inside this package if it finds nothing.
MISS: Any = object()

#: The server refused, or was never asked. The connection is in sync.
_IN_SYNC = (
    pylibmc.NotFound,
    pylibmc.DataExists,
    pylibmc.BadKeyProvided,
    pylibmc.TooBig,
    pylibmc.CacheMiss,
)
#: There is no connection. libmemcached could not make one, or closed it.
_CLOSED = (
    pylibmc.ConnectionError,
    pylibmc.HostLookupError,
    pylibmc.ServerDead,
    pylibmc.ServerDown,
)
#: What a client raises if a server has gone. For touch that is WriteError.
OF_A_GONE_SERVER = (
    pylibmc.ServerDead,
    pylibmc.ConnectionError,
    pylibmc.SomeErrors,
    pylibmc.WriteError,
)
#: The commands that read values.
READS = ("get", "gets", "get_multi")
#: The caller asked for something wrong.
_CALLERS = (
    *_IN_SYNC,
    pylibmc.ClientError,
    pylibmc.DataDoesNotExist,
    pylibmc.InvalidHostProtocolError,
    pylibmc.NoServers,
    pylibmc.NotSupportedError,
    pylibmc.UnknownStatKey,
)
#: What pylibmc says, as a RuntimeError, of an answer that did not end.
_ENDLESS = {"fetch not done", "unknown error occured", "error == MEMCACHED_SUCCESS"}
#: What pylibmc says of a stored value that it cannot read; the server did its part.
_UNREADABLE = ("Failed to decompress value", "unknown memcached key flags")
#: pylibmc shows up to 32 bytes of a key. A key may have any character, so this goes to the last
#: place where one can end: before the cause, before the servers, or at the end of the text.
_key_in_text = re.compile(
    r"(?<= from memcached_)(\w+)\(.{0,32}\)(?=: | \(memcached: |\Z)", re.DOTALL
)


def is_unavailable(error: Exception) -> bool:
    """Whether *error* means that memcached could not do it, and the caller did nothing wrong."""
    if not isinstance(error, pylibmc.Error):
        return _is_endless(error)
    return not isinstance(error, _CALLERS) and not str(error).startswith(_UNREADABLE)


def is_timeout(error: Exception) -> bool:
    """Whether *error* means that the server did not answer in time."""
    # pylibmc has no class for it.
    return isinstance(error, CommandExpired) or (
        type(error) is pylibmc.Error and "TIMEOUT" in str(error)
    )


def is_outage(error: Exception) -> bool:
    """Whether *error* means that the server cannot be reached, or did not answer in time."""
    if isinstance(error, (LoginFailed, *_CLOSED, pylibmc.WriteError)) or is_timeout(error):
        return True
    # For incr and decr, pylibmc does not tell the cause.
    return type(error) is pylibmc.Error and str(error).endswith("keys failed")


def leaves_sync(error: Exception, servers: int) -> bool:
    """Whether the connections of a client are in sync after *error*.

    :param servers: the number of the client's servers. If one of several is gone,
        answers of the others may still be on their way.
    """
    if isinstance(error, pylibmc.Error):
        return (isinstance(error, _IN_SYNC) and (servers == 1 or is_own(error))) or str(
            error
        ).startswith(_UNREADABLE)
    # It comes from pickle, before or after the exchange, or from a signal handler. With several
    # servers a signal ends the exchange before the last answer.
    return servers == 1 and not _is_endless(error)


def is_own(error: BaseException | None) -> bool:
    """Whether the command itself has raised *error*, and not a signal handler that ended it."""
    traceback = None if error is None else error.__traceback__
    while traceback is not None:
        if not traceback.tb_frame.f_globals.get("__name__", "").startswith(__package__):
            return False
        traceback = traceback.tb_next
    return True


def is_of_signal_handler(error: Exception) -> bool:
    """Whether a signal handler has raised *error*."""
    traceback = error.__traceback__
    interrupted: FrameType | None = None
    while traceback is not None:
        frame = traceback.tb_frame
        if interrupted is not None and _handles_signal(frame, interrupted):
            return True
        interrupted = frame
        traceback = traceback.tb_next
    return False


def _handles_signal(frame: FrameType, interrupted: FrameType) -> bool:
    """Whether *frame* was called as Python calls signal handlers: with the signal's number and
    the frame that is *interrupted*.
    """
    code = frame.f_code
    arguments: list[Any] = []
    # One more, because the name of *args follows those of the arguments.
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + 1]:
        value = frame.f_locals.get(name)
        arguments += value if type(value) is tuple else [value]
    return any(
        argument is interrupted and isinstance(number, int)
        for number, argument in zip(arguments, arguments[1:])
    )


def _is_endless(error: Exception) -> bool:
    return type(error) is RuntimeError and str(error) in _ENDLESS


def without_key(error: Exception) -> str:
    """The text of *error* without the key, which may be personal data, or forge a log line."""
    return _key_in_text.sub(r"\1", str(error), count=1)


def result_of_failure(command: str, args: tuple[Any, ...]) -> Any:
    """What the *command* of this name returns if memcached fails, with ``fail_soft``.

    :param args: of the command. The first is the client.
    """
    if command in ("get", "gets"):
        return MISS
    if command == "get_multi":
        return {}
    if command in ("set_multi", "add_multi"):
        return list(args[1])
    if command == "get_stats":
        return []
    return False
