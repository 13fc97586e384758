"""
Pictures
========

The two that README shows. Their background is transparent and their text grey, so that
they can be read on a light and on a dark page; the same figures always give the same file.
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import median
from typing import Any

import contention
import matplotlib as mpl
from contenders import OURS, OURS_BY_THREAD
from matplotlib.figure import Figure
from results import Results
from targets import duration

GREY, PALE, ACCENT = "#7d8590", "#9aa4af", "#2f81f7"
COLOURS = ["#d29922", "#a371f7", "#db61a2", "#3fb950"]
STYLE: Any = {
    "svg.hashsalt": "mcpool-wsgi",
    "svg.fonttype": "none",  # text stays text: small files, sharp at every size
    "font.size": 11,
    "text.color": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def write(results: Results, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        save(reservation_cost(results), directory / "reservation.svg")
        save(wait_by_percentile(results), directory / "waits.svg")


def save(figure: Figure, path: Path) -> None:
    figure.savefig(
        path, transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None}
    )


def reservation_cost(results: Results) -> Figure:
    costs = {name: median(rounds) for name, rounds in results.reservation.items()}
    names = sorted(costs, key=lambda name: -costs[name])
    figure = Figure(figsize=(8, 0.36 * len(names) + 0.9))
    axes = figure.subplots()
    colours = [ACCENT if name.startswith((OURS, OURS_BY_THREAD)) else PALE for name in names]
    bars = axes.barh(names, [costs[name] for name in names], color=colours, height=0.7)
    axes.bar_label(bars, [duration(costs[name]) for name in names], padding=4, color=GREY)
    axes.set_xscale("log")
    axes.set_xlim(right=max(costs.values()) * 2)
    axes.set_title("Reserving a client and giving it back, uncontended (log scale)", loc="left")
    axes.tick_params(left=False, which="both", bottom=False, labelbottom=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def wait_by_percentile(results: Results) -> Figure:
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    colours = iter(COLOURS)
    for name, runs in results.contention.items():
        waits = sorted(wait for run in runs for wait in run.waits)
        last = math.log10(len(waits))
        nines = [last * step / 200 for step in range(201)]
        shown = [contention.percentile(waits, 1 - 10**-nine) * 1e3 for nine in nines]
        ours = name == OURS
        axes.plot(
            nines,
            shown,
            color=ACCENT if ours else next(colours),
            linewidth=2.5 if ours else 1.5,
            zorder=3 if ours else 2,
            label=name,
        )
    ticks = {"50 %": math.log10(2), "90 %": 1, "99 %": 2, "99.9 %": 3, "99.99 %": 4}
    axes.set_xticks(list(ticks.values()), list(ticks))
    axes.set_xlim(left=0)
    axes.set_yscale("log")
    axes.set_yticks(
        [0.001, 0.01, 0.1, 1, 10, 100, 1000],
        ["1 µs", "10 µs", "0.1 ms", "1 ms", "10 ms", "0.1 s", "1 s"],
    )
    axes.minorticks_off()
    axes.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.8)
    axes.set_xlabel("of all waits are no longer")
    axes.set_title(
        f"Waiting for a client: {contention.THREADS} threads share {contention.SLOTS} clients",
        loc="left",
    )
    axes.legend(
        frameon=False, labelcolor=GREY, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3
    )
    return figure
