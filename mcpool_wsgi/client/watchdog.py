"""
Watchdog
========

The time limit for a whole command. libmemcached limits each wait of a command, but not the
command: a server that sends one byte per 0.4 seconds holds a ``get`` for many seconds. So one
thread of each process watches all commands. When a command has run for too long, the thread
shuts its sockets down (:mod:`mcpool_wsgi.client.sockets`). The command then fails as if its
servers had closed their connections.

A client does this for each command:

.. code-block:: python

    client._expired = False
    client._deadline = deadline = monotonic() + limit
    if deadline < watchdog.wakes_at:
        watchdog.wake()
    try:
        ...  # run the command in C
    finally:
        client._deadline = math.inf
    if client._expired:
        ...  # the watchdog has shut the sockets down, or was about to: disconnect

**A command takes no lock.** The watchdog first sets ``wakes_at`` to infinity. Then it reads all
deadlines. Then it sets ``wakes_at`` to the earliest deadline and sleeps until then. A command
first writes its deadline and then reads ``wakes_at``. So one of the two always sees the other.
If the watchdog did not see the new deadline, the command sees the new ``wakes_at``. If that is
later than its deadline, the command wakes the watchdog.

**The watchdog sleeps while no command runs.** The number of idle clients does not matter.
Under a steady load the watchdog wakes once or twice per limit, because most commands end long
before their deadline.

**The watchdog repeats the shutdown** while the same command goes on, every millisecond. So the
time does not add up when many servers hang one after the other.

**A command may end at its deadline.** The watchdog compares the deadline again right before
each shutdown. In CPython 3.11 and later no other thread runs Python code in between. So a
client that sets ``_deadline`` to infinity, *and then* reads ``_expired``, always knows whether
its sockets may have been shut down. In CPython 3.9 and 3.10 the next command of the client can
begin in between, and its socket is shut down. This command then raises an error, or is a miss,
as after any lost connection. It never gets a wrong value: a socket that was shut down delivers
the bytes that it had received, in their order, and then the end of the stream.

**Forks.** A child starts its own thread, for its own clients, when it first needs one. It uses
nothing of the parent's watchdog. Where the process is forked in C, the usual rule for threads
holds: CPython can hang in the child if another thread waited for the interpreter lock.

**What the watchdog cannot end:** the look-up of a server's name, and what pylibmc does while
it holds the interpreter lock. That is the end of ``gets``, which waits for ``END`` after the
value. The limit of libmemcached for each wait still holds there (``_poll_timeout``).

If no thread can be started, commands have no such limit, and a warning is logged. It is tried
again when the next client is made. Commands have no limit either while a sub-interpreter ends
(:mod:`mcpool_wsgi.interpreters`).
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import math
import sys
import threading
from time import monotonic
from typing import Any, Protocol

from .. import forks, interpreters
from . import libmemcached, sockets
from .failures import is_own

logger: logging.Logger = logging.getLogger(__name__)

#: The deadline of a client while no command runs.
NEVER = math.inf
SHORTEST_LIMIT = 0.001  # seconds for what remains of a command
REPEAT = 0.001  # seconds after which the sockets of an expired command are shut down again
START_TIMEOUT = 1.0  # seconds that the first command waits for the thread


class Watched(Protocol):
    """A client that :meth:`Watchdog.watch` watches."""

    #: When its command must have ended, in seconds of ``time.monotonic()``. Infinity if no
    #: command runs.
    _deadline: float
    #: Whether the watchdog has ended its command.
    _expired: bool


class Watchdog:
    """Ends the commands that are still running at their deadline.

    There is one for all clients of a process, :data:`watchdog`.
    """

    #: When it looks at the deadlines next, in seconds of ``time.monotonic()``. A command with an
    #: earlier deadline calls :meth:`wake`.
    wakes_at: float

    def __init__(self) -> None:
        self._reset()
        forks.reset_in_child(self)
        interpreters.at_end(self._end)

    def _reset(self) -> None:
        # The parent's clients are dropped, too: one that was in a command when the process was
        # forked has a deadline for ever, and a shutdown would end the parent's connection.
        self._clients = forks.WeakList()
        self._alarm: Any = None  # a lock, which the thread waits for, and wake() releases
        self._thread: int | None = None  # its ident
        self._permits: list[None] = [None]  # to start the thread: pop() gives it to one only
        self.wakes_at = math.inf
        self._process = forks.current

    def _reset_in_child(self) -> None:
        # In a child, is_foreign() may come here by itself, and pools may then have registered
        # their new clients already. So look again.
        if forks.is_foreign(self._process) and self._process is not forks.current:
            self._reset()

    def watch(self, client: Watched) -> None:
        """Watch the commands of *client*, which is held weakly.

        :param client: its two attributes must be set already.
        """
        self._reset_in_child()
        self._clients.add(client)
        if self._permits and self.wakes_at == -math.inf:  # no thread could be started
            self.wakes_at = math.inf

    def wake(self) -> None:
        """Make the watchdog look at all deadlines now. Starts its thread if there is none."""
        self._reset_in_child()
        alarm = self._alarm
        if alarm is None:
            self._start()
            return
        try:
            alarm.release()
        except RuntimeError:
            # It has no name here: an interrupt before the name is gone would leave a circle.
            if not is_own(sys.exc_info()[1]):  # a signal handler's. Else it is awake already.
                raise

    def _start(self) -> None:
        if _interpreter_ends():
            return  # a thread that is started now may crash it
        try:
            try:
                self._permits.pop()
            except IndexError as error:
                if not is_own(error):  # a signal handler's
                    raise
                return  # another thread starts it, or the code that a signal handler interrupted
            allocate_lock = original_thread_function("allocate_lock")
            start_new_thread = original_thread_function("start_new_thread")
            alarm, begun = allocate_lock(), allocate_lock()
            alarm.acquire()
            begun.acquire()
            self._alarm = alarm
            try:
                start_new_thread(self._run, (alarm, begun))
            except RuntimeError as error:
                if type(error) is not RuntimeError and not is_own(error):  # a signal handler's
                    raise
                self._alarm = None
                self.wakes_at = -math.inf  # so that no command tries again before watch()
                self._permits[:] = [None]
                logger.warning("commands have no time limit, because no thread starts: %s", error)
                return
            # If the program ended before the thread has begun, CPython 3.10 could crash.
            begun.acquire(True, START_TIMEOUT)
            libmemcached.log_failure()  # not in the thread, which ends commands
        except BaseException:  # an interrupt: the next command tries again
            self._alarm = None
            self.wakes_at = math.inf  # the thread may have looked already
            self._permits[:] = [None]
            raise

    def _end(self) -> None:
        """End the thread for ever, and wait for that."""
        self._reset_in_child()
        alarm, self._alarm = self._alarm, None
        self._permits.clear()
        if alarm is not None:
            with contextlib.suppress(RuntimeError):  # it is awake already
                alarm.release()
            interpreters.wait_for_thread(self._thread)

    def _run(self, alarm: Any, begun: Any) -> None:
        self._thread = original_thread_function("get_ident")()
        # Here, because no signal handler can break it off: it would count as failed for ever.
        if libmemcached.calibrated() is None and self._alarm is alarm:
            self._alarm = None
            if libmemcached.has_failed():
                self.wakes_at = -math.inf  # so that no command tries again
            else:
                self._permits[:] = [None]
        begun.release()
        try:
            while self._alarm is alarm:
                seconds = self._look() - monotonic()
                if self._alarm is not alarm:  # its start was interrupted before wakes_at was set
                    self.wakes_at = math.inf
                elif seconds == math.inf:
                    alarm.acquire()
                elif seconds > 0:
                    alarm.acquire(True, min(seconds, _thread.TIMEOUT_MAX))
        finally:
            if self._alarm is alarm:  # an error: the next command starts another thread
                self._alarm = None
                self._permits.append(None)
                self.wakes_at = math.inf

    def _look(self) -> float:
        """Look at all deadlines, and end the commands that are late.

        :return: when to look again, in seconds of ``time.monotonic()``.
        """
        self.wakes_at = math.inf  # before any deadline is read
        now = monotonic()
        earliest = math.inf
        late: list[tuple[Watched, float]] = []
        for reference in self._clients.references():
            client: Watched | None = reference()
            if client is None:
                continue
            deadline = client._deadline
            if deadline <= now:
                late.append((client, deadline))
                # The interval grows, because an interrupt can leave an idle client a deadline.
                deadline = now + max(REPEAT, (now - deadline) / 1000)
            if deadline < earliest:
                earliest = deadline
        self.wakes_at = earliest
        for client, deadline in late:
            self._expire(client, deadline)
        return earliest

    def _expire(self, client: Watched, deadline: float) -> None:
        # No other thread runs between the comparison and the assignment.
        if client._deadline == deadline:
            client._expired = True
            sockets.abort(client, lambda: client._deadline == deadline)


def _interpreter_ends() -> bool:
    main = threading.main_thread()
    if main.is_alive():
        return False
    # It counts as ended while the interpreter waits for the threads that are no daemons.
    return threading.get_ident() == main.ident or all(
        thread.daemon for thread in threading.enumerate() if thread is not main
    )


def original_thread_function(name: str) -> Any:
    """A function of _thread, as it was before gevent or eventlet replaced it.

    Theirs makes greenlets, and no greenlet runs while a command is in C.
    """
    gevent_monkey: Any = sys.modules.get("gevent.monkey")
    if gevent_monkey is not None:
        return gevent_monkey.get_original("_thread", name)
    eventlet_patcher: Any = sys.modules.get("eventlet.patcher")
    if eventlet_patcher is not None:
        return getattr(eventlet_patcher.original("_thread"), name)
    return getattr(_thread, name)


#: The watchdog of this process.
watchdog: Watchdog = Watchdog()
