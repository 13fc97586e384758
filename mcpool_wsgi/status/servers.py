"""
Status page: servers
====================

What each memcached says about itself. All are asked at the same time, each on a connection and in
a thread of its own. Servers that do not answer in time cost one second together.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from functools import partial
from time import monotonic
from typing import Any, Callable

from .. import forks
from ..client import Client, CommandEvent, original_thread_function
from ..pool import Pool
from .history import hit_rate

LIMIT = 1.0  # seconds for all servers together
COMMAND_LIMIT = 0.8  # for one: a client then says what was wrong before LIMIT is over
PAUSE = 0.002  # seconds between two looks for an answer
LATE = 10.0  # seconds: an answer that came after LIMIT is for a look within this time

#: The figures of a server, and the names that memcached has for them.
FIGURES = {
    "items": "curr_items",
    "bytes": "bytes",
    "max_bytes": "limit_maxbytes",
    "evictions": "evictions",
    "hits": "get_hits",
    "misses": "get_misses",
    "connections": "curr_connections",
    "uptime": "uptime",
}


class Question:
    """Asks the servers of a client, which nobody else uses, for their statistics.

    :param make_client: makes the client.
    """

    def __init__(self, make_client: Callable[[], Any]) -> None:
        self._make_client = make_client
        self.found: list[tuple[bytes, dict[str, bytes]]] = []
        # Only its text: an exception would keep the client, and with it the connection.
        self.error: str | None = None
        self._ended_at: float | None = None

    def start(self) -> None:
        """Ask in a thread: with gevent, too, because no greenlet runs while a command is in C."""
        original_thread_function("start_new_thread")(self._run, ())

    def _run(self) -> None:
        try:
            client = self._make_client()
            if isinstance(client, Client):
                client.observe(self._note_event)  # with fail_soft, it raises no error
            self.found = client.get_stats()
        except Exception as error:
            self.note(error)
        finally:
            self.end()

    def end(self) -> None:
        """Nothing more will be known."""
        self._ended_at = monotonic()

    def wait(self, deadline: float) -> bool:
        """Wait for its end until *deadline*, in monotonic() time. Return whether it has ended."""
        while self._ended_at is None and monotonic() < deadline:
            time.sleep(PAUSE)  # no lock: with gevent, a greenlet waits for a thread
        return self._ended_at is not None

    def is_old(self) -> bool:
        """Whether the answer is of the past."""
        return self._ended_at is not None and monotonic() - self._ended_at > LATE

    def _note_event(self, event: CommandEvent) -> None:
        if event.error is not None:
            self.note(event.error)

    def note(self, error: Exception) -> None:
        """This is why there is no answer."""
        self.error = f"{type(error).__name__}: {error}"


class Servers:
    """The servers of some pools. It asks each of them once at a time."""

    def __init__(self) -> None:
        self._reset_in_child()
        forks.reset_in_child(self)

    def _reset_in_child(self) -> None:
        self._under_way: dict[str, Question] = {}  # a child has none of the threads

    def ask(self, pools: Mapping[str, Pool]) -> list[dict[str, Any]]:
        """A dict for each server. It takes LIMIT seconds at most."""
        end = monotonic() + LIMIT
        users: dict[str, list[str]] = {}
        for name, pool in pools.items():
            for address, make_client in clients_of(pool.master):
                if address not in users:
                    users[address] = []
                    self._begin(address, make_client)
                users[address].append(name)
        return [
            {"address": name, "pools": users[address], **answer}
            for address in users
            for name, answer in self._answers(address, end)
        ]

    def _begin(self, address: str, make_client: Callable[[], Any]) -> None:
        # One that is late, because it looks up a name perhaps, is not asked again meanwhile.
        question = self._under_way.get(address)
        if question is None or question.is_old():
            question = Question(make_client)
            try:
                question.start()
            except RuntimeError as error:  # there are too many threads
                question.note(error)
                question.end()
            self._under_way[address] = question

    def _answers(self, address: str, end: float) -> list[tuple[str, dict[str, Any]]]:
        question = self._under_way[address]
        if not question.wait(end):
            return [(address, no_answer(f"no answer within {LIMIT:g} s"))]
        del self._under_way[address]
        if question.error is not None:
            return [(address, no_answer(question.error))]
        if len(question.found) == 1:
            return [(address, figures(question.found[0][1]))]
        return [(text(name), figures(stats)) for name, stats in question.found]


def clients_of(master: Any) -> Iterable[tuple[str, Callable[[], Any]]]:
    """The servers of *master*, and for each what makes a client of its own for it."""
    if isinstance(master, Client):
        for address in master.addresses:
            # Not of a subclass, which may have an __init__ of its own.
            yield shown(address), partial(master._like_this, Client, [address], COMMAND_LIMIT)
    elif callable(getattr(master, "get_stats", None)):
        # Somebody else's client. It asks all its servers, and has time limits of its own.
        addresses = getattr(master, "addresses", None) or [type(master).__name__]
        yield ", ".join(map(shown, addresses)), master.clone


def shown(address: Any) -> str:
    """An *address* of pylibmc as text."""
    return address if isinstance(address, str) else "{1}:{2}".format(*address)


def text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def no_answer(error: str) -> dict[str, Any]:
    """What is known of a server that does not answer."""
    return {"error": error, "version": None, **dict.fromkeys([*FIGURES, "hit_rate"])}


def figures(stats: Mapping[str, bytes]) -> dict[str, Any]:
    """The figures of a server. One that it does not have is None."""
    found: dict[str, Any] = {}
    for name, key in FIGURES.items():
        value = stats.get(key, b"")
        found[name] = int(value) if value.isdigit() else None
    version = stats.get("version")
    return {
        "error": None,
        "version": version and text(version),
        **found,
        "hit_rate": hit_rate(found["hits"] or 0, found["misses"] or 0),
    }
