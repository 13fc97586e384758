"""All checks, each in an environment of its own: ``nox``, or one of them: ``nox -s tests-3.12``.

``nox -R`` uses the environments of the last run. Arguments after ``--`` are for pytest.
"""

from __future__ import annotations

import glob
import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.10.14"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
NO_SERVERS = ["-m", "not servers"]
ROOT = Path(__file__).parent

# The commands of pyenv run the active versions only.
os.environ["PATH"] = os.pathsep.join(
    [os.environ["PATH"], *glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin"))]
)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests that start no servers. Arguments replace ``-m "not servers"``."""
    session.install("-e", ".[test,examples,caches]")
    session.run("pytest", *(session.posargs or NO_SERVERS))


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """The tests that start no servers, with the oldest versions that pyproject.toml allows."""
    session.install("uv")
    session.run_install(
        "uv", "pip", "install", "--resolution=lowest-direct", "-e", ".[test,caches]"
    )
    session.run("pytest", *(session.posargs or NO_SERVERS))


@nox.session
def newest(session: nox.Session) -> None:
    """The tests that start no servers, with the newest versions, pre-releases too."""
    session.install("--pre", "--upgrade", "-e", ".[test,examples,caches]")
    session.run("pytest", *(session.posargs or NO_SERVERS))


@nox.session
def types(session: nox.Session) -> None:
    """mypy, and pyright on the public names, through an editable install as an editor has it."""
    session.install("-e", ".[test,lint]", "pyright[nodejs]")
    session.run("mypy")
    with session.chdir(session.create_tmp()):
        session.run("pyright", "--ignoreexternal", "--verifytypes", "mcpool_wsgi")


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, and the files in .github against their schemas."""
    session.install("ruff", "check-jsonschema")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    for schema, files in {
        "dependabot": ".github/dependabot.yml",
        "github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
        "github-issue-forms": ".github/ISSUE_TEMPLATE/[!c]*.yml",
        "github-workflows": ".github/workflows/*.yml",
    }.items():
        session.run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *glob.glob(files))


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation site, in docs/_build/html."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "-n", "-b", "html", "docs", "docs/_build/html")


@nox.session
def package(session: nox.Session) -> None:
    """What is published, in dist/: it installs, imports and is typed throughout."""
    session.install("build", "twine", "pyright[nodejs]", "pytest")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "-m", "build")
    files = sorted(str(file) for file in (ROOT / "dist").iterdir())
    session.run("twine", "check", "--strict", *files)
    with session.chdir(session.create_tmp()):
        for file in files:
            session.install("--force-reinstall", file)
            session.run("python", "-c", "import mcpool_wsgi; print(mcpool_wsgi.__file__)")
            session.run("python", "-c", "import pytest_mcpool_wsgi")  # pytest does it everywhere
            session.run("pyright", "--ignoreexternal", "--verifytypes", "mcpool_wsgi")
