"""
Processes
=========

A forked child inherits its parent's sockets. Whatever it sends on one, be it
only the ``quit`` that libmemcached sends when a client is freed, goes out in
its parent's name, and answers reach whoever reads first. So this module tells
one process from another, and keeps what belongs to the parent from being freed.

``os.register_at_fork`` alone does not tell: servers that fork in C (uWSGI) do
not run its hooks. Looking at ``os.getpid()`` each time does, at the price of a
system call. Linux (4.14 and later) has something better: a page of memory that
the kernel wipes in every child, ``MADV_WIPEONFORK``. It is the same idea that
random number generators use to notice a fork.

.. code-block:: python

    if not same_process:
        enter_child()
    if thing.process is not forks.current:
        ...  # made by another process: hands off

:data:`current` is an object that stands for the running process. Everything
that owns a connection remembers the one it was made under.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import sys
import threading
import weakref
from typing import Any, Callable, Protocol

logger: logging.Logger = logging.getLogger(__name__)

MADV_WIPEONFORK = 18  # <linux/mman.h>; the mmap module does not name it


class Mark(Protocol):
    """True in the process that set its ``value``, and false in a child until that does, too."""

    value: bool


class PidMark:
    """A mark where the kernel wipes no pages."""

    _pid: int | None = None

    def __bool__(self) -> bool:
        return self._pid == os.getpid()

    @property
    def value(self) -> bool:
        return bool(self)

    @value.setter
    def value(self, value: bool) -> None:
        self._pid = os.getpid() if value else None


def make_mark() -> Mark:
    """A mark that this process has set."""
    mark: Mark
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(MADV_WIPEONFORK)
    except (AttributeError, OSError, ValueError):
        mark = PidMark()
    else:
        # No way to look at a byte of memory is faster than the truth of a ctypes object.
        mark = ctypes.c_bool.from_buffer(page)
    mark.value = True
    return mark


class Process:
    """Stands for one process; compared by identity."""

    __slots__ = ()


#: The running process.
current: Process = Process()
#: True until this turns out to be a child of the process that :data:`current` stands for.
_is_current: Mark = make_mark()
#: True until this turns out to be a child in which :func:`enter_child` has not come to its end.
same_process: Mark = make_mark()


class Inheritor(Protocol):
    """What has connections of its own, and must have others in a child."""

    def _start_afresh(self) -> None: ...


_inheritors: set[weakref.ref[Inheritor]] = set()


def tell_in_child(inheritor: Inheritor) -> None:
    """Have *inheritor* start afresh in every child, before anything is lent there.

    It is held weakly. The child's other threads, if it has any yet, wait until all is done.
    """
    _inheritors.add(weakref.ref(inheritor, _inheritors.discard))


# A lock for each process: what was its parent's may be held for ever.
_entering: dict[int, threading.RLock] = {}


def enter_child() -> None:
    """Take note that this is another process than before."""
    global current
    with _entering.setdefault(os.getpid(), threading.RLock()):
        if same_process:  # another thread was faster
            return
        current = Process()
        _is_current.value = True
        for reference in _inheritors.copy():
            inheritor = reference()
            if inheritor is not None:
                inheritor._start_afresh()
        # Last, so that no thread sees the mark before the pools are this process's own.
        same_process.value = True


def check_process() -> None:
    """Take note if this is another process than before."""
    if not same_process:
        enter_child()


def from_elsewhere(process: Process) -> bool:
    """Whether what was made under *process* belongs to another process than this one."""
    if not _is_current:
        enter_child()
    return process is not current


def spare(
    client: object,
    process: Process,
    # Kept here for finalisers: the names of a module are gone before an interpreter ends.
    is_finalizing: Callable[[], bool] = sys.is_finalizing,
    from_elsewhere: Callable[[Process], bool] = from_elsewhere,
    incref: Callable[..., Any] = ctypes.pythonapi.Py_IncRef,
    py_object: Any = ctypes.py_object,
) -> bool:
    """Never free *client*, made under *process*, if that could harm another process.

    It would send ``quit`` on a connection that is the parent's. Whose it is cannot be told
    any more when the interpreter ends.

    :return: whether it is kept.
    """
    kept = is_finalizing() or from_elsewhere(process)
    if kept:
        incref(py_object(client))
    return kept


def _after_in_child() -> None:
    """Where hooks run, a child takes note while it has one thread only."""
    enter_child()
    # Not in enter_child(), where logging may not have renewed its locks yet.
    logger.info("process %d is a fork: its pools start without connections", os.getpid())


os.register_at_fork(after_in_child=_after_in_child)
