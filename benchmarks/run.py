"""
Benchmarks
==========

Measures this package beside its peers. Prints medians, their ratios, and the targets.

.. code-block:: console

    $ pip install -e '.[bench]'
    $ python benchmarks/run.py            # some minutes
    $ python benchmarks/run.py --quick    # fewer rounds, and no hazards

memcached must be installed. :mod:`measure` says how things are measured, :mod:`costs` what.
"""

from __future__ import annotations

import argparse
import functools
import math
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Callable

import costs
import end_to_end
import hazards
import matplotlib as mpl
from contenders import BLOG, OURS, PYLIBMC
from costs import (
    BARE,
    CACHELIB,
    EAGER,
    LENT,
    OUR_CLIENT,
    OUR_POOLED,
    PLAIN,
    POOLED,
    WATCHED,
    command,
)
from matplotlib.figure import Figure
from measure import Figures, machine
from rich.console import Console
from rich.table import Table

Measure = Callable[[int], Figures]
Show = Callable[[float], str]


def duration(nanoseconds: float) -> str:
    for unit, length in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= length:
            return f"{nanoseconds / length:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"


count = "{:,.0f}".format
RESERVATION, GET, WAITS = "reservation, nobody waiting", "mc.get('key')", 7
CLIENTS, RESERVERS = (OUR_CLIENT, PLAIN), (OURS, PYLIBMC, PLAIN, CACHELIB, POOLED)
BORROWED = {POOLED: 0.8, CACHELIB: 1.0}
#: What is measured, how, in how many rounds, the targets, and how a figure is shown. A target
#: is the most that this package's median may be, as a multiple of another contender's.
MEASUREMENTS: list[tuple[str, Measure, int, dict[str, float], Show]] = [
    (RESERVATION, costs.reservations, 400, {BLOG: 0.5, PYLIBMC: 0.2}, duration),
    ("request, beyond the bare app", costs.requests, 400, {BLOG: 1}, duration),
    ("response of 100 chunks", costs.chunks, 400, {BARE: 1.35}, duration),
    ("get of 100 bytes", command(GET, *CLIENTS), 800, {PLAIN: 1.08}, duration),
    ("set of 100 bytes", command("mc.set('key', value)", *CLIENTS), 800, {PLAIN: 1.05}, duration),
    ("get_multi of 10", command("mc.get_multi(ten)", *CLIENTS), 800, {PLAIN: 1.05}, duration),
    ("get_multi of 100", command("mc.get_multi(hundred)", *CLIENTS), 800, {PLAIN: 1.1}, duration),
    ("get, client reserved once", command(GET, LENT, PLAIN), 800, {}, duration),
    ("get, with Prometheus", command(GET, WATCHED, LENT), 800, {LENT: 1.15}, duration),
    ("reservation and get", command(GET, *RESERVERS), 800, {}, duration),
    ("PooledClient.get", command(GET, OUR_POOLED, POOLED, CACHELIB), 800, BORROWED, duration),
    ("request that uses nothing", costs.unused, 400, {EAGER: 0.5}, duration),
    ("connections of 64 threads", costs.connections_of_threads, 5, {}, count),
    ("p99 of their gets", costs.slowest_gets, 5, {}, duration),
    ("longest wait, 64 threads, 8 clients", costs.longest_waits, WAITS, {PYLIBMC: 0.05}, duration),
    ("connections after 12 requests", costs.connections, 4, {PYLIBMC: 1 / 12}, count),
    *(
        (
            f"requests per second, {gets} gets each",
            functools.partial(end_to_end.requests_per_second, gets=gets),
            8,
            {},
            count,
        )
        for gets in end_to_end.GETS
    ),
]


def table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures this package beside its peers.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no hazards")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write the plots there")
    options = parser.parse_args()

    def rounds(usual: int) -> int:
        return max(2, usual // 4) if options.quick else usual

    console = Console(width=110)
    console.print(machine(), highlight=False)
    targets = table("Targets", "what", "against", "ratio", "at most", "")
    results: dict[str, Figures] = {}
    for title, measure, usual, limits, shown in MEASUREMENTS:
        figures = results[title] = measure(rounds(usual))
        medians = {name: median(each) for name, each in figures.items()}
        ours = next(iter(medians.values()))
        made = table(title, "", "median", "quartiles", "this package / it")
        for name, each in figures.items():
            low, _, high = quantiles(each, method="inclusive")
            quartiles = f"{shown(low)} .. {shown(high)}"
            made.add_row(name, shown(medians[name]), quartiles, f"{ours / medians[name]:.3g}")
        console.print(made)
        for name, limit in limits.items():
            ratio = ours / medians[name]
            met = "met" if ratio <= limit else "[bold red]missed[/]"
            targets.add_row(title, name, f"{ratio:.4g}", f"{limit:.4g}", met)
    if not options.quick:
        console.print(hazards.table())
    console.print(targets)
    if options.plot:
        with mpl.rc_context(STYLE):
            plot_reservations(results[RESERVATION], options.plot / "reservation.svg")
            plot_end_to_end(results, options.plot / "end-to-end.svg")
            plot_waits(costs.waits(rounds(WAITS)), options.plot / "waits.svg")


# The plots of docs/explanation/performance.md. The grey is readable on a light and a dark page.
GREY, PALE, ACCENT = "#7d8590", "#9aa4af", "#2f81f7"
BARS = [ACCENT, "#79b8ff", PALE, "#d29922", "#a371f7", "#da3633"]
COLOURED = ["text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"]
STYLE: Any = {
    **dict.fromkeys(COLOURED, GREY),
    **dict.fromkeys(["axes.spines.top", "axes.spines.right", "legend.frameon"], False),
    "axes.titlelocation": "left",
    "svg.hashsalt": "mcpool-wsgi",  # the same figures give the same file
    "svg.fonttype": "none",  # text stays text, which keeps the files small
}


def plot_reservations(figures: Figures, path: Path) -> None:
    medians = {name: median(each) for name, each in figures.items()}
    names = sorted(medians, key=lambda name: -medians[name])
    figure = Figure(figsize=(8, 0.36 * len(names) + 0.9))
    axes = figure.subplots()
    colours = [ACCENT if name.startswith("mcpool_wsgi") else PALE for name in names]
    bars = axes.barh(names, [medians[name] for name in names], color=colours)
    axes.bar_label(bars, [duration(medians[name]) for name in names], padding=4, color=GREY)
    axes.set_title("Time to reserve a client and release it, nobody waiting")
    axes.xaxis.set_visible(False)
    axes.spines[["left", "bottom"]].set_visible(False)
    save(figure, path)


def plot_end_to_end(results: dict[str, Figures], path: Path) -> None:
    figure = Figure(figsize=(8, 3.4))
    axes = figure.subplots()
    width = 0.8 / len(end_to_end.KINDS)
    for number, kind in enumerate(end_to_end.KINDS):
        titles = [f"requests per second, {gets} gets each" for gets in end_to_end.GETS]
        heights = [median(results[title][kind]) for title in titles]
        places = [place + (number - 2.5) * width for place in range(len(titles))]
        axes.bar(places, heights, width * 0.9, label=kind, color=BARS[number])
    axes.set_xticks(range(len(end_to_end.GETS)), [f"{gets} get(s)" for gets in end_to_end.GETS])
    axes.set_title("Requests per second, gunicorn with twelve threads, by gets in a request")
    axes.legend(fontsize="small")
    save(figure, path)


def plot_waits(waits: dict[str, list[list[float]]], path: Path) -> None:
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    for name, colour in zip(waits, (ACCENT, "#d29922", "#a371f7")):
        ascending = sorted(wait for each in waits[name] for wait in each)
        nines = [math.log10(len(ascending)) * step / 200 for step in range(200)]
        shown = [ascending[int(len(ascending) * (1 - 10**-nine))] for nine in nines]
        axes.plot(nines, shown, label=name, color=colour, linewidth=2.5 if name == OURS else 1.5)
    axes.set_xticks([math.log10(2), 1, 2, 3, 4], ["50 %", "90 %", "99 %", "99.9 %", "99.99 %"])
    axes.set_yscale("log")
    powers = [10.0**power for power in range(3, 10)]
    axes.set_yticks(powers, [duration(power) for power in powers])
    axes.minorticks_off()
    axes.set_xlabel("of all waits are no longer")
    axes.set_title(f"Waits for a client: {costs.THREADS} threads share {costs.CLIENTS} clients")
    axes.legend()
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None, "Creator": None}
    figure.savefig(path, transparent=True, bbox_inches="tight", metadata=metadata)


if __name__ == "__main__":
    main()
