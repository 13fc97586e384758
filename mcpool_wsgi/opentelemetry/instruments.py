"""
Instruments
===========

The instruments of the metrics. A meter of OpenTelemetry's SDK ignores the callbacks of a second
instrument of the same name. So the pools that use one meter provider share their instruments.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Callable
from weakref import WeakKeyDictionary, WeakValueDictionary

from opentelemetry import metrics
from opentelemetry.context import get_current
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation

from ..pool import Pool, PoolStats
from .suppression import is_suppressed

#: Seconds. The conventions want them for the duration, and say nothing of the other two.
BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)

POOL_NAME = "db.client.connection.pool.name"
STATE = "db.client.connection.state"

Observe = Callable[[CallbackOptions], Iterable[Observation]]


class Instruments:
    """The instruments of one meter, and the pools that they tell of."""

    def __init__(self, meter: Meter) -> None:
        self._pools: WeakValueDictionary[int, Pool] = WeakValueDictionary()  # by id
        self.duration: Histogram = _histogram(
            meter, "db.client.operation.duration", "Duration of database client operations."
        )
        self.wait_time: Histogram = _histogram(
            meter,
            "db.client.connection.wait_time",
            "The time it took to obtain an open connection from the pool.",
        )
        self.use_time: Histogram = _histogram(
            meter,
            "db.client.connection.use_time",
            "The time between borrowing a connection and returning it to the pool.",
        )
        meter.create_observable_up_down_counter(
            "db.client.connection.count",
            [
                self._observe(lambda stats: stats.idle, {STATE: "idle"}),
                self._observe(lambda stats: stats.in_use, {STATE: "used"}),
            ],
            "{connection}",
            "The number of connections that are currently in the state.",
        )
        meter.create_observable_up_down_counter(
            "db.client.connection.max",
            [self._observe(lambda stats: stats.slots)],
            "{connection}",
            "The maximum number of open connections allowed.",
        )
        meter.create_observable_up_down_counter(
            "db.client.connection.pending_requests",
            [self._observe(lambda stats: stats.waiting)],
            "{request}",
            "The number of current pending requests for an open connection.",
        )
        meter.create_observable_counter(
            "db.client.connection.timeouts",
            [self._observe(lambda stats: stats.timeouts)],
            "{timeout}",
            "The number of connection timeouts when obtaining a connection from the pool.",
        )

    def add(self, pool: Pool) -> None:
        """Tell of *pool* from now on."""
        self._pools[id(pool)] = pool

    def discard(self, pool: Pool) -> None:
        """Tell of *pool* no more."""
        self._pools.pop(id(pool), None)

    def _observe(
        self, figure: Callable[[PoolStats], int | None], attributes: dict[str, str] | None = None
    ) -> Observe:
        """A callback that gives a *figure* of each pool; None if the pool has none."""

        def observe(options: CallbackOptions) -> Iterable[Observation]:
            for find in self._pools.valuerefs():  # a copy: another thread may change them
                pool = find()
                if pool is None:
                    continue
                value = figure(pool.stats())
                if value is not None:
                    yield Observation(value, {POOL_NAME: pool.name, **(attributes or {})})

        return observe

    def reservations(self, pool_name: str) -> Callable[[str, float], None]:
        """A listener of the reservations of the pool of this name."""
        attributes = {POOL_NAME: pool_name}

        def note(outcome: str, seconds: float) -> None:
            context = get_current()
            if not is_suppressed(context):
                histogram = self.use_time if outcome == "released" else self.wait_time
                histogram.record(seconds, attributes, context)

        return note


def _histogram(meter: Meter, name: str, description: str) -> Histogram:
    return meter.create_histogram(
        name, "s", description, explicit_bucket_boundaries_advisory=BUCKETS
    )


_lock = threading.Lock()
_by_provider: WeakKeyDictionary[MeterProvider, Instruments] = WeakKeyDictionary()
#: Those of the global provider, which is another object before a program has set it.
_global: list[Instruments] = []


def instruments_of(
    provider: MeterProvider | None, name: str, version: str, schema_url: str
) -> Instruments:
    """The instruments of *provider*; None is the global one."""
    with _lock:
        current = metrics.get_meter_provider()
        given = current if provider is None else provider
        if given is current and _global:
            return _global[0]
        found = _by_provider.get(given)
        if found is None:
            found = Instruments(given.get_meter(name, version, schema_url))
            _by_provider[given] = found
        if given is current:
            _global.append(found)
        return found
