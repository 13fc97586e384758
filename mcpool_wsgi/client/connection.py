"""
Connection
==========

The one door that all commands of a :class:`~mcpool_wsgi.Client` pass.

-   **Forks.** No command goes out on a connection that another process opened.
-   **Turns.** One command at a time is on a connection. Commands of other threads wait
    for their turn (:mod:`mcpool_wsgi.client.turns`). A command looks for a fork before it takes
    the lock, because in a child the lock may be held for ever, by a thread that only the parent
    has.
-   **Time.** A command that lasts longer than ``command_timeout`` is ended
    (:mod:`mcpool_wsgi.client.watchdog`).
-   **In sync.** While a command runs, the connection counts as out of sync. Only a command
    that ends well, or fails in a way that is known to be harmless, changes that. So an
    interrupt at any point leaves the connection out of sync. A connection that is out of
    sync is closed before the next command.
-   **Failures.** A server that cannot be reached is noticed. With ``fail_soft`` it is a
    miss.
"""

from __future__ import annotations

import sys
import threading
from time import monotonic
from typing import Any, Callable, TypeVar

from .. import forks
from ..forks import same_process
from . import failures, native, sockets
from .availability import Availability
from .events import Listener, observe, tell
from .failures import MISS
from .login import explained, log_in
from .opened_here import opened_here
from .run_again import confirmed, run_elsewhere
from .silent_errors import check_memory, readable
from .turns import run_after_another
from .watchdog import NEVER, watchdog

_Self = TypeVar("_Self", bound="Connection")


def disconnect_all(client: Connection) -> None:
    """The command that closes the connections. It asks no server, so it does not fail."""
    client._disconnect()


class Connection(Availability):
    """A :class:`pylibmc.Client` whose commands pass one door."""

    # What every command looks at: a slot is read and set in a third of the time.
    __slots__ = (
        "_command_timeout",
        "_deadline",
        "_expired",
        "_listeners",
        "_options_lock",
        "_out_of_sync",
        "_process",
        "_turn",
        "_waiters",
    )

    _process: forks.Process  # the one that the connection belongs to
    _turn: Any  # a threading.RLock: reentrant, for signal handlers that use the client
    _waiters: set[int]  # the threads that wait for a turn, or have it after a wait
    _options_lock: threading.RLock  # held while the options are changed or copied
    _out_of_sync: bool
    _command_timeout: float  # seconds
    _listeners: list[Listener]  # a pool's clients share one list
    _deadline: float  # when the running command must have ended, in monotonic() time
    _expired: bool  # whether the watchdog has ended the running command

    _credentials: tuple[str | None, str | None] = (None, None)  # username and password
    _missed_on: Any = None  # the connections on which a read has found nothing twice
    _child_client: Any = None

    def _prepare(self, command_timeout: float) -> None:
        """What a new client and a new clone need."""
        self._turn = threading.RLock()
        self._waiters = set()
        self._options_lock = threading.RLock()
        self._out_of_sync = self._credentials[0] is not None  # so that it logs in first
        self._command_timeout = command_timeout
        self._listeners = []
        self._deadline = NEVER
        self._expired = False
        self._process = forks.current  # last, for the finaliser of a client that is not complete
        watchdog.watch(self)
        opened_here.add(self)

    def _command(
        self, command: Callable[..., Any], args: tuple[Any, ...], limit: float | None = None
    ) -> Any:
        """Run ``command(*args)``. The first of *args* is this client.

        :param limit: seconds, in place of ``command_timeout``.
        """
        if not same_process:
            forks.enter_child()
        if self._process is not forks.current:
            here = self._here()
            return here._command(command, (here, *args[1:]), limit)
        if limit is None:
            limit = self._command_timeout
        # While others wait, it waits as they do: acquire() has no time limit, and between two
        # commands there is no deadline. A thread that has the turn for several commands counts as
        # one that waits, and a listener may use the client in the turn of a command.
        turn = self._turn
        if self._deadline is not NEVER or self._waiters or (self._listeners and turn._is_owned()):
            return run_after_another(self, command, args, limit)
        has_turn = False
        try:  # and not "with", which takes twice as long
            has_turn = turn.acquire()
            return self._run_now(command, args, limit)
        finally:
            try:
                if has_turn or turn._is_owned():  # an interrupt may come before it is noted
                    turn.release()
            except BaseException:  # an interrupt
                if turn._is_owned():
                    turn.release()
                raise

    def _run_now(self, command: Callable[..., Any], args: tuple[Any, ...], limit: float) -> Any:
        """Run ``command(*args)`` in the thread that has the turn."""
        is_sent = False
        deadline = monotonic() + limit
        try:
            self._expired = False
            self._deadline = deadline
            if deadline < watchdog.wakes_at:
                watchdog.wake()
            if self._out_of_sync and command is not disconnect_all:
                self._resynchronize()
            self._out_of_sync = is_sent = True
            try:
                result = command(*args)
            except failures.OF_A_GONE_SERVER as error:
                result = run_elsewhere(self, error, command, args)
            if result is MISS:
                result = confirmed(self, command, args)
            elif result is False:
                check_memory(self, command.__name__)
            # Before the deadline: the command of a signal handler that comes later may fail.
            # After disconnect_all, the next command looks whether the server rests.
            self._out_of_sync = command is disconnect_all
            self._deadline = NEVER  # before the look at _expired: see the watchdog
            if self._expired:
                self._out_of_sync = True
                # Python may have taken long to read an answer that came in time. That is returned.
                if result is MISS or result is False:
                    raise self._expiry(command.__name__)
        except Exception as error:
            error = readable(error)
            self._out_of_sync = not (is_sent and failures.leaves_sync(error, len(self.addresses)))
            self._deadline = NEVER
            if self._expired:
                self._out_of_sync = True
            # A signal handler's exception is no failure of memcached, and reaches the caller.
            is_own = failures.is_own(error)
            if is_own:
                if self._expired and not isinstance(error, failures.CommandExpired):
                    error = self._expiry(command.__name__, error)
                error = explained(self, error)
            forgiven = is_own and self._forgives(error)
            result = failures.result_of_failure(command.__name__, args)
            if self._listeners:
                tell(self, command, args, result, error, deadline - limit)
            if not forgiven:
                raise error
            return result
        except BaseException:
            self._out_of_sync = True  # a signal handler may have changed it
            raise
        finally:
            # Again, for an interrupt above: while there is a deadline, each command counts
            # as one of a signal handler.
            self._deadline = NEVER
        if self._listeners:
            tell(self, command, args, result, None, deadline - limit)
        return result

    def observe(self, listener: Listener) -> Callable[[], None]:
        """Call *listener* after each command of this client and of its clones, with a
        :class:`~mcpool_wsgi.CommandEvent`.

        The clients of a pool are no such clones. They call the listeners of the pool. Other
        threads wait for their turn on this client until the listener has returned.

        :return: a function that ends it.
        :raises TypeError: *listener* cannot be called.
        """
        return observe(self._listeners, listener)

    def _resynchronize(self) -> None:
        self._check_rest()
        self._disconnect()
        if self._credentials[0] is not None:
            log_in(self)

    def _disconnect(self) -> None:
        self._missed_on = None
        # libmemcached reads what is left of an answer before it closes a connection, and some
        # answers never end. With several servers, it would leave out those that are shut down.
        try:
            if len(self.addresses) == 1:
                sockets.shut_down(self)
            native.disconnect_all(self)
        except BaseException:  # an interrupt: a connection that is shut down must not be used
            native.disconnect_all(self)
            raise

    def _expiry(self, command: str, cause: Exception | None = None) -> failures.CommandExpired:
        expiry = failures.CommandExpired(
            f"{command} was ended after command_timeout, {self._command_timeout:g} s, without an"
            f" answer from {self._shown_addresses}"
        )
        expiry.__cause__ = cause
        return expiry

    def _forgives(self, error: Exception) -> bool:
        """Note the *error* of a command. Return whether its caller gets a miss instead of it."""
        self._expired = False
        if not failures.is_unavailable(error):
            return False
        self._note_failure(error)
        return self._fail_soft

    def _copy(self: _Self) -> _Self:
        # Copies options and addresses only: neither reads nor writes a socket.
        copy: _Self = super().clone()
        return copy

    def _clone(self: _Self) -> _Self:
        clone = self._copy()
        clone._credentials = self._credentials
        clone._prepare(self._command_timeout)
        clone._fail_soft = self._fail_soft
        clone._listeners = self._listeners
        clone.on_connection_failure = self.on_connection_failure
        return clone

    def clone(self: _Self) -> _Self:
        """A client with the same servers and options, and no connection yet."""
        child_client: _Self | None = self._child_client
        if child_client is not None and child_client._process is forks.current:
            return child_client._clone()  # with the behaviors that were set in this child
        return self._clone()

    def _here(self: _Self) -> _Self:
        """This client or, in a forked child, the child's client in its place."""
        if not forks.is_foreign(self._process):
            return self
        child_client: _Self | None = self._child_client
        if child_client is None or child_client._process is not forks.current:
            self._child_client = self._clone()  # for what a subclass's clone() asks of this one
            child_client = self._child_client = self.clone()
        return child_client

    def __del__(
        self,
        keep_if_foreign: Callable[..., bool] = forks.keep_if_foreign,
        is_finalizing: Callable[[], bool] = sys.is_finalizing,
    ) -> None:
        try:
            process = self._process
        except AttributeError:  # interrupted while it was made
            return
        if keep_if_foreign(self, process):
            self._child_client = None  # its connection would stay open as well
            # If this is the first to notice the fork, the garbage collector has cleared the weak
            # reference by which the child would find it.
            if not is_finalizing():
                sockets.close_inherited(self)
        elif self._out_of_sync:
            sockets.shut_down(self)  # to free it closes the connection: see _disconnect()
