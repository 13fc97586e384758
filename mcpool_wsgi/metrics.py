"""
Metrics
=======

``pool.stats()`` for Prometheus, of as many pools as there are. It needs
``prometheus_client``, which ``pip install 'mcpool-wsgi[metrics]'`` brings.

.. code-block:: python

    from prometheus_client import REGISTRY
    from mcpool_wsgi.metrics import PoolCollector

    REGISTRY.register(PoolCollector({"default": pool}))

Where OpenTelemetry's semantic conventions have a name (``db.client.connection.*``),
that is the name, in Prometheus' form; a connection is a client. All are labelled with
``db_client_connection_pool_name``, the pool's name here:

================================================  =========================================
``db_client_connection_count``                    clients, ``db_client_connection_state`` is
                                                  ``idle`` or ``used``
``db_client_connection_max``                      the most there may be; bounded pools only
``db_client_connection_pending_requests``         threads that wait for one
``db_client_connection_timeouts_total``           reservations that waited in vain
``db_client_connection_wait_time_seconds_sum``    seconds that reservations waited together
``db_client_connection_wait_time_seconds_count``  reservations, those in vain included
``mcpool_reservations_total``                     reservations that got a client
``mcpool_waits_total``                            reservations that had to wait
``mcpool_longest_wait_seconds``                   the longest wait since the start
``mcpool_failures_total``                         commands that did not reach memcached
``mcpool_clients_made_total``                     clients made
``mcpool_clients_renewed_total``                  those that replaced another, by ``reason``
================================================  =========================================

Figures are of one process and begin anew in a forked child, so every worker process
needs an endpoint of its own. The multiprocess mode of ``prometheus_client`` does not
help: it leaves collectors out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol
from weakref import WeakValueDictionary

from .stats import PoolStats

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
    """What the collector needs of a pool."""

    def stats(self) -> PoolStats: ...


class PoolCollector:
    """What a registry of ``prometheus_client`` collects of *pools*.

    It does not keep them: a pool that nothing else refers to is gone from the next scrape.
    A closed pool stays, with its last counts.

    :param pools: ``{name: pool}``. A registry takes one collector, so name all pools here.
    :raises TypeError: one of them has no ``stats()``.
    """

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        for name, pool in pools.items():
            if not isinstance(name, str):
                raise TypeError(f"a pool's name is a str, not {name!r}")
            if not callable(getattr(pool, "stats", None)):
                raise TypeError(f"the pool {name!r} must have a method stats(): {pool!r}")
        self._pools: WeakValueDictionary[str, Pool]
        self._pools = WeakValueDictionary(pools)

    def describe(self) -> Iterable[Metric]:
        """The metrics without figures, by which a registry tells that one is there twice."""
        return _metrics({})

    def collect(self) -> Iterable[Metric]:
        return _metrics({name: pool.stats() for name, pool in self._pools.items()})


def _metrics(pools: Mapping[str, PoolStats]) -> Iterator[Metric]:
    # Names after https://opentelemetry.io/docs/specs/semconv/database/database-metrics/
    count = GaugeMetricFamily(
        "db_client_connection_count",
        "Clients that there are, by state.",
        labels=[POOL_NAME, "db_client_connection_state"],
    )
    limit = _gauge("db_client_connection_max", "Clients that there may be at once.")
    pending = _gauge("db_client_connection_pending_requests", "Threads that wait for a client.")
    timeouts = _counter(
        "db_client_connection_timeouts", "Reservations that waited for a client in vain."
    )
    wait_time = SummaryMetricFamily(
        "db_client_connection_wait_time_seconds",
        "Seconds that reservations took to get a client, or not to.",
        labels=[POOL_NAME],
    )
    reservations = _counter("mcpool_reservations", "Reservations that got a client.")
    waits = _counter("mcpool_waits", "Reservations that had to wait for a client.")
    longest_wait = _gauge("mcpool_longest_wait_seconds", "The longest wait since the start.")
    failures = _counter("mcpool_failures", "Commands that could not reach memcached.")
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
        # Those that timed out are in the sum, so they are in the count.
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
