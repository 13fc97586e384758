"""Numbers and texts of the status page."""

from __future__ import annotations

import re

import pytest

from mcpool_wsgi.status import drawings, units
from mcpool_wsgi.status.markup import html

pytestmark = pytest.mark.slow


def test_text_is_escaped_in_attributes_too() -> None:
    assert html('<a b="$x">$x</a>', x="\"<'") == ('<a b="&quot;&lt;&#x27;">&quot;&lt;&#x27;</a>')
    assert html("$x", x=html("<b>")) == "<b>"


def test_one_failure_among_many_commands_can_be_seen() -> None:
    drawing = drawings.bars("", [0, 1], [9999, 9998], str, "")
    (height,) = re.findall(r'class="bad".*? height="([\d.]+)"', drawing)
    assert float(height) >= 1.5


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (units.count(0), "0"),
        (units.count(2.44), "2.4"),
        (units.count(1234567.8), "1,234,568"),
        (units.percent(0.0), "0.0 %"),
        (units.percent(0.99999), "99.9 %"),
        (units.percent(1.0), "100 %"),
        (units.size(0), "0 B"),
        (units.size(1023), "1023 B"),
        (units.size(12.1 * 2**20), "12.1 MiB"),
        (units.size(64 * 2**30), "64 GiB"),
        (units.size(2**60), "1048576 TiB"),
        (units.seconds(0), "0 ms"),
        (units.seconds(0.00021), "0.21 ms"),
        (units.seconds(0.0994), "99 ms"),
        (units.seconds(0.1), "100 ms"),
        (units.seconds(0.9999), "1.0 s"),
        (units.seconds(59.96), "1 min 0 s"),
        (units.seconds(200), "3 min 20 s"),
        (units.seconds(3600), "1 h 0 min"),
        (units.seconds(2 * 86400 + 4 * 3600 + 59), "2 d 4 h"),
        (units.count(None), "–"),  # noqa: RUF001
        (units.percent(None), "–"),  # noqa: RUF001
        (units.size(None), "–"),  # noqa: RUF001
        (units.seconds(None), "–"),  # noqa: RUF001
    ],
)
def test_numbers_are_shown_as_people_read_them(shown: str, text: str) -> None:
    assert shown == text
