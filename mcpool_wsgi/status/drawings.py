"""
Status page: drawings
=====================

The slots of a pool, and its last minutes. Each drawing says in words what it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable

from . import units
from .markup import Html, html, join

MOST = 240  # slots, or waiters, that are drawn
LONG = 1.0  # seconds: a client that is held longer has another colour
HEIGHT = 48  # of a chart; a step is 5 wide


def slots(pool: Mapping[str, Any]) -> Html:
    """A square for each slot, and a circle for each waiter."""
    stats = pool["stats"]
    long = sum(holder["seconds"] > LONG for holder in pool["holders"])
    long = min(long, stats["in_use"])
    kinds = [
        ("long", "in use for more than 1 s", long),
        ("used", "in use", stats["in_use"] - long),
        ("idle", "idle", stats["idle"]),
    ]
    if stats["slots"] is not None:
        kinds.append(("free", "not needed yet", max(stats["slots"] - stats["size"], 0)))
    kinds.append(("waiter", "waiting", stats["waiting"]))
    kinds = [kind for kind in kinds if kind[2]]
    if not kinds:
        return Html()
    shapes, drawn = [], 0
    for kind, _, number in kinds:
        shapes += [html('<i class="$kind"></i>', kind=kind)] * min(number, MOST - drawn)
        drawn = len(shapes)
    words = ", ".join(f"{units.count(number)} {name}" for _, name, number in kinds)
    return html(
        '<div class="slots" role="img" aria-label="Slots: $words">$shapes</div>'
        '<ul class="legend">$legend</ul>',
        words=words,
        shapes=join(shapes),
        legend=join(
            html(
                '<li><i class="$kind"></i> $number $name</li>',
                kind=kind,
                number=units.count(number),
                name=name,
            )
            for kind, name, number in kinds
        ),
    )


def bars(
    title: str,
    bad: Sequence[float],
    good: Sequence[float],
    shown: Callable[[float], str],
    words: str,
    top: float | None = None,
) -> Html:
    """A chart of one bar for each step: *bad* below and *good* above it.

    :param shown: what a number is as text.
    :param words: what the chart shows.
    :param top: what a bar of the full height stands for; the highest one if there is none.
    """
    highest = max(map(sum, zip(bad, good)))
    top = top or highest or 1.0
    start = 60 - len(good)
    rects = []
    for number, (low, high) in enumerate(zip(bad, good), start):
        bottom = float(HEIGHT)
        for kind, value in (("bad", low), ("good", high)):
            height = min(value / top, 1) * HEIGHT
            if height:
                height = max(height, 1.5)
                bottom -= height
                rects.append(
                    html(
                        '<rect class="$kind" x="$x" y="$y" width="4" height="$height"/>',
                        kind=kind,
                        x=number * 5,
                        y=f"{bottom:.1f}",
                        height=f"{height:.1f}",
                    )
                )
    return html(
        "<figure><figcaption>$title <span>at most $highest</span></figcaption>"
        '<svg role="img" aria-label="$title, last 5 minutes: $words"'
        ' viewBox="0 0 300 $height" preserveAspectRatio="none">$rects</svg>'
        '<p class="axis" aria-hidden="true"><span>5 min ago</span><span>now</span></p></figure>',
        title=title,
        highest=shown(highest),
        words=words,
        height=HEIGHT,
        rects=join(rects),
    )


def meter(share: float) -> Html:
    """A horizontal bar that is full where *share* is 1. The text beside it says the same."""
    return html(
        '<svg class="meter" aria-hidden="true" viewBox="0 0 100 6" preserveAspectRatio="none">'
        '<rect class="good" width="$width" height="6"/></svg>',
        width=f"{min(share, 1) * 100:.1f}",
    )
