"""
Metrics
=======

Exports ``pool.stats()`` to Prometheus, for any number of pools. It needs
``prometheus_client``; ``pip install 'mcpool-wsgi[metrics]'`` installs it.

.. code-block:: python

    from prometheus_client import REGISTRY
    from mcpool_wsgi.metrics import PoolCollector

    REGISTRY.register(PoolCollector({"default": pool}))

If OpenTelemetry's semantic conventions have a name (``db.client.connection.*``), the
metric has this name in the form of Prometheus. A connection is a client. All metrics
have the label ``db_client_connection_pool_name``, the name of the pool.

================================================  =========================================
``db_client_connection_count``                    clients; ``db_client_connection_state`` is
                                                  ``idle`` or ``used``
``db_client_connection_max``                      the most clients; bounded pools only
``db_client_connection_pending_requests``         threads that wait for a client
``db_client_connection_timeouts_total``           reservations that timed out
``db_client_connection_wait_time_seconds_sum``    seconds that all reservations waited
``db_client_connection_wait_time_seconds_count``  reservations, with those that timed out
``mcpool_reservations_total``                     reservations that got a client
``mcpool_waits_total``                            reservations that had to wait
``mcpool_longest_wait_seconds``                   the longest wait since the start
``mcpool_failures_total``                         commands that did not reach memcached
``mcpool_clients_made_total``                     clients that were made
``mcpool_clients_renewed_total``                  clients that replaced another, by ``reason``
================================================  =========================================

The figures belong to one process. A forked child begins with zeros, so each worker
process needs an endpoint of its own. The multiprocess mode of ``prometheus_client``
does not help, because it ignores collectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol
from weakref import WeakValueDictionary

from .pool import PoolStats

try:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        Metric,
        SummaryMetricFamily,
    )
except ImportError as _error:
    raise ImportError(
        "mcpool_wsgi.metrics needs prometheus_client: pip install 'mcpool-wsgi[metrics]'"
    ) from _error

POOL_NAME = "db_client_connection_pool_name"


class Pool(Protocol):
    """The part of a pool that :class:`PoolCollector` uses."""

    def stats(self) -> PoolStats: ...


class PoolCollector:
    """A collector for a registry of ``prometheus_client``.

    It refers to the pools weakly. A pool that nothing else refers to is absent from the
    next scrape. A closed pool stays, with its last counts.

    :param pools: ``{name: pool}``. A registry takes one collector, so name all pools here.
    :raises TypeError: a name is no str, or a pool has no ``stats()``.
    """

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        for name, pool in pools.items():
            if not isinstance(name, str):
                raise TypeError(f"the name of a pool must be a str, not {name!r}")
            if not callable(getattr(pool, "stats", None)):
                raise TypeError(f"pool {name!r} must have a method stats(), and {pool!r} has none")
        self._pools: WeakValueDictionary[str, Pool]
        self._pools = WeakValueDictionary(pools)

    def describe(self) -> Iterable[Metric]:
        """The metrics without figures. A registry finds duplicate names with them."""
        return _metrics({})

    def collect(self) -> Iterable[Metric]:
        return _metrics({name: pool.stats() for name, pool in self._pools.items()})


def _metrics(pools: Mapping[str, PoolStats]) -> Iterator[Metric]:
    # The names follow https://opentelemetry.io/docs/specs/semconv/database/database-metrics/
    count = GaugeMetricFamily(
        "db_client_connection_count",
        "Clients, by state.",
        labels=[POOL_NAME, "db_client_connection_state"],
    )
    limit = _gauge("db_client_connection_max", "The most clients that the pool may have.")
    pending = _gauge("db_client_connection_pending_requests", "Threads that wait for a client.")
    timeouts = _counter("db_client_connection_timeouts", "Reservations that timed out.")
    wait_time = SummaryMetricFamily(
        "db_client_connection_wait_time_seconds",
        "Seconds that reservations waited, with those that timed out.",
        labels=[POOL_NAME],
    )
    reservations = _counter("mcpool_reservations", "Reservations that got a client.")
    waits = _counter("mcpool_waits", "Reservations that had to wait for a client.")
    longest_wait = _gauge("mcpool_longest_wait_seconds", "The longest wait since the start.")
    failures = _counter("mcpool_failures", "Commands that did not reach memcached.")
    made = _counter("mcpool_clients_made", "Clients that were made.")
    renewed = _counter(
        "mcpool_clients_renewed", "Clients that replaced another, by reason.", "reason"
    )
    for name, stats in pools.items():
        count.add_metric([name, "idle"], stats.idle)
        count.add_metric([name, "used"], stats.in_use)
        if stats.slots is not None:
            limit.add_metric([name], stats.slots)
        pending.add_metric([name], stats.waiting)
        timeouts.add_metric([name], stats.timeouts)
        # The sum includes those that timed out, so the count includes them, too.
        wait_time.add_metric([name], stats.reservations + stats.timeouts, stats.seconds_waited)
        reservations.add_metric([name], stats.reservations)
        waits.add_metric([name], stats.waits)
        longest_wait.add_metric([name], stats.longest_wait)
        failures.add_metric([name], stats.failures)
        made.add_metric([name], stats.clients_made)
        for reason, number in stats.clients_renewed.items():
            renewed.add_metric([name, reason], number)
    yield from (count, limit, pending, timeouts, wait_time)
    yield from (reservations, waits, longest_wait, failures, made, renewed)


def _gauge(name: str, documentation: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, labels=[POOL_NAME])


def _counter(name: str, documentation: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, documentation, labels=[POOL_NAME, *labels])
