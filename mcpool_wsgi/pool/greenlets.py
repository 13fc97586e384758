"""
Greenlets
=========

With gevent or eventlet, one thread serves many requests, each in a greenlet. Another greenlet runs
when one waits for a lock or a socket of Python, and none runs while a command is in C.
"""

from __future__ import annotations

import threading


def are_used() -> bool:
    """Whether gevent or eventlet has replaced the locks of threads by its own."""
    return threading.Lock.__module__ != "_thread"
