"""
Commands that are run again
===========================

Some commands are sent a second time before their caller gets an answer:

-   A read that found nothing, if the servers have not answered it: because of a signal, or because
    memcached had too many connections.
-   A command of a client of several servers, if libmemcached leaves a server out.
"""

from __future__ import annotations

from time import monotonic
from typing import Any, Callable

import pylibmc

from . import failures, native, sockets
from .behaviors import NO_LIMIT
from .failures import MISS
from .login import login_missing
from .silent_errors import is_refused, silent_error
from .watchdog import NEVER

#: After so many failures, libmemcached leaves a server out: 1.0.16 after two, 1.0.18 after three.
FAILURES_LEFT_OUT = 3


def confirmed(client: Any, command: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """The result of a read that has found nothing, after the servers have answered it."""
    result = MISS
    has_key = args[1]  # without one, nothing was sent
    times = 1
    while result is MISS and has_key and not is_answered(client, command.__name__, times):
        result = command(*args)
        times += 1
    return result


def is_answered(client: Any, command: str, times: int) -> bool:
    """Whether the servers have answered the *command* that found nothing.

    :param times: how often it was sent.
    :return: False if it must be sent again, because a signal has ended it or because it is
        the first on its connection.
    :raises pylibmc.Error: it failed for another reason.
    """
    error = silent_error(client, command)
    if client._deadline is NEVER:  # it passed while a signal handler was at work
        raise client._expiry(command, error)
    if error is None:
        # memcached with SASL closes the connection of a client that has not logged in, and
        # libmemcached takes that for a miss. It may be a signal handler that has closed it.
        has_no_login = client.binary and client._credentials[0] is None
        if has_no_login and sockets.numbers(client) == [-1]:
            if times > 1:
                raise login_missing(client)
            client._disconnect()  # or libmemcached would not ask again so soon
            return False
        # If memcached has too many connections, it answers ERROR and closes this one, and that is
        # a miss, too. So the first miss of a connection is asked again.
        # Not for ever: a value that uses the client while it is read makes it connect anew.
        # In the binary protocol that ERROR is an error, and nothing is asked again.
        connections: Any = None
        if not client.binary:
            connections = len(client.addresses) == 1 or sockets.numbers(client)
        if client._missed_on == connections or times > 2:
            return True
        client._missed_on = connections
        return False
    if client._expired or not isinstance(error, failures.Interrupted):
        try:
            raise error
        finally:
            del error  # its traceback has this frame: that would be a circle
    client._resynchronize()
    return False


def run_elsewhere(
    client: Any, error: Exception, command: Callable[..., Any], args: tuple[Any, ...]
) -> Any:
    """The result of *command* from another server, if libmemcached leaves one out.

    It leaves a server out at the second or third failure there. The next command for the same
    key goes to another server. The first failure is an error, so that it is noticed.

    :raises Exception: *error*, if it is the first one, or the command must not be run again.
    """
    left_out = None
    try:
        for times in range(FAILURES_LEFT_OUT):
            if monotonic() >= client._fails_until:
                if not _is_marked_dead(error):
                    break
                # In binary, 1.0.16 leaves a server that is back out again at each try. A client
                # that only stores gets no other error, and its pool must notice this one.
                client._let_rest(error)
                left_out = error
            if not _may_run_again(client, error, command):
                break
            client._disconnect()  # the answers of other servers may be on their way
            try:
                if times < FAILURES_LEFT_OUT - 1 or monotonic() < client._hangs_until:
                    result = command(*args)
                else:  # it may be that all servers have failed
                    result = _at_a_server_left_out(client, command, args)
            except failures.OF_A_GONE_SERVER as another:
                error = another
            else:
                if left_out is not None:  # an error that is raised is noted by _forgives()
                    client._note_failure(left_out)
                return result
        raise error
    finally:
        del error, left_out  # their tracebacks have this frame: that would be a circle


def _at_a_server_left_out(client: Any, command: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """The result of *command* from its server, whether libmemcached leaves it out or not.

    In 1.0.16, if all servers are left out, each command that does not read counts as the next
    failure of its server. So they would be left out for ever.
    """
    try:
        try:
            native.set_behaviors(client, {"failure_limit": NO_LIMIT})
            return command(*args)
        finally:
            native.set_behaviors(client, {"failure_limit": client._failure_limit})
    except BaseException as error:
        # An interrupt may have come before the limit was back.
        native.set_behaviors(client, {"failure_limit": client._failure_limit})
        if client._expired or (isinstance(error, Exception) and failures.is_timeout(error)):
            # Not each command waits for a server that hangs.
            client._hangs_until = monotonic() + client._completed()["retry_timeout"]
        raise


def _may_run_again(client: Any, error: Exception, command: Callable[..., Any]) -> bool:
    """Whether *command* changes nothing, or was not sent, and has failed in a short time."""
    if client._deadline - monotonic() < client._command_timeout / 2:
        return False
    # add_multi may have added some of its keys, and would not add them again.
    if command.__name__ == "add_multi" or not failures.is_own(error):
        return False
    if isinstance(error, (pylibmc.ConnectionError, pylibmc.SomeErrors)):
        return command.__name__ in failures.READS or is_refused(client)
    return _is_marked_dead(error) or command is native.touch


def _is_marked_dead(error: Exception) -> bool:
    """Whether the server has failed before, so that nothing was sent."""
    return isinstance(error, pylibmc.ServerDead)
