"""The version stands in one place, and the changelog has the form that it says."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import mcpool_wsgi

CHANGES = Path(__file__).parent.parent / "CHANGES.md"


def test_version_is_that_of_the_installed_package() -> None:
    assert mcpool_wsgi.__version__ == version("mcpool-wsgi")


def test_changelog_has_the_form_of_keep_a_changelog() -> None:
    changes = CHANGES.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", changes, re.MULTILINE)
    assert headings
    for heading in headings:
        assert re.fullmatch(r"\[Unreleased\]|\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading)
        assert f"\n{heading.partition(' ')[0]}: https://" in changes
    kinds = re.findall(r"^### (.+)$", changes, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
