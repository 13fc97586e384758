"""
Status page: the page
=====================

A report as HTML. Style and script are in the page, and the Content-Security-Policy allows these
two by their hashes and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.resources import files
from typing import Any

from . import pool_section, servers_section
from .markup import Html, html, join


def _text(name: str) -> Html:
    return Html(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_PAGE, _CSS, _JS = _text("page.html"), _text("page.css"), _text("page.js")

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        f"style-src {_hash(_CSS)}",
        f"script-src {_hash(_JS)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'self'",
    ]
)


def render(report: Mapping[str, Any]) -> Html:
    """The page that shows *report*."""
    problems = list(_problems(report))
    return html(
        _PAGE,
        process=report["process"],
        host=report["host"],
        time=report["time"],
        clock=datetime.fromisoformat(report["time"]).strftime("%H:%M:%S"),
        title=f"{'(!) ' if problems else ''}Memcached pools",
        summary_kind="bad" if problems else "ok",
        summary=join(
            html("<li>$problem.</li>", problem=it)
            for it in problems or ["All pools and servers work"]
        ),
        css=_CSS,
        js=_JS,
        pools=join(
            pool_section.section(number, pool) for number, pool in enumerate(report["pools"], 1)
        ),
        servers=servers_section.section(report),
    )


def _problems(report: Mapping[str, Any]) -> Iterable[str]:
    for pool in report["pools"]:
        for state in pool["states"]:
            problem = pool_section.STATES[state].problem
            if problem:
                yield f"{pool['name']}: {problem}"
    for server in report["servers"]:
        if server["error"]:
            yield f"memcached {server['address']} does not answer"
