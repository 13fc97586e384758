"""
Forks
=====

A forked child inherits the sockets of its parent. Data that the child sends on such a
socket goes out in the parent's name. Each answer reaches the process that reads
first. Even a client that is freed sends a ``quit``. So this module tells one process from
another, and it keeps clients of the parent from being freed in a child.

``os.register_at_fork`` is not enough: servers that fork in C (uWSGI) do not run its hooks.
A look at ``os.getpid()`` each time is enough, but it costs a system call. Linux 4.14 has
something better: a page of memory that the kernel wipes in every child,
``MADV_WIPEONFORK``. Random number generators use the same idea. The process ID is compared
where there is no such page, on macOS for example. QEMU 7.2, which emulates another processor for
some containers, takes any advice about memory and follows none. So nonsense is tried, too, as
BoringSSL does.

.. code-block:: python

    if not same_process:
        enter_child()
    if thing.process is not forks.current:
        ...  # another process made it: do not touch it

:data:`current` is an object that stands for the running process. Everything that owns a
connection remembers the value that was current when it was made.
"""

from __future__ import annotations

import _thread
import contextlib
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
NONSENSE = -1  # no advice that a kernel takes


class Mark(Protocol):
    """True in the process that set ``value``. False in a child, until the child sets it too."""

    value: bool


class PidMark:
    """The mark for kernels that wipe no pages."""

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
    page = _wiped_page()
    # The truth of a ctypes object is the fastest way to look at a byte of memory.
    mark: Mark = PidMark() if page is None else ctypes.c_bool.from_buffer(page)
    mark.value = True
    return mark


def _wiped_page() -> mmap.mmap | None:
    """A page of memory that every child finds wiped, or None if the system cannot do that."""
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        page.madvise(MADV_WIPEONFORK)
    except (AttributeError, OSError, ValueError):
        return None
    try:
        page.madvise(NONSENSE)
    except OSError:
        return page
    return None


class Process:
    """Stands for one process. Compare it by identity."""

    __slots__ = ()


#: The running process.
current: Process = Process()
#: True until this turns out to be a child of the process that :data:`current` stands for.
_is_current: Mark = make_mark()
#: Whether this process was forked in C while its parent had threads. For Python they still exist:
#: since 3.11, ``sys._current_frames()`` reads their stacks, where other data may be now.
has_dead_threads: bool = False
#: True until this turns out to be a child in which :func:`enter_child` has not yet finished.
same_process: Mark = make_mark()


class ForkAware(Protocol):
    """Something that must start again in a child, without what belongs to the parent."""

    def _reset_in_child(self) -> None: ...


class WeakList:
    """Things, each held weakly until it is freed. They may be equal.

    No Python code runs when one is freed: there, an interrupt would be swallowed.
    """

    def __init__(self) -> None:
        self._references: dict[int, weakref.ref[Any]] = {}  # each by its own id
        self._freed: list[weakref.ref[Any]] = []

    def add(self, thing: object) -> None:
        """Hold *thing*."""
        self._forget_freed()
        reference = weakref.ref(thing, self._freed.append)
        self._references[id(reference)] = reference

    def references(self) -> list[weakref.ref[Any]]:
        """Weak references to them, in the order in which they were added."""
        self._forget_freed()
        return list(self._references.values())

    def _forget_freed(self) -> None:
        while self._freed:
            with contextlib.suppress(IndexError):  # another thread was faster
                reference = self._freed.pop()
                self._references.pop(id(reference), None)


_fork_aware: WeakList = WeakList()


def reset_in_child(thing: ForkAware) -> None:
    """Call ``thing._reset_in_child()`` in every child, before any client is reserved there.

    *thing* is held weakly. Other threads of the child wait until all resets are done.
    """
    _fork_aware.add(thing)


# One lock for each process: another thread may have held the parent's lock during the fork.
_entering: dict[int, threading.RLock] = {}


def enter_child() -> None:
    """Note that this is another process than before."""
    global current, has_dead_threads
    with _entering.setdefault(os.getpid(), threading.RLock()):
        if same_process:  # another thread was faster
            return
        current = Process()
        has_dead_threads = _thread._count() > 0
        _is_current.value = True
        for reference in _fork_aware.references():
            thing = reference()
            if thing is not None:
                thing._reset_in_child()
        # Last, so that no thread goes on before everything is this process's own.
        same_process.value = True


def check_process() -> None:
    """Note it if this is another process than before."""
    if not same_process:
        enter_child()


def is_foreign(process: Process) -> bool:
    """Whether what was made under *process* belongs to another process than this one."""
    if not _is_current:
        enter_child()
    return process is not current


def keep_if_foreign(
    client: object,
    process: Process,
    # Finalisers find these here: the names of a module are gone before an interpreter ends.
    is_finalizing: Callable[[], bool] = sys.is_finalizing,
    is_foreign: Callable[[Process], bool] = is_foreign,
    incref: Callable[..., Any] = ctypes.pythonapi.Py_IncRef,
    py_object: Any = ctypes.py_object,
) -> bool:
    """Never free *client*, made under *process*, if that could harm another process.

    A freed client would send ``quit`` on a connection of the parent. When the interpreter
    ends, nothing tells any more whose connection it is, so the client is kept then, too.

    :return: whether the client is kept for ever.
    """
    kept = is_finalizing() or is_foreign(process)
    if kept:
        incref(py_object(client))
    return kept


def _after_in_child() -> None:
    """Where hooks run, the child notes the fork while it has one thread only."""
    global has_dead_threads
    enter_child()
    has_dead_threads = False  # Python has forgotten them before it runs the hooks
    # Not in enter_child(): logging may not have renewed its own locks yet.
    logger.info("process %d is a fork: its pools start without connections", os.getpid())


os.register_at_fork(after_in_child=_after_in_child)
