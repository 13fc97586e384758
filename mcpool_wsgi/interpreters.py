"""
Interpreters
============

A process can have several interpreters. mod_wsgi runs each application group in one of its own,
and ends it before the process ends. A thread that still exists then crashes the process. So the
threads of this package end before a sub-interpreter does. In the main interpreter, they go on for
as long as they can, because Python itself stops them there.

mod_wsgi frees the state of all threads before it calls the functions of ``atexit``. A thread that
runs after that crashes. So mod_wsgi is asked to announce the end earlier.
"""

from __future__ import annotations

import atexit
import ctypes
import sys
import time
from typing import Any, Callable

LONGEST_END = 2.0  # seconds to wait for a thread
LOOK = 0.001  # seconds between two looks


def is_main() -> bool:
    """Whether this is the main interpreter, which is the only one in most programs."""
    try:
        return _address_from("PyInterpreterState_Get") == _address_from("PyInterpreterState_Main")
    except AttributeError:  # the program does not show the functions of its Python
        return True


def _address_from(name: str) -> int | None:
    function: Any = ctypes.PyDLL(None)[name]  # not the shared function of ctypes.pythonapi
    function.restype, function.argtypes = ctypes.c_void_p, ()
    return function()  # type: ignore[no-any-return]


def at_end(stop: Callable[[], object]) -> None:
    """Call *stop* before this interpreter ends, if it is a sub-interpreter."""
    if is_main():
        return
    subscribe: Any = getattr(sys.modules.get("mod_wsgi"), "subscribe_shutdown", None)
    if subscribe is None:
        atexit.register(stop)
    else:
        subscribe(lambda *event, **details: stop())


def wait_for_thread(ident: int | None) -> None:
    """Wait until the thread with this *ident* has ended. It must be about to."""
    # A thread has no frame any more once it can run no code. It then keeps the interpreter lock
    # until it has left the interpreter.
    deadline = time.monotonic() + LONGEST_END
    while ident in sys._current_frames() and time.monotonic() < deadline:
        time.sleep(LOOK)
