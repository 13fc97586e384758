"""
Families
========

The figures of pools in the form of ``prometheus_client``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from ..pool import PoolStats
from .recorder import BOUNDS, Commands

POOL_NAME = "db_client_connection_pool_name"
OPERATION = "db_operation_name"


class Figures(NamedTuple):
    """What is known of one pool."""

    name: str
    stats: PoolStats
    #: Reservations that did not wait.
    at_once: int
    commands: Commands


def families(figures: Iterable[Figures]) -> Iterator[Metric]:
    """All metrics, with the *figures* of each pool."""
    # The names follow https://opentelemetry.io/docs/specs/semconv/database/database-metrics/
    pools = list(figures)
    yield from _of_commands(pools)
    yield from _of_waits(pools)
    yield from _of_clients(pools)


def _of_commands(pools: list[Figures]) -> Iterator[Metric]:
    durations = HistogramMetricFamily(
        "db_client_operation_duration_seconds",
        "Time of commands, by command and class of the error.",
        labels=["db_system_name", POOL_NAME, OPERATION, "error_type"],
    )
    hits = _counter("mcpool_hits", "Keys that reads found.", OPERATION)
    misses = _counter("mcpool_misses", "Keys that reads did not find.", OPERATION)
    failures = _counter("mcpool_failures", "Commands that memcached could not do.")
    up = _gauge("mcpool_up", "Whether memcached could do the last command.")
    for name, stats, _, commands in pools:
        for (command, error_type), (*counts, seconds, found, not_found) in commands.rows.items():
            labels = ["memcached", name, command, error_type]
            durations.add_metric(labels, _buckets(BOUNDS, counts), seconds)
            if found or not_found:
                hits.add_metric([name, command], found)
                misses.add_metric([name, command], not_found)
        failures.add_metric([name], stats.failures)
        if commands.up is not None:
            up.add_metric([name], commands.up)
    yield from (durations, hits, misses, failures, up)


def _of_waits(pools: list[Figures]) -> Iterator[Metric]:
    wait_time = HistogramMetricFamily(
        "db_client_connection_wait_time_seconds",
        "Time that reservations waited, with those that timed out and those that did not wait.",
        labels=[POOL_NAME],
    )
    timeouts = _counter("db_client_connection_timeouts", "Reservations that timed out.")
    reservations = _counter("mcpool_reservations", "Reservations that got a client.")
    waits = _counter("mcpool_waits", "Reservations that had to wait for a client.")
    longest = _gauge("mcpool_longest_wait_seconds", "The longest wait since the start.")
    recent = _gauge(
        "mcpool_longest_recent_wait_seconds", "The longest wait of the last minute or two."
    )
    for name, stats, at_once, _ in pools:
        shortest, *longer = stats.wait_times.values()
        buckets = _buckets(stats.wait_times, [at_once + shortest, *longer])
        wait_time.add_metric([name], buckets, stats.seconds_waited)
        timeouts.add_metric([name], stats.timeouts)
        reservations.add_metric([name], stats.reservations)
        waits.add_metric([name], stats.waits)
        longest.add_metric([name], stats.longest_wait)
        recent.add_metric([name], stats.longest_recent_wait)
    yield from (wait_time, timeouts, reservations, waits, longest, recent)


def _of_clients(pools: list[Figures]) -> Iterator[Metric]:
    count = _gauge("db_client_connections", "Clients, by state.", "db_client_connection_state")
    limit = _gauge("db_client_connection_max", "The most clients that the pool may have.")
    pending = _gauge("db_client_connection_pending_requests", "Threads that wait for a client.")
    made = _counter("mcpool_clients_made", "Clients that were made.")
    renewed = _counter(
        "mcpool_clients_renewed", "Clients that replaced another, by reason.", "reason"
    )
    for name, stats, *_ in pools:
        count.add_metric([name, "idle"], stats.idle)
        count.add_metric([name, "used"], stats.in_use)
        if stats.slots is not None:
            limit.add_metric([name], stats.slots)
        pending.add_metric([name], stats.waiting)
        made.add_metric([name], stats.clients_made)
        for reason, number in stats.clients_renewed.items():
            renewed.add_metric([name, reason], number)
    yield from (count, limit, pending, made, renewed)


def _gauge(name: str, documentation: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, labels=[POOL_NAME, *labels])


def _counter(name: str, documentation: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, documentation, labels=[POOL_NAME, *labels])


def _buckets(bounds: Iterable[float], counts: Iterable[float]) -> list[tuple[str, float]]:
    """The buckets of a histogram. Each of them contains those before it."""
    return list(zip(map(floatToGoString, bounds), accumulate(counts)))
