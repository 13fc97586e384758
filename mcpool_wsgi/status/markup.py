"""
Status page: markup
===================

HTML from templates. A value in a template is escaped, unless it is HTML already.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from string import Template


class Html(str):
    """Text that is HTML."""

    __slots__ = ()


def html(template: str, **values: object) -> Html:
    """*template* with its ``$names`` replaced by *values*."""
    return Html(Template(template).substitute({name: safe(it) for name, it in values.items()}))


def safe(value: object) -> Html:
    return value if isinstance(value, Html) else Html(escape(str(value)))


def join(parts: Iterable[Html], between: str = "") -> Html:
    return Html(between.join(parts))


def heads(*names: str) -> Html:
    """The cells of a table's first row."""
    return join(
        html('<th role="columnheader" scope="col">$name</th>', name=name) for name in names
    )
