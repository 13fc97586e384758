"""pylibmc's own tests, with this package in the place of pylibmc.

They are in the source distributions of pylibmc and pylibmc2, which pip downloads once into
``.pytest_cache``. ``MCPOOL_PYLIBMC_SDISTS`` may name a directory that has both already.
``pylibmc_suite.py`` runs the tests in a process of their own: with pylibmc itself, with
:class:`Client`, with a client of each pool, and with :class:`PooledClient`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import _pylibmc
import pylibmc
import pytest
from harness import source_distribution
from pylibmc_suite import CONTROL, POOLED, UNDER

from mcpool_wsgi.devserver import Memcached, memcached

pytestmark = pytest.mark.servers

#: pylibmc2 is the same module, and has one more file of tests.
SDISTS = {"pylibmc": "1.6.3", "pylibmc2": "1.6.4"}
SUITE = Path(__file__).with_name("pylibmc_suite.py")

#: What is meant to be different, by reason.
DIFFERENCES = {
    "A key that would be read as a command is an InvalidKey, and is not sent.": [
        "test_cmemcached.py::TestCmemcached::testDelete",
        "test_cmemcached.py::TestCmemcached::testGetMulti",
        "doctests.txt:212 try:",  # incr of a NUL byte
    ],
    "A key that is too long is an InvalidKey, which is a ValueError of another name.": [
        "doctests.txt:294 mc.get('x'*251)",
    ],
    "A single str in place of many keys is a TypeError. pylibmc takes each letter for a key.": [
        'doctests.txt:68 sorted(c.get_multi("abc"))',
        'doctests.txt:70 c.delete_multi("abc")',
        'doctests.txt:72 not(c.get_multi("abc").keys())',
        'doctests.txt:76 sorted(c.get_multi("abc", key_prefix="test_").items())',
        'doctests.txt:80 c.delete_multi("abc", key_prefix="test_")',
        'doctests.txt:82 bool(c.get_multi("abc", key_prefix="test_"))',
    ],
    "The class that is written in C takes the number of a hash. pylibmc.Client takes its name.": [
        'doctests.txt:219 c.set_behaviors({"tcp_nodelay": True, "hash": 6})',
        "doctests.txt:221 behaviors_items == sorted((k, v) for (k, v) in c.get_behavio",
        'doctests.txt:280 super(pylibmc.Client, pc).get_behaviors()["hash"] == 6',
    ],
}
# Some versions of CPython, 3.12 among them, count no references to the constants of a test.
if eval("sys.getrefcount('constant')") < 1000:
    DIFFERENCES[
        "The test keeps an error and counts references. The frames of this package have the key."
    ] = ["test_serialization.py::SerializationTests::test_override_deserialize"]
#: What is different with a PooledClient only.
DIFFERENCES_OF_POOLED = {
    "All users of a pool share its behaviors, so a PooledClient does not change them.": [
        'doctests.txt:268 pc.behaviors.update({"hash": "fnv1a_32", "distribution": "co',
        'doctests.txt:269 (pc.behaviors["hash"], pc.behaviors["distribution"])',
        "doctests.txt:277 b[\"hash\"] = 'fnv1a_32'",
        'doctests.txt:278 pc.behaviors["hash"]',
        'doctests.txt:282 pc.set_behaviors({"_retry_timeout": 123})',
        "doctests.txt:305 c.set_behaviors({'cas': True})",
        "doctests.txt:306 c.gets('')",
        "doctests.txt:308 c.gets('non_existing_key')",
        "doctests.txt:314 mc.behaviors['pickle_protocol'] = 2",
        "doctests.txt:317 mc.behaviors['pickle_protocol'] = 1",
        "doctests.txt:320 mc.behaviors['pickle_protocol'] = -1",
    ],
    "The test uses the class that is written in C, and a PooledClient takes only a Client.": [
        "test_serialization.py::SerializationTests::test_refcounts",
    ],
}
#: What fails with pylibmc itself.
CONTROL_FAILURES = {}
if _pylibmc.__version__ != pylibmc.__version__:
    CONTROL_FAILURES["doctests.txt:5 _pylibmc.__version__ == pylibmc.__version__"] = (
        "A wheel of pylibmc2 has two version numbers."
    )
#: What may fail with pylibmc itself, too: memcached counts whole seconds, so a value for one
#: second may be gone at once.
OF_ONE_SECOND = ['doctests.txt:103 c.get("hi")', 'doctests.txt:113 c.get("hi2")']


def unpack_tests(sdist: Path, directory: Path) -> None:
    """Write the folder ``tests`` of *sdist* into *directory*."""
    tests = directory / "tests"
    tests.mkdir(exist_ok=True)
    with tarfile.open(sdist) as archive:
        for member in archive:
            path = Path(member.name)
            file = archive.extractfile(member) if path.parent.name == "tests" else None
            if file is None:
                continue
            target, content = tests / path.name, file.read()
            assert not target.exists() or target.read_bytes() == content, (
                f"the two packages have different tests in {path.name}: run both"
            )
            target.write_bytes(content)


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, embedded: bool, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What failed, and the number of tests, by what was tested."""
    if embedded or shutil.which("memcached") is None:
        pytest.skip("needs the real memcached")
    given = os.environ.get("MCPOOL_PYLIBMC_SDISTS")
    downloads = Path(given) if given else request.config.cache.mkdir("pylibmc-sdists")
    directory = tmp_path_factory.mktemp("pylibmc")
    for name, version in SDISTS.items():
        unpack_tests(source_distribution(downloads, name, version), directory)
    environ = {name: os.environ[name] for name in os.environ if not name.startswith("PYTEST")}
    environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    # CPython 3.14 counts no references to constants that come from a .pyc file. Whether the first
    # of these processes has written it when the next one looks would decide what fails.
    environ["PYTHONDONTWRITEBYTECODE"] = "1"
    running = {}
    found = {}
    with ExitStack() as stack:
        for under in UNDER:
            server = stack.enter_context(memcached(embedded=False))
            command = [sys.executable, str(SUITE), str(directory), server.address, under]
            running[under] = subprocess.Popen(
                command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            stack.callback(running[under].kill)
        for under, process in running.items():
            output, errors = process.communicate(timeout=300)
            assert process.returncode == 0, output + errors
            found[under] = json.loads(output.splitlines()[-1])
    return found


def check(failed: dict[str, str], expected: dict[str, str]) -> None:
    """Check that the tests that *failed* are the *expected* ones."""
    failed = {test: failed[test] for test in failed if test not in OF_ONE_SECOND}
    assert {test: failed[test] for test in failed if test not in expected} == {}, "unexpected"
    assert {test: expected[test] for test in expected if test not in failed} == {}, "they pass"


@pytest.fixture(scope="module")
def failures_of_the_server(real_memcached: Memcached) -> dict[str, str]:
    """What fails with pylibmc itself, because memcached is newer than the test."""
    host, _, port = real_memcached.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"incr \0 1\r\n")
        if connection.makefile("rb").readline() == b"NOT_FOUND\r\n":
            return {"doctests.txt:212 try:": "A NUL byte is a key like any other."}
    return {}


def test_pylibmc_itself_passes(
    outcomes: dict[str, Any], failures_of_the_server: dict[str, str]
) -> None:
    check(outcomes[CONTROL]["failed"], {**CONTROL_FAILURES, **failures_of_the_server})
    assert outcomes[CONTROL]["count"] > 200


@pytest.mark.parametrize("under", [under for under in UNDER if under != CONTROL])
def test_differences_are_those_that_are_meant(outcomes: dict[str, Any], under: str) -> None:
    differences = {**DIFFERENCES, **(DIFFERENCES_OF_POOLED if under == POOLED else {})}
    reasons = {test: reason for reason, tests in differences.items() for test in tests}
    check(outcomes[under]["failed"], {**reasons, **CONTROL_FAILURES})
    assert outcomes[under]["count"] == outcomes[CONTROL]["count"]
