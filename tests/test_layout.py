"""The order of the modules, as CONTRIBUTING has it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent.parent
PACKAGE = HERE / "mcpool_wsgi"


def imported(module: Path) -> Iterator[str]:
    """The modules of this package that *module* names, for types alone included."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from [node.module] if node.module else [alias.name for alias in node.names]


def test_modules_import_those_above_them_only() -> None:
    contributing = (HERE / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", contributing, re.MULTILINE)
    modules = re.findall(r"`(\w+)\.py`", "".join(rows))
    assert sorted(modules) == sorted(
        path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"
    )
    for number, module in enumerate(modules):
        below = set(imported(PACKAGE / f"{module}.py")) - set(modules[:number])
        assert not below, f"{module} imports {below}, which CONTRIBUTING names after it"
