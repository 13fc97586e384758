"""The floors of the package: a module imports only from the rooms below its own."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mcpool_wsgi"
#: From the top to the bottom. Rooms on one floor do not know each other.
FLOORS = [
    ["caches", "config", "metrics", "opentelemetry", "status", "devserver"],
    ["discovery", "middleware", "pooled"],
    ["pool"],
    ["client"],
    ["forks", "interpreters", "errors"],
]
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room(module: Path) -> str:
    return module.parts[0].removesuffix(".py")


def is_module(package: Path, name: str) -> bool:
    """Whether to import *name* from *package* gives a module, and nothing that it has from one."""
    if package / f"{name}.py" not in MODULES:
        return False
    init = (PACKAGE / package / "__init__.py").read_text(encoding="utf-8")
    return f" import {name} as {name}\n" not in init


def imported(module: Path) -> Iterator[tuple[str, ...]]:
    """The modules of this package that *module* imports, types included, from its top."""
    package = module.parent.parts
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert not alias.name.startswith("mcpool_wsgi"), "import it relatively"
        elif isinstance(node, ast.ImportFrom):
            source = node.module.split(".") if node.module else []
            if not node.level:
                assert source[0] != "mcpool_wsgi", "import it relatively"
                continue
            start = (*package[: len(package) - node.level + 1], *source)
            for alias in node.names:
                is_deeper = not source or is_module(Path(*start), alias.name)
                yield (*start, alias.name) if is_deeper else start


def test_every_room_has_a_floor() -> None:
    rooms = {room(module) for module in MODULES} - {"__init__"}
    assert rooms == {name for floor in FLOORS for name in floor}


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_module_imports_from_rooms_below_its_own(module: Path) -> None:
    if room(module) == "__init__":
        return
    number = next(number for number, floor in enumerate(FLOORS) if room(module) in floor)
    below = {name for floor in FLOORS[number + 1 :] for name in floor}
    for target in imported(module):
        if target[0] != room(module):
            assert target[0] in below, f"{module} imports {'.'.join(target)}"
            assert len(target) == 1, f"{module} imports from inside {target[0]}"


@pytest.mark.parametrize("name", ["client", "middleware", "pool"])
def test_room_with_many_modules_says_what_each_is_for(name: str) -> None:
    tree = ast.parse((PACKAGE / name / "__init__.py").read_text(encoding="utf-8"))
    named = re.findall(r"``(\w+)``(?=[,:])", ast.get_docstring(tree) or "")
    assert sorted(named) == sorted(path.stem for path in (PACKAGE / name).glob("[!_]*.py"))


def order(modules: dict[str, set[str]]) -> list[str]:
    """*modules* such that each comes after those that it imports."""
    done: list[str] = []
    while len(done) < len(modules):
        ready = [name for name in modules if name not in done and modules[name] <= set(done)]
        assert ready, f"a circle among {set(modules) - set(done)}"
        done += ready
    return done


@pytest.mark.parametrize("package", sorted({room(path) for path in MODULES if path.parent.name}))
def test_modules_of_a_room_import_each_other_in_no_circle(package: str) -> None:
    inside = [module for module in MODULES if room(module) == package]
    names = {module.stem for module in inside} - {"__init__"}
    assert order(
        {
            module.stem: {target[1] for target in imported(module) if target[0] == package} & names
            for module in inside
            if module.stem != "__init__"
        }
    )
