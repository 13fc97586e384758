"""Forked children, of Python and of C."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Callable

from harness import eventually

from mcpool_wsgi.client.watchdog import watchdog

_FIRST_PROCESS = os.getpid()


def in_child(work: Callable[[], object], fork: Callable[[], int] = os.fork) -> int:
    """Fork, do *work* in the child, and give the child's pid; it exits with 0 if all is well."""
    sys.stdout.flush()
    pid = fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def in_child_by_c(work: Callable[[], object]) -> int:
    """The same by a fork in C, which runs no hook of Python's, as uWSGI does it."""
    # A fork while another thread waits for the interpreter lock would hang CPython itself. A child
    # has only its watchdog, and after a fork in C CPython crashes when it looks for threads.
    if os.getpid() == _FIRST_PROCESS:
        eventually(others_rest)
    else:
        time.sleep(0.02)  # what has been woken goes to sleep again
    eventually(lambda: watchdog.wakes_at > time.monotonic() + 0.3)
    return in_child(work, ctypes.PyDLL(None).fork)


def others_rest() -> bool:
    """Whether all other threads wait for something, and not for the interpreter lock."""
    before = positions()
    time.sleep(0.02)
    return positions() == before


def positions() -> dict[int, tuple[FrameType, int]]:
    frames = sys._current_frames()
    del frames[threading.get_ident()]
    return {thread: (frame, frame.f_lasti) for thread, frame in frames.items()}


FORKS = [in_child, in_child_by_c]


def succeeds(pid: int) -> None:
    """The child *pid* ends, and all was well."""
    statuses: list[int] = []

    def ended() -> bool:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            statuses.append(status)
        return bool(found)

    try:
        eventually(ended, "the child hangs", deadline=60)
    except AssertionError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    code = os.waitstatus_to_exitcode(statuses[0])
    assert code == 0, f"the child ended with {code}"
