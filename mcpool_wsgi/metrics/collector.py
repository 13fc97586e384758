"""
Collector
=========

What a registry of ``prometheus_client`` asks for the figures of pools.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from weakref import WeakValueDictionary

from prometheus_client import Metric

from ..pool import Pool, pools_by_name
from .families import Figures, families
from .recorder import Recorder
from .workers import DIRECTORY, Publisher


class PoolCollector:
    """A collector for a registry of ``prometheus_client``.

    It refers to the pools weakly. A pool that nothing else refers to is absent from the
    next scrape. A closed pool stays, with its last counts.

    :param pools: a pool, pools that have different ``name``, or ``{name: pool}``. A registry takes
        one collector, so give all pools here.
    :raises TypeError: one of them is no pool of this package, or a name is no str.
    :raises ValueError: two pools have the same name, or ``PROMETHEUS_MULTIPROC_DIR`` is set and
        is no directory.
    """

    def __init__(self, pools: Pool | Iterable[Pool] | Mapping[str, Pool]) -> None:
        named = pools_by_name(pools)
        directory = os.environ.get(DIRECTORY)
        self._publisher = None if directory is None else Publisher(directory, self._collect_news)
        self._pools: WeakValueDictionary[str, Pool] = WeakValueDictionary(named)
        self._recorders = {name: Recorder(self._on_first_command) for name in named}
        self._published: dict[str, float] = {}
        for name, pool in named.items():
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
