"""Runs pylibmc's own tests, with this package in the place of pylibmc.

.. code-block:: console

    $ python tests/pylibmc_suite.py DIRECTORY ADDRESS UNDER

DIRECTORY has the folder ``tests`` of pylibmc's source distribution. ADDRESS is a memcached, which
is flushed. UNDER is one of :data:`UNDER`: what the tests get as their client.

The last line of the output is JSON: what failed, by test, and the number of tests.
"""

from __future__ import annotations

import doctest
import functools
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Callable

import _pylibmc
import pylibmc.autoconf
import pylibmc.client
import pylibmc.pools
import pylibmc.test
import pytest

import mcpool_wsgi

CONTROL = "pylibmc"
POOLED = "PooledClient"


def pooled(mc: Any) -> mcpool_wsgi.PooledClient:
    pool = mcpool_wsgi.ClientPool(mc, 2)
    with pool.reserve():
        pass  # to make a client: some tests count references
    return mcpool_wsgi.PooledClient(pool)


#: What the tests get in place of the client that they make.
UNDER: dict[str, Callable[[Any], Any]] = {
    CONTROL: lambda mc: mc,
    "Client": lambda mc: mc,
    "ClientPool": lambda mc: mcpool_wsgi.ClientPool(mc, 2).reserve().__enter__(),
    "ThreadMappedPool": lambda mc: mcpool_wsgi.ThreadMappedPool(mc).reserve().__enter__(),
    POOLED: pooled,
}
#: The public names of pylibmc that have another implementation here.
REPLACED = ("Client", "ClientPool", "ThreadMappedPool")


def replace_pylibmc(under: Callable[[Any], Any]) -> None:
    """Put this package's classes in the place of pylibmc's."""
    make_original = pylibmc.test.make_test_client

    @functools.wraps(make_original)  # it has examples
    def make_test_client(cls: Any = mcpool_wsgi.Client, *args: Any, **kwargs: Any) -> Any:
        # The text file asks for the class that is written in C.
        cls = mcpool_wsgi.Client if cls is _pylibmc.client else cls
        return under(make_original(cls, *args, **kwargs))

    pylibmc.test.make_test_client = make_test_client
    for name in REPLACED:
        setattr(pylibmc, name, getattr(mcpool_wsgi, name))


class Outcomes(doctest.DocTestRunner):
    """What failed, and how many tests there were. A plugin for pytest, too."""

    def __init__(self) -> None:
        # The text of an error is not compared.
        super().__init__(verbose=False, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
        self.failed: dict[str, str] = {}
        self.count = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.count += report.when == "call"
        if not report.passed:
            self.failed[report.nodeid.rpartition("/")[2]] = report.longreprtext

    def report_start(self, out: Any, test: Any, example: Any) -> None:
        self.count += 1

    def report_failure(self, out: Any, test: Any, example: Any, got: str) -> None:
        self._note(test, example, f"wanted {example.want}but got {got}")

    def report_unexpected_exception(
        self, out: Any, test: Any, example: Any, exc_info: Any
    ) -> None:
        self._note(test, example, f"raised {exc_info[1]!r}")

    def _note(self, test: Any, example: Any, what: str) -> None:
        number = (test.lineno or 0) + example.lineno + 1
        self.failed[f"{test.name}:{number} {example.source.splitlines()[0][:60]}"] = what


def count_references(count: Callable[[list[Any]], list[int]], things: list[Any]) -> list[int]:
    """What *count* returns, without the references of CPython's cache of attributes.

    CPython 3.11 and older count them, and an attribute that is looked up meanwhile may take the
    place of another one. So the number of references to ``"key"`` could fall by one.
    """
    sys._clear_type_cache()
    return count(things)


def run(directory: Path, address: str) -> Outcomes:
    """Run all tests in the folder ``tests`` of *directory*."""
    sys.path.insert(0, str(directory))
    tests: Any = importlib.import_module("tests")
    tests.get_refcounts = functools.partial(count_references, tests.get_refcounts)
    upstream: Any = tests.PylibmcTestCase
    host, _, port = address.rpartition(":")
    upstream.memcached_host, upstream.memcached_port = host, port
    os.environ.update(MEMCACHED_HOST=host, MEMCACHED_PORT=port)
    elasticache = pylibmc.autoconf.elasticache
    elasticache.__defaults__ = (address, *elasticache.__defaults__[1:])  # not 127.0.0.1:11211
    outcomes = Outcomes()
    options = ["-q", "-p", "no:cacheprovider", "-c", "/dev/null", f"--rootdir={directory}"]
    pytest.main([*options, str(directory / "tests")], plugins=[outcomes])
    for path in sorted((directory / "tests").glob("*.txt")):
        examples = doctest.DocTestParser().get_doctest(
            path.read_text(encoding="utf-8"), {}, path.name, str(path), 0
        )
        outcomes.run(examples)
    names = {name: getattr(pylibmc, name) for name in REPLACED}
    for module in (pylibmc, pylibmc.client, pylibmc.pools, pylibmc.test):
        for examples in doctest.DocTestFinder().find(module, extraglobs=names):
            outcomes.run(examples)
    return outcomes


if __name__ == "__main__":
    directory, address, under = sys.argv[1:]
    if under != CONTROL:
        replace_pylibmc(UNDER[under])
    outcomes = run(Path(directory), address)
    print(json.dumps({"failed": outcomes.failed, "count": outcomes.count}))
