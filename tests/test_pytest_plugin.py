"""The fixtures that the package ships for its users' tests."""

from __future__ import annotations

import os

import pytest

from mcpool_wsgi.devserver import memcached

pytestmark = pytest.mark.servers


def passes(pytester: pytest.Pytester, tests: str, number: int, *options: str) -> None:
    """The *number* of *tests* pass, in a pytest of their own."""
    pytester.makepyfile(tests)
    result = pytester.runpytest_subprocess("-W", "error", *options)
    result.assert_outcomes(passed=number)


def test_session_that_uses_no_fixture_imports_nothing_of_the_package(
    pytester: pytest.Pytester,
) -> None:
    passes(
        pytester,
        """
        import sys

        def test_modules():
            assert "pytest_mcpool_wsgi" in sys.modules
            assert not {"mcpool_wsgi", "pylibmc", "werkzeug"} & set(sys.modules)
        """,
        1,
    )


def test_fixtures_are_listed_with_their_documentation(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--fixtures")
    for name in ("memcached_server", "memcached_address", "memcached_client", "memcached_pool"):
        result.stdout.re_match_lines([f"{name}( .session scope.)? -- .*", " +(A|The) .*"])


def test_client_and_pool_reach_one_server(pytester: pytest.Pytester) -> None:
    passes(
        pytester,
        """
        from mcpool_wsgi import Client, ClientPool

        def test_reach(memcached_server, memcached_address, memcached_client, memcached_pool):
            assert memcached_server.address == memcached_address
            assert type(memcached_client) is Client
            assert type(memcached_pool) is ClientPool
            memcached_client.set("greeting", "hello")
            with memcached_pool.reserve() as mc:
                assert mc.get("greeting") == "hello"
        """,
        1,
    )


def test_each_test_finds_no_keys_in_the_same_server(pytester: pytest.Pytester) -> None:
    passes(
        pytester,
        """
        import pytest

        addresses = set()

        @pytest.mark.parametrize("number", range(3))
        def test_with_client(memcached_client, memcached_server, number):
            assert memcached_client.add("key", number)
            addresses.add(memcached_server.address)
            assert len(addresses) == 1

        def test_with_pool(memcached_pool):
            with memcached_pool.reserve() as mc:
                assert mc.get("key") is None
        """,
        4,
    )


def test_pool_is_closed_after_its_test(pytester: pytest.Pytester) -> None:
    passes(
        pytester,
        """
        import pytest
        from mcpool_wsgi import PoolClosed

        pools = []

        def test_first(memcached_pool):
            pools.append(memcached_pool)

        def test_second():
            with pytest.raises(PoolClosed), pools[0].reserve():
                pass
        """,
        2,
    )


def test_server_ends_with_the_session(pytester: pytest.Pytester) -> None:
    passes(
        pytester,
        """
        import pathlib

        def test_server(memcached_server):
            pathlib.Path("pid").write_text(str(memcached_server.process.pid))
        """,
        1,
    )
    pid = int((pytester.path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_project_can_choose_another_server(pytester: pytest.Pytester) -> None:
    with memcached(embedded=True) as server:
        pytester.makeconftest(
            f"""
            import pytest
            from types import SimpleNamespace

            @pytest.fixture(scope="session")
            def memcached_server():
                return SimpleNamespace(address={server.address!r})
            """
        )
        passes(
            pytester,
            f"""
            def test_client(memcached_client):
                assert memcached_client.addresses == [{server.address!r}]
                assert memcached_client.set("key", 1)
            """,
            1,
        )
