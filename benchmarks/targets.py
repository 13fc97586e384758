"""
Targets
=======

What this package wants to be, as ratios within one run.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import end_to_end
import one_get
import wsgi_cost
from contenders import BLOG, OURS, PYLIBMC
from measure import Figures
from reservation import OURS_LARGE
from results import Results


@dataclass(frozen=True)
class Target:
    what: str
    measured: str
    wanted: str
    met: bool


def targets(results: Results) -> Iterator[Target]:
    reservation = medians(results.reservation)
    yield at_most(
        "reservation, by the blog's list pool", reservation[OURS], reservation[BLOG], 0.4
    )
    yield at_most(
        "reservation, by pylibmc.ClientPool", reservation[OURS], reservation[PYLIBMC], 0.2
    )

    middleware = medians(results.request)
    ours = middleware[wsgi_cost.OURS_HERE]
    yield at_most(
        "middleware over the bare app, by one that does nothing",
        ours,
        middleware[wsgi_cost.NOTHING],
        2.5,
    )
    yield at_most(
        "middleware over the bare app, by the blog's reserve() in the app",
        ours,
        middleware[wsgi_cost.BLOG_INSIDE],
        0.6,
    )

    streaming = medians(results.streaming)
    yield at_most(
        "app with 100 chunks behind the middleware, by bare",
        streaming[wsgi_cost.BEHIND],
        streaming[wsgi_cost.BARE],
        1.3,
    )

    get = medians(results.get)
    yield at_most(
        "get of 100 bytes, by pylibmc.Client", get[one_get.OURS], get[one_get.PLAIN], 1.05
    )

    yield from of_contention(results)
    yield at_most(
        "reservation with 10,000 slots, by 12",
        reservation[OURS_LARGE],
        reservation[OURS],
        1.2,
    )

    opened = medians(results.connections)
    yield Target(
        "connections after 12 requests, one at a time",
        f"{opened[OURS]:.0f} (pylibmc: {opened[PYLIBMC]:.0f})",
        "1",
        opened[OURS] == 1,
    )
    if results.end_to_end:
        yield from of_end_to_end(results.end_to_end)


def of_contention(results: Results) -> Iterator[Target]:
    ours, theirs = results.contention[OURS], results.contention[PYLIBMC]
    yield at_most(
        "longest wait under contention, by pylibmc.ClientPool",
        median(run.longest for run in ours) * 1e9,
        median(run.longest for run in theirs) * 1e9,
        0.05,
    )
    yield at_least(
        "throughput under contention, by pylibmc.ClientPool",
        median(run.throughput for run in ours),
        median(run.throughput for run in theirs),
        0.95,
    )
    fairness = median(run.fairness for run in ours)
    yield Target(
        "Jain's index of fairness under contention", f"{fairness:.4f}", "≥ 0.99", fairness >= 0.99
    )


def of_end_to_end(figures: Figures) -> Iterator[Target]:
    ours, blog, without = (
        figures[app] for app in (end_to_end.OURS, end_to_end.BLOG, end_to_end.NO_POOL)
    )
    # A difference smaller than those between runs of one and the same app is none.
    low = statistics.quantiles(blog)[0]
    yield Target(
        "requests/s through gunicorn, by the blog's app",
        f"{median(ours) / median(blog):.3f} x ({median(ours):.0f} : {median(blog):.0f})",
        f"≥ {low / median(blog):.3f} x (its lower quartile)",
        median(ours) >= low,
    )
    yield Target(
        "requests/s through gunicorn, by a client per request",
        f"{median(ours) / median(without):.3f} x ({median(ours):.0f} : {median(without):.0f})",
        "> 1 x",
        median(ours) > median(without),
    )


def medians(figures: Figures) -> dict[str, float]:
    return {name: median(rounds) for name, rounds in figures.items()}


def at_most(what: str, ours: float, theirs: float, limit: float) -> Target:
    measured = f"{ours / theirs:.3f} x ({duration(ours)} : {duration(theirs)})"
    return Target(what, measured, f"≤ {limit:g} x", ours <= limit * theirs)


def at_least(what: str, ours: float, theirs: float, limit: float) -> Target:
    measured = f"{ours / theirs:.3f} x ({ours:,.0f} : {theirs:,.0f} per second)"
    return Target(what, measured, f"≥ {limit:g} x", ours >= limit * theirs)


def duration(nanoseconds: float) -> str:
    """For people: three digits and a unit."""
    for unit, length in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= length:
            return f"{nanoseconds / length:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"
