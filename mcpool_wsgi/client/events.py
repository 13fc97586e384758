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

A command that asks for nothing is no event: ``disconnect_all``, one with no key or an empty one,
and one whose arguments are refused, with an :exc:`~mcpool_wsgi.InvalidKey` for example. If
``incr``, ``decr`` and ``cas`` get an empty key, that is an event, because pylibmc refuses it. A
failure is an event although nothing was sent: the server rests, or the turn did not come.

A listener is called in the thread of the command, after it. If it raises an exception, that is
logged, and the command goes on. An exception that a signal handler raises meanwhile reaches the
caller.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterable
from time import monotonic
from typing import Any, Callable, NamedTuple, TypeVar

import pylibmc

from . import failures
from .keys import Key

logger: logging.Logger = logging.getLogger("mcpool_wsgi.client")


class CommandEvent(NamedTuple):
    """One command that has ended."""

    #: Its name in pylibmc: ``get``, ``set_multi``.
    command: str
    #: How long it took. The wait for a client or for a turn is not in it, but if the turn did not
    #: come in time, it is that wait.
    seconds: float
    #: ``hit`` or ``miss`` (of reads, ``incr``, ``decr``, ``touch`` and ``delete``),
    #: ``stored`` or ``not stored``, ``done`` (of others), ``failure`` (memcached could not do
    #: it, or the turn did not come, with ``fail_soft`` as well) or ``error`` (the caller asked for
    #: something wrong).
    outcome: str
    #: How many keys it had.
    keys: int
    #: How many of them a read has found.
    hits: int
    #: How many of them a read has not found.
    misses: int
    #: What memcached or pylibmc said of a failure or an error, or if ``incr`` or ``decr`` missed.
    error: Exception | None
    #: The servers of the client. If there is one, the command went to it.
    servers: list[Any]
    #: The keys, with their prefix and without the ``namespace``. They may be personal data.
    key_names: list[Key]


# Half the time of CommandEvent(...), and this is in the time of each command.
_new_event = tuple.__new__

Listener = Callable[[CommandEvent], object]
_Function = TypeVar("_Function", bound=Callable[..., object])


def tell(
    client: Any,
    command: Callable[..., Any],
    args: tuple[Any, ...],
    result: Any,
    error: Exception | None,
    began: float,
) -> None:
    """Tell the listeners of *client* of a *command* that has ended with *result* or *error*.

    :param args: of the command. The first is the client.
    :param began: when it did, in monotonic() time.
    """
    seconds = monotonic() - began
    name = command.__name__
    outcome, hits, misses, keys = _summaries.get(name, _done)(args, result)
    if error is not None:
        hits = misses = 0
        outcome = _outcome_of_error(name, error)
    elif not any(keys) and name not in _WITHOUT_KEYS:
        return  # nothing was sent
    event = _new_event(
        CommandEvent,
        (name, seconds, outcome, len(keys), hits, misses, error, client.addresses, keys),
    )
    for listener in tuple(client._listeners):
        try:
            listener(event)
        except Exception as failure:
            if failures.is_of_signal_handler(failure):
                raise
            logger.exception("a listener failed at %s", name)


def _outcome_of_error(command: str, error: Exception) -> str:
    if isinstance(error, pylibmc.NotFound) and _summaries.get(command) is _used:
        return "miss"
    return "failure" if failures.is_unavailable(error) else "error"


# What each kind of command has done: the outcome, hits, misses and the keys.
_Summary = tuple[str, int, int, list[Key]]


def _read(args: tuple[Any, ...], value: Any) -> _Summary:
    if value is failures.MISS:
        return "miss", 0, 1, [args[1]]
    return "hit", 1, 0, [args[1]]


def _read_many(args: tuple[Any, ...], found: dict[Key, Any]) -> _Summary:
    keys = _different(args[1])
    hits = len(found)
    return "hit" if hits else "miss", hits, max(len(keys) - hits, 0), keys


def _stored(args: tuple[Any, ...], is_stored: bool) -> _Summary:
    return "stored" if is_stored else "not stored", 0, 0, [args[1]]


def _stored_many(args: tuple[Any, ...], failed: list[Key]) -> _Summary:
    return "not stored" if failed else "stored", 0, 0, _different(args[1])


def _used(args: tuple[Any, ...], result: Any) -> _Summary:
    return "miss" if result is False else "hit", 0, 0, [args[1]]


def _done(args: tuple[Any, ...], result: Any) -> _Summary:
    return "done", 0, 0, []


def _different(keys: Iterable[Key]) -> list[Key]:
    return list(dict.fromkeys(filter(None, keys)))  # one that was given twice is one key


_WITHOUT_KEYS = {"flush_all", "get_stats"}
_summaries: dict[str, Callable[[tuple[Any, ...], Any], _Summary]] = {
    **dict.fromkeys(("get", "gets"), _read),
    **dict.fromkeys(("set", "add", "replace", "append", "prepend", "cas"), _stored),
    **dict.fromkeys(("incr", "decr", "touch", "delete"), _used),
    "get_multi": _read_many,
    **dict.fromkeys(("set_multi", "add_multi"), _stored_many),
}


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
