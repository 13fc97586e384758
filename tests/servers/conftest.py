"""Every test that asks for ``server`` runs once for each; each is started once."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from harness import Connections

from mcpool_wsgi.devserver import memcached

from .catalogue import SERVERS, Server
from .launch import Running, running


def demand(server: Server) -> None:
    """Skip what needs *server* where it is not installed, unless all servers must be."""
    if server.version() is None:
        reason = f"{server.name} is not installed: {' or '.join(server.distributions)}"
        if os.environ.get("MCPOOL_REQUIRE_SERVERS", "0") != "0":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def cache(server_kind: bool | None) -> Iterator[Connections]:
    """A memcached for the servers, and how many connections it has."""
    with memcached(embedded=server_kind) as found:
        yield Connections(found.address)


@pytest.fixture(scope="session", params=SERVERS, ids=lambda server: server.name)
def server(request: pytest.FixtureRequest, cache: Connections) -> Iterator[Running]:
    demand(request.param)
    with running(request.param, cache.address) as found:
        yield found
