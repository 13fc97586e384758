"""
Status page: a pool
===================

The section of the page for one pool.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from . import drawings, units
from .markup import Html, heads, html, join

MOST_HOLDERS = 50  # rows


class State(NamedTuple):
    """How the page shows a state of a pool."""

    #: What the badge of the pool says.
    badge: str
    #: How grave it is: ``bad`` or ``warn``.
    kind: str
    #: What the summary says. Empty if it changes every second: a screen reader reads each change
    #: of the summary aloud.
    problem: str = ""


STATES = {
    "timeouts": State("timeouts", "bad", "requests got no client in the last minute"),
    "failures": State("memcached fails", "bad", "commands failed in the last minute"),
    "closed": State("closed", "bad", "the pool is closed"),
    "empty": State("no slots", "warn", "the pool has no slots yet"),
    "waiting": State("threads wait", "warn"),
    "full": State("all slots in use", "warn"),
}


def section(number: int, pool: Mapping[str, Any]) -> Html:
    """The section for *pool*, the one with this *number* on the page."""
    return html(
        '<section class="pool" aria-labelledby="pool-$number">'
        '<h2 id="pool-$number">$name $badges</h2><p class="kind">$kind</p>'
        '<dl class="tiles">$tiles</dl>$slots$charts$holders$counts'
        "</section>",
        number=number,
        name=pool["name"],
        badges=_badges(pool["states"]),
        kind=_kind(pool),
        tiles=_tiles(pool),
        slots=drawings.slots(pool),
        holders=_holders(pool),
        charts=_charts(pool["history"]),
        counts=_counts(pool["stats"]),
    )


def _badges(states: Iterable[str]) -> Html:
    badges = [
        html('<span class="badge $kind">$text</span>', kind=STATES[it].kind, text=STATES[it].badge)
        for it in states
    ]
    return join(badges, " ") or html('<span class="badge ok">works</span>')


def _kind(pool: Mapping[str, Any]) -> str:
    if pool["stats"]["slots"] is None:
        return f"{pool['kind']}, a client for each thread"
    waits = units.seconds(pool["timeout"]) if pool["timeout"] else "no time"
    return f"{pool['kind']} of {pool['stats']['slots']} slots, waits for {waits} at most"


def _list(pairs: Iterable[tuple[str, str]]) -> Html:
    return join(
        html("<div><dt>$name</dt><dd>$value</dd></div>", name=name, value=value)
        for name, value in pairs
    )


def _tiles(pool: Mapping[str, Any]) -> Html:
    stats, history = pool["stats"], pool["history"]
    minute, total = history["last_minute"], history["total"]
    of = "" if stats["slots"] is None else f" of {stats['slots']}"
    mean = minute["seconds"] / minute["commands"] if minute["commands"] else None
    return _list(
        [
            ("Slots in use", f"{stats['in_use']}{of}"),
            ("Threads waiting", units.count(stats["waiting"])),
            ("Commands per s", units.count(history["commands_per_second"])),
            ("Time per command", units.seconds(mean)),
            ("Hit rate, 5 min", units.percent(total["hit_rate"])),
            ("Failed, 5 min", units.count(total["failures"])),
            ("Longest recent wait", units.seconds(stats["longest_recent_wait"])),
        ]
    )


def _holders(pool: Mapping[str, Any]) -> Html:
    holders = pool["holders"]
    if not holders:
        return html('<p class="none">Nobody holds a client at this moment.</p>')
    rows = [
        html(
            '<tr role="row"><th role="rowheader" scope="row">$seconds</th>'
            '<td role="cell">$request</td><td role="cell">$thread</td>'
            '<td role="cell">$frames</td></tr>',
            seconds=units.seconds(holder["seconds"]),
            request=holder["request"] or units.UNKNOWN,
            thread=holder["thread"],
            frames=join(
                (html("<code>$frame</code>", frame=without_root(it)) for it in holder["frames"]),
                " ",
            )
            or units.UNKNOWN,
        )
        for holder in holders[:MOST_HOLDERS]
    ]
    left = len(holders) - len(rows)
    return html(
        '<table role="table" class="holders"><caption>Who holds a client$more</caption>'
        '<thead role="rowgroup"><tr role="row">$heads</tr></thead>'
        '<tbody role="rowgroup">$rows</tbody></table>',
        more=f", the longest {len(rows)} of {len(holders)}" if left else "",
        heads=heads("Held for", "Request", "Thread", "Where the thread is"),
        rows=join(rows),
    )


def without_root(place: str) -> str:
    """A *place* in the code without the directory that its package or script is in."""
    roots = [os.path.join(path, "") for path in sys.path]
    return place[max((len(root) for root in roots if place.startswith(root)), default=0) :]


def _charts(history: Mapping[str, Any]) -> Html:
    step, steps, total = history["step_seconds"], history["steps"], history["total"]
    if not total["commands"] and not total["waits"]:
        return html('<p class="none">No commands and no waits in the last 5 minutes.</p>')
    failed = [number / step for number in steps["failures"]]
    worked = [number / step - bad for number, bad in zip(steps["commands"], failed)]
    reads = [hits + misses for hits, misses in zip(steps["hits"], steps["misses"])]
    rates = [hits / read if read else 0.0 for hits, read in zip(steps["hits"], reads)]
    waited = [waits - out for waits, out in zip(steps["waits"], steps["timeouts"])]
    charts = join(
        [
            drawings.bars(
                "Commands per second (red: failed)",
                failed,
                worked,
                units.count,
                f"{units.count(total['commands'])} commands,"
                f" {units.count(total['failures'])} failed",
            ),
            drawings.bars(
                "Hit rate",
                [0.0] * len(rates),
                rates,
                units.percent,
                units.percent(total["hit_rate"]),
                top=1.0,
            ),
            drawings.bars(
                f"Waits in {step:.0f} s (red: timed out)",
                steps["timeouts"],
                waited,
                units.count,
                f"{units.count(total['waits'])} waits,"
                f" {units.count(total['timeouts'])} of them timed out",
            ),
        ]
    )
    return html('<div class="charts">$charts</div>', charts=charts)


def _counts(stats: Mapping[str, Any]) -> Html:
    renewed = stats["clients_renewed"]
    pairs = [
        ("Reservations", units.count(stats["reservations"])),
        ("Waits", units.count(stats["waits"])),
        ("Longest wait", units.seconds(stats["longest_wait"])),
        ("Timeouts", units.count(stats["timeouts"])),
        ("Failed commands", units.count(stats["failures"])),
        ("Clients made", units.count(stats["clients_made"])),
        *((f"Renewed: {reason}", units.count(renewed[reason])) for reason in sorted(renewed)),
    ]
    return html(
        "<details><summary>Totals of this process</summary>"
        '<dl class="tiles small">$pairs</dl></details>',
        pairs=_list(pairs),
    )
