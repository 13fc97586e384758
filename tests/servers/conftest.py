"""Every test that asks for ``server`` runs once for each server. Each server starts once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import Connections, missing

from mcpool_wsgi.devserver import memcached

from .catalogue import SERVERS, Server
from .launch import Running, running


def demand(server: Server) -> None:
    """Skip the test if *server* is not installed."""
    if not server.is_installed():
        missing(f"{server.name} ({' or '.join(server.distributions)})")


@pytest.fixture(scope="session")
def cache(embedded: bool) -> Iterator[Connections]:
    """A memcached for the servers, and the number of its connections."""
    with memcached(embedded=embedded) as found:
        yield Connections(found.address)


@pytest.fixture(scope="session", params=SERVERS, ids=lambda server: server.name)
def server(request: pytest.FixtureRequest, cache: Connections) -> Iterator[Running]:
    demand(request.param)
    with running(request.param, cache.address) as found:
        yield found
