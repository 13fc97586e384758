"""
Status page: the servers
========================

The section of the page for all memcacheds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable

from . import drawings, units
from .markup import Html, heads, html, join


def section(report: Mapping[str, Any]) -> Html:
    """The section for the servers of *report*."""
    several = len(report["pools"]) > 1
    rows = join(_server(server, several) for server in report["servers"])
    table = html(
        '<table role="table"><caption>What each memcached says of itself, for all who use it,'
        ' since it began</caption><thead role="rowgroup"><tr role="row">$heads</tr></thead>'
        '<tbody role="rowgroup">$rows</tbody></table>',
        heads=heads("Address", *FIGURES),
        rows=rows,
    )
    return html(
        '<section class="servers" aria-labelledby="servers"><h2 id="servers">Servers</h2>$table'
        "</section>",
        table=table if rows else html('<p class="none">No pool has servers yet.</p>'),
    )


def _server(server: Mapping[str, Any], several: bool) -> Html:
    details = [f"memcached {server['version']}"] if server["version"] else []
    if several:
        details.append(f"used by {' and '.join(server['pools'])}")
    if server["error"]:
        cells = html(
            '<td role="cell" colspan="$columns"><span class="badge bad">does not answer</span>'
            " $error</td>",
            columns=len(FIGURES),
            error=server["error"],
        )
    else:
        cells = join(
            html('<td role="cell" data-label="$name">$value</td>', name=name, value=show(server))
            for name, show in FIGURES.items()
        )
    return html(
        '<tr role="row"><th role="rowheader" scope="row">$address <small>$details</small></th>'
        "$cells</tr>",
        address=server["address"],
        details=", ".join(details),
        cells=cells,
    )


def _memory(server: Mapping[str, Any]) -> Html:
    used, limit = server["bytes"], server["max_bytes"]
    return html(
        "$text$meter",
        text=units.size(used) + (f" of {units.size(limit)}" if limit else ""),
        meter=drawings.meter(used / limit) if used and limit else "",
    )


#: The columns of the table of servers.
FIGURES: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
    "Items": lambda server: units.count(server["items"]),
    "Memory": _memory,
    "Evictions": lambda server: units.count(server["evictions"]),
    "Hit rate": lambda server: units.percent(server["hit_rate"]),
    "Connections": lambda server: units.count(server["connections"]),
    "Uptime": lambda server: units.seconds(server["uptime"]),
}
