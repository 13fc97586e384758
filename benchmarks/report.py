"""
Report
======

The results as tables.
"""

from __future__ import annotations

import statistics
from statistics import median

import contention
import one_get
import wsgi_cost
from contenders import BLOG, LIST, PYLIBMC
from measure import Figures
from results import Results
from rich.console import Console
from rich.table import Table
from targets import duration, targets


def show(results: Results, console: Console) -> None:
    console.print(machine_table(results))
    console.print(
        cost_table(
            "One reservation",
            results.reservation,
            {"list": LIST, "the blog's": BLOG, "pylibmc's": PYLIBMC},
        )
    )
    console.print(
        cost_table(
            "One request, over the bare app",
            results.request,
            {"nothing": wsgi_cost.NOTHING, "the blog's": wsgi_cost.BLOG_INSIDE},
        )
    )
    console.print(
        cost_table("A response of 100 chunks", results.streaming, {"bare": wsgi_cost.BARE})
    )
    console.print(
        cost_table(
            "get of 100 bytes, all on one core", results.get, {"pylibmc.Client": one_get.PLAIN}
        )
    )
    console.print(contention_table(results))
    console.print(
        figure_table("Connections after 12 requests, one at a time", results.connections)
    )
    if results.end_to_end:
        console.print(figure_table("Requests per second, gunicorn", results.end_to_end))
    else:
        console.print("End to end: left out by --quick.\n")
    console.print(target_table(results))


def table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number else "left", overflow="fold")
    return made


def machine_table(results: Results) -> Table:
    made = table("Measured on and of", "what", "which")
    for what, which in results.machine.items():
        made.add_row(what, which)
    return made


def cost_table(title: str, figures: Figures, peers: dict[str, str]) -> Table:
    """Medians and quartiles, cheapest first, and the ratio to each of *peers*, by heading."""
    made = table(title, "of", "median", "quartiles", *(f"x {peer}" for peer in peers))
    for name, rounds in sorted(figures.items(), key=lambda item: median(item[1])):
        low, middle, high = statistics.quantiles(rounds)
        made.add_row(
            name,
            duration(middle),
            f"{duration(low)} .. {duration(high)}",
            *(f"{middle / median(figures[peer]):.2f}" for peer in peers.values()),
        )
    return made


def contention_table(results: Results) -> Table:
    title = f"{contention.THREADS} threads in a closed loop, {contention.SLOTS} clients"
    made = table(title, "of", "per second", "median wait", "99 %", "longest", "fairness")
    for pool, runs in results.contention.items():
        typical, nearly_all = (
            median(contention.percentile(run.waits, share) for run in runs)
            for share in (0.5, 0.99)
        )
        made.add_row(
            pool,
            f"{median(run.throughput for run in runs):,.0f}",
            duration(typical * 1e9),
            duration(nearly_all * 1e9),
            duration(median(run.longest for run in runs) * 1e9),
            f"{median(run.fairness for run in runs):.4f}",
        )
    return made


def figure_table(title: str, figures: Figures) -> Table:
    made = table(title, "of", "median", "runs")
    for name, rounds in figures.items():
        made.add_row(name, f"{median(rounds):,.0f}", f"{min(rounds):,.0f} .. {max(rounds):,.0f}")
    return made


def target_table(results: Results) -> Table:
    made = table("Targets", "what", "measured", "target", "met")
    for target in targets(results):
        met = "yes" if target.met else "[bold red]no[/]"
        made.add_row(target.what, target.measured, target.wanted, met)
    return made
