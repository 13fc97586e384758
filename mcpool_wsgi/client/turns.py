"""
Turns
=====

What a command does if another one is running on the same client, or waits for it: one of another
thread, or one that was interrupted by the signal handler that this one comes from.

A command waits for its turn for half of ``command_timeout`` at most. The wait is a part of its
time. If it were sent later, a server that is only slow would count as failed for all threads. A
command of a signal handler does not wait, because the interrupted command cannot end before it.
"""

from __future__ import annotations

import _thread
from time import monotonic
from typing import Any, Callable

from . import failures, native
from .events import tell
from .watchdog import NEVER, watchdog

#: Seconds for a command whose deadline has passed while a signal handler was at work.
GRACE = 0.01
#: In place of a result: the turn did not come in time.
NO_TURN = object()


def run_after_another(
    client: Any, command: native.Command, args: tuple[Any, ...], limit: float
) -> Any:
    """Run ``command(*args)`` on *client*, for which another command runs or waits.

    :param limit: seconds for the wait and the command.
    :raises NoTurn: the turn did not come in time.
    """

    def run(left: float) -> Any:
        return _run_in_turn(client, command, args, left)

    return in_turn(client, command, args, limit, run)


def in_turn(
    client: Any,
    command: native.Command,
    args: tuple[Any, ...],
    limit: float,
    work: Callable[[float], Any],
) -> Any:
    """What *work* returns. It is called with the turn, and with the seconds that are left.

    :param command: what *work* runs, with *args*.
    :param limit: seconds for the wait and the work.
    :raises NoTurn: the turn did not come in time.
    """
    began = monotonic()
    result = wait_for_turn(client, limit, work)
    if result is not NO_TURN:
        return result
    error = missed_turn(client, command.__name__, limit)
    result = failures.result_of_failure(command.__name__, args)
    if client._listeners:
        tell(client, command, args, result, error, began)
    if not client._fail_soft:
        raise error
    return result


def wait_for_turn(client: Any, limit: float, work: Callable[[float], Any]) -> Any:
    """As :func:`in_turn`. The result is NO_TURN if the turn did not come in time."""
    began = monotonic()
    turn = client._turn
    if turn._is_owned():  # for a command further out, which releases it
        return work(limit)
    try:
        client._waiters.add(_thread.get_ident())
        if turn.acquire(timeout=min(limit / 2, _thread.TIMEOUT_MAX)):
            with turn:  # it is released at the end of the block, whatever comes
                turn.release()
                return work(began + limit - monotonic())
    except BaseException:
        if turn._is_owned():  # an interrupt came right before the block
            turn.release()
        raise
    finally:
        client._waiters.discard(_thread.get_ident())
    return NO_TURN


def missed_turn(client: Any, command: str, limit: float) -> failures.NoTurn:
    """The error of a *command* for which the turn did not come in time."""
    return failures.NoTurn(
        f"{command} was not sent to {client._shown_addresses}: other threads used this client for"
        f" half of the time limit, {limit:g} s. Give each thread a client of its own, from a pool"
    )


def _run_in_turn(client: Any, command: native.Command, args: tuple[Any, ...], limit: float) -> Any:
    """Run a command in a thread that has the turn."""
    if client._deadline is NEVER:
        return client._run_now(command, args, limit)
    # Another one, which was interrupted, waits. Or an interrupt has left a deadline.
    began, deadline, expired = monotonic(), client._deadline, client._expired
    client._deadline = NEVER
    try:
        return client._run_now(command, args, limit)
    finally:
        # The interrupted command does not know what this one has left on the connection.
        if client._out_of_sync:
            client._deadline = monotonic() + client._command_timeout
            _wake_watchdog(client)
            client._disconnect()
        # A deadline that had passed before is left of a command whose end was interrupted. One
        # that has passed meanwhile is moved a little into the future, so that the watchdog ends
        # the interrupted command.
        client._deadline = max(deadline, monotonic() + GRACE) if deadline > began else NEVER
        _wake_watchdog(client)
        client._expired = expired
        client._out_of_sync = True


def _wake_watchdog(client: Any) -> None:
    if client._deadline < watchdog.wakes_at:
        watchdog.wake()
