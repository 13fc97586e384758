"""The version stands in one place, and the changelog begins with it."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import mcpool_wsgi

CHANGES = Path(__file__).parent.parent / "CHANGES.md"


def test_version_is_that_of_the_installed_package() -> None:
    assert mcpool_wsgi.__version__ == version("mcpool-wsgi")


def test_changelog_begins_with_the_version() -> None:
    headings = re.findall(r"^## \[?([^\]\s]+)", CHANGES.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == mcpool_wsgi.__version__
