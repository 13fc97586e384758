"""
Status page: units
==================

Numbers as people read them. An unknown number is a dash.
"""

from __future__ import annotations

UNKNOWN = "–"  # noqa: RUF001

_LENGTHS = [("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)]


def count(number: float | None) -> str:
    """``12,345``"""
    if number is None:
        return UNKNOWN
    return f"{number:.1f}" if 0 < number < 10 and number % 1 else f"{number:,.0f}"


def percent(share: float | None) -> str:
    """``93.4 %``"""
    if share is None:
        return UNKNOWN
    return "100 %" if share == 1 else f"{min(share * 100, 99.9):.1f} %"


def size(number: float | None) -> str:
    """``12.1 MiB``"""
    if number is None:
        return UNKNOWN
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while number >= 1024 and len(units) > 1:
        number /= 1024
        del units[0]
    return f"{number:.3g} {units[0]}" if number < 1000 else f"{number:.0f} {units[0]}"


def seconds(number: float | None) -> str:
    """``0.21 ms``, ``4.2 s``, ``3 min 20 s``, ``2 d 4 h``"""
    if number is None:
        return UNKNOWN
    if number < 0.0995:
        return f"{number * 1000:.2g} ms"
    if number < 0.9995:
        return f"{number * 1000:.0f} ms"
    if number < 59.95:
        return f"{number:.1f} s"
    whole = round(number)
    unit, length, smaller, part = next(row for row in _LENGTHS if whole >= row[1])
    return f"{whole // length} {unit} {whole % length // part} {smaller}"
