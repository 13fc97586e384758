"""
Instrumentation
===============

Switches the spans and the metrics of a pool on and off.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any, Callable
from weakref import WeakSet

from opentelemetry import trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from ..client import Client
from ..pool import Pool
from .commands import Commands
from .instruments import instruments_of

NAME = "mcpool_wsgi"
#: The first version of the conventions in which those for databases are stable.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.33.0"

_instrumented: WeakSet[Pool] = WeakSet()
_lock = threading.RLock()


def instrument(
    pool: Pool,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    *,
    capture_keys: bool = False,
) -> Callable[[], None]:
    """Make spans of the commands of *pool*, and metrics of the commands and of the pool.

    :param pool: a pool of this package, with clients of this package.
    :param tracer_provider: the global one if it is None.
    :param meter_provider: the global one if it is None.
    :param capture_keys: put the keys into the spans. They may be personal data. Values are never
        put there.
    :return: a function that ends it. A second call does nothing.
    :raises TypeError: *pool* or a provider is something else.
    :raises RuntimeError: *pool* is instrumented already.
    """
    _check(pool, tracer_provider, meter_provider)
    with _lock:  # another thread may do the same
        if pool in _instrumented:
            raise RuntimeError(
                f"{pool!r} is instrumented already: to change that, first call the function that"
                " instrument() has returned"
            )
        _instrumented.add(pool)
    with ExitStack() as undo:  # if something raises
        undo.callback(_instrumented.discard, pool)
        scope_version = version("mcpool-wsgi")
        tracer = trace.get_tracer(NAME, scope_version, tracer_provider, SCHEMA_URL)
        instruments = instruments_of(meter_provider, NAME, scope_version, SCHEMA_URL)
        instruments.add(pool)
        undo.callback(instruments.discard, pool)
        undo.callback(pool.observe(Commands(tracer, instruments.duration, capture_keys)))
        undo.callback(pool.observe_reservations(instruments.reservations(pool.name)))
        return undo.pop_all().close


def _check(pool: Any, tracer_provider: Any, meter_provider: Any) -> None:
    if not isinstance(pool, Pool):
        raise TypeError(f"instrument() needs a pool of this package, not {pool!r}")
    if not isinstance(pool.master, (Client, type(None))):
        raise TypeError(
            "instrument() needs a pool of mcpool_wsgi.Client, and this one has"
            f" {type(pool.master)}"
        )
    for provider, method in ((tracer_provider, "get_tracer"), (meter_provider, "get_meter")):
        if provider is not None and not callable(getattr(provider, method, None)):
            raise TypeError(f"a provider must have {method}(), and {provider!r} has none")
