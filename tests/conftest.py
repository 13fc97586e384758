"""Which memcached the tests talk to, and what most of them need."""

from __future__ import annotations

import gc
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from harness import Connections, eventually
from mortal import Mortal

from mcpool_wsgi import Client, ClientPool, PooledClient, ThreadMappedPool
from mcpool_wsgi.devserver import Memcached, memcached

if TYPE_CHECKING:
    from nameserver import Nameserver

pytest_plugins = ["pytester"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--memcached",
        choices=["auto", "real", "devserver"],
        default="auto",
        help="which memcached to test against; auto: the real one if it is installed",
    )


def _embedded(config: pytest.Config) -> bool:
    wanted = config.getoption("--memcached")
    return wanted == "devserver" or (wanted == "auto" and shutil.which("memcached") is None)


def pytest_report_header(config: pytest.Config) -> str:
    with memcached(embedded=_embedded(config)) as server:
        return f"memcached: {server}"


@pytest.fixture(scope="session")
def embedded(request: pytest.FixtureRequest) -> bool:
    """What to give memcached()."""
    return _embedded(request.config)


@pytest.fixture(scope="session")
def server_connections(embedded: bool) -> Iterator[Connections]:
    with memcached(embedded=embedded) as server:
        yield Connections(server.address)


@pytest.fixture
def address(server_connections: Connections) -> str:
    """A memcached with nothing in it."""
    server_connections.mc.flush_all()
    return server_connections.address


@pytest.fixture
def mc(address: str) -> Client:
    return Client([address])


@pytest.fixture
def pool(mc: Client) -> ClientPool:
    """Two slots, and hardly a wait."""
    return ClientPool(mc, 2, timeout=0.05)


@pytest.fixture
def cas_mc(address: str) -> Client:
    return Client([address], {"cas": True})


@pytest.fixture
def cache(pool: ClientPool) -> PooledClient:
    return PooledClient(pool)


@pytest.fixture(params=[ClientPool, ThreadMappedPool])
def either_pool(request: pytest.FixtureRequest, mc: Client) -> Any:
    return ClientPool(mc, 4) if request.param is ClientPool else ThreadMappedPool(mc)


@pytest.fixture
def connections(server_connections: Connections) -> Connections:
    """The connections to the memcached; there are none at first."""
    if server_connections.count():
        gc.collect()
    try:
        eventually(lambda: server_connections.count() == 0, "the connections of earlier tests end")
    finally:
        server_connections.ignore_those_open()  # one test fails for them, not all that follow
    return server_connections


@pytest.fixture
def mortal(embedded: bool) -> Iterator[Mortal]:
    server = Mortal(embedded)
    yield server
    server.kill()


@pytest.fixture
def nodes(embedded: bool) -> Iterator[list[Mortal]]:
    """Three servers that the test may kill."""
    with ExitStack() as running:
        servers = []
        for _ in range(3):
            servers.append(Mortal(embedded))
            running.callback(servers[-1].kill)
        yield servers


@pytest.fixture(scope="module")
def real_memcached() -> Iterator[Memcached]:
    """For what the embedded server does not speak."""
    if shutil.which("memcached") is None:
        pytest.skip("needs the real memcached")
    with memcached(embedded=False) as server:
        yield server


@pytest.fixture(scope="module")
def devserver() -> Iterator[Memcached]:
    with memcached(embedded=True) as server:
        yield server


@pytest.fixture
def names() -> Iterator[Nameserver]:
    """A name server that knows no names yet."""
    from nameserver import nameserver  # needs dnspython, and most tests do not

    with nameserver() as server:
        yield server


@pytest.fixture
def system_names(names: Nameserver, monkeypatch: pytest.MonkeyPatch) -> Nameserver:
    """The same, in the place of the name servers in ``/etc/resolv.conf``."""
    monkeypatch.setattr("dns.resolver.Resolver", lambda: names.resolver())
    return names


@pytest.fixture
def without_dnspython(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mcpool_wsgi.discovery.queries", raising=False)
    monkeypatch.delattr("mcpool_wsgi.discovery.queries", raising=False)
    for module in [module for module in sys.modules if module.partition(".")[0] == "dns"]:
        monkeypatch.setitem(sys.modules, module, None)
