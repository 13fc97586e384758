"""
Collector
=========

What a registry of ``prometheus_client`` asks for the figures of pools.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Callable, Protocol
from weakref import WeakValueDictionary

from prometheus_client import Metric

from ..client import Listener
from ..pool import PoolStats
from .families import Figures, families
from .recorder import Recorder
from .workers import DIRECTORY, Publisher


class Pool(Protocol):
    """The part of a pool that :class:`PoolCollector` uses."""

    def stats(self) -> PoolStats: ...

    def observe(self, listener: Listener) -> Callable[[], None]: ...


class PoolCollector:
    """A collector for a registry of ``prometheus_client``.

    It refers to the pools weakly. A pool that nothing else refers to is absent from the
    next scrape. A closed pool stays, with its last counts.

    :param pools: ``{name: pool}``, or pools that have different ``name``. A registry takes one
        collector, so give all pools here.
    :raises TypeError: a name is no str, or a pool has no ``stats()`` or ``observe()``.
    :raises ValueError: two pools have the same name, or ``PROMETHEUS_MULTIPROC_DIR`` is set and
        is no directory.
    """

    def __init__(self, pools: Mapping[str, Pool] | Iterable[Any]) -> None:
        pools = _by_name(pools)
        directory = os.environ.get(DIRECTORY)
        self._publisher = None if directory is None else Publisher(directory, self._collect_news)
        self._pools: WeakValueDictionary[str, Pool]
        self._pools = WeakValueDictionary(pools)
        self._recorders = {name: Recorder(self._on_first_command) for name in pools}
        self._published: dict[str, float] = {}
        for name, pool in pools.items():
            pool.observe(self._recorders[name].note)

    def describe(self) -> Iterable[Metric]:
        """The metrics without figures. A registry finds duplicate names with them."""
        return families([])

    def collect(self) -> Iterable[Metric]:
        """The figures of this process."""
        return families(self._figures())

    def _figures(self) -> Iterator[Figures]:
        for name, pool in self._pools.items():
            recorder = self._recorders[name]
            stats = pool.stats()  # this notes a fork, so it comes first
            reservations = recorder.rising("reservations", stats.reservations)
            at_once = recorder.rising("at once", reservations + stats.timeouts - stats.waits)
            stats = replace(stats, reservations=reservations)
            yield Figures(name, stats, at_once, recorder.commands())

    def _on_first_command(self) -> None:
        if self._publisher is not None:
            self._publisher.start()

    def _collect_news(self) -> Iterator[Metric]:
        """The same, without ``mcpool_up`` if it is older than what was published last.

        Among several processes, the one that wrote it last is right.
        """
        news = []
        for figures in self._figures():
            number = figures.commands.number
            if number == self._published.get(figures.name):
                figures = figures._replace(commands=figures.commands._replace(up=None))
            self._published[figures.name] = number
            news.append(figures)
        return families(news)


def _by_name(pools: Mapping[str, Pool] | Iterable[Any]) -> dict[str, Pool]:
    if isinstance(pools, Mapping):
        pairs = list(pools.items())
    else:
        pairs = [(getattr(pool, "name", None), pool) for pool in pools]
    named: dict[str, Pool] = {}
    for name, pool in pairs:
        if not isinstance(name, str):
            raise TypeError(f"the name of a pool must be a str, not {name!r}")
        if name in named:
            raise ValueError(f"{named[name]!r} and {pool!r} have the same name")
        for method in ("stats", "observe"):
            if not callable(getattr(pool, method, None)):
                raise TypeError(f"pool {name!r} must have a method {method}(): {pool!r}")
        named[name] = pool
    return named
