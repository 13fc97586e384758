"""
The system's resolver
=====================

``getaddrinfo`` has no time limit: if a name server hangs, it waits for half a minute or
more. So it runs in a thread, and the caller waits for a limited time.
"""

from __future__ import annotations

import _thread
import socket
import threading


def addresses(host: str, timeout: float, family: int = socket.AF_UNSPEC) -> list[str]:
    """The addresses of *host*, in the order in which to try them.

    :param timeout: seconds to wait.
    :param family: ``socket.AF_INET`` or ``socket.AF_INET6`` for one kind of them only.
    :raises OSError: it has none, or they are not known in time.
    :raises RuntimeError: no thread can be started.
    """
    found: list[str] = []
    errors: list[Exception] = []
    done = threading.Event()

    def look_up() -> None:
        try:
            for *_, address in socket.getaddrinfo(host, None, family, socket.SOCK_STREAM):
                found.append(str(address[0]))
        except Exception as error:
            errors.append(error)
        done.set()

    # Not a threading.Thread: its start() would wait for the thread, and an exit, too.
    _thread.start_new_thread(look_up, ())
    if not done.wait(max(0.0, timeout)):
        raise TimeoutError(f"the system has not looked up {host} within its time limit")
    if errors:
        raise errors[0]
    return found
