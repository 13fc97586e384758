"""
Command events
==============

What was done, told to those who listen: metrics, traces, logs. If nobody listens, a command only
looks whether somebody does.

.. code-block:: python

    def listener(event):
        print(event.command, event.outcome, event.seconds)

    stop = pool.observe(listener)
    ...
    stop()

``incr_multi`` and ``delete_multi`` are one event for each key, an ``incr`` or a ``delete``. With
several servers, ``flush_all`` and ``get_stats`` are one event for each server.

A listener is called in the thread of the command, after it. If it raises an exception, that is
logged, and the command goes on. An exception that a signal handler raises meanwhile reaches the
caller.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from typing import Any, Callable, NamedTuple, TypeVar

import pylibmc

from . import failures
from .keys import Key

logger: logging.Logger = logging.getLogger("mcpool_wsgi.client")

_STORING = {"set", "add", "replace", "append", "prepend", "cas"}
_STORING_MANY = {"set_multi", "add_multi"}
_OF_EXISTING_KEYS = {"incr", "decr", "touch", "delete"}


class CommandEvent(NamedTuple):
    """One command that has ended."""

    #: Its name in pylibmc: ``get``, ``set_multi``.
    command: str
    #: How long it took. The wait for a client or for a turn is not in it.
    seconds: float
    #: ``hit`` or ``miss`` (of reads, ``incr``, ``decr``, ``touch`` and ``delete``),
    #: ``stored`` or ``not stored``, ``done`` (of others), ``failure`` (memcached could not do
    #: it, with ``fail_soft`` as well) or ``error`` (the caller asked for something wrong).
    outcome: str
    #: How many keys it had.
    keys: int
    #: How many of them a read has found.
    hits: int
    #: How many of them a read has not found.
    misses: int
    #: What memcached or pylibmc said of a failure or an error.
    error: Exception | None
    #: The servers of the client. If there is one, the command went to it.
    servers: list[Any]
    #: The keys, with their prefix and without the ``namespace``. They may be personal data.
    key_names: list[Key]


Listener = Callable[[CommandEvent], object]
_Function = TypeVar("_Function", bound=Callable[..., object])


def tell(
    listeners: list[Listener],
    command: str,
    args: tuple[Any, ...],
    result: Any,
    error: Exception | None,
    seconds: float,
    servers: list[Any],
) -> None:
    """Tell all *listeners* of a *command* that has ended with *result* or *error*."""
    keys = _keys(command, args)
    outcome = _outcome(command, result, error, len(keys))
    # Half the time of CommandEvent(...), and this is in the time of each command.
    event = tuple.__new__(CommandEvent, (command, seconds, *outcome, error, servers, keys))
    for listener in tuple(listeners):
        try:
            listener(event)
        except Exception as failure:
            if failures.is_of_signal_handler(failure):
                raise
            logger.exception("a listener failed at %s", command)


def _keys(command: str, args: tuple[Any, ...]) -> list[Key]:
    if command == "get_multi" or command in _STORING_MANY:
        return list(dict.fromkeys(filter(None, args[0])))  # one that was given twice is one key
    return [args[0]] if args and command not in ("flush_all", "get_stats") else []


def _outcome(
    command: str, result: Any, error: Exception | None, keys: int
) -> tuple[str, int, int, int]:
    """The outcome, the number of keys, hits and misses."""
    if error is not None:
        if command in _OF_EXISTING_KEYS and isinstance(error, pylibmc.NotFound):
            return "miss", keys, 0, 0
        return "failure" if failures.is_unavailable(error) else "error", keys, 0, 0
    if command in ("get", "gets"):
        return ("miss", keys, 0, 1) if result is failures.MISS else ("hit", keys, 1, 0)
    if command == "get_multi":
        hits = len(result)
        return "hit" if hits else "miss", keys, hits, max(keys - hits, 0)
    if command in _STORING:
        return "stored" if result else "not stored", keys, 0, 0
    if command in _STORING_MANY:
        return "not stored" if result else "stored", keys, 0, 0
    if command in _OF_EXISTING_KEYS:
        return "miss" if result is False else "hit", keys, 0, 0
    return "done", keys, 0, 0


def observe(listeners: list[_Function], listener: _Function) -> Callable[[], None]:
    """Add *listener* to *listeners*.

    :return: a function that removes it. A second call does nothing.
    :raises TypeError: *listener* cannot be called.
    """
    if not callable(listener):
        raise TypeError(f"a listener is a function, not {listener!r}")
    told: Any = functools.partial(listener)  # equal to nothing else, as a listener may be
    listeners.append(told)

    def stop() -> None:
        with contextlib.suppress(ValueError):
            listeners.remove(told)

    return stop
