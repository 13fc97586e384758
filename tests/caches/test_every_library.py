"""What is true of every cache library with the pool under it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from typing import Any

import pylibmc
import pytest
from apps import request, serve
from forking import FORKS, succeeds
from harness import Connections, in_threads
from servers.catalogue import SERVERS
from servers.launch import running
from servers.wire import get_json

from mcpool_wsgi import ClientPool, MemcachedPoolMiddleware, PooledClient, get_client

from .libraries import LIBRARIES, Opener, opener

NOWHERE = ["127.0.0.1:1"]
#: The others get a pool, and no options.
WITH_OPTIONS = ["Django", "Flask-Caching", "dogpile.cache"]

shared_pool = ClientPool.from_servers(NOWHERE, 1, timeout=0)
shared_client = PooledClient(shared_pool)


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> Any:
    opener(request.param)  # skips the test if it is not installed
    return request.param


@pytest.fixture
def open_cache(library: str) -> Opener:
    return opener(library)


def test_values_are_stored_and_found(open_cache: Opener, address: str) -> None:
    with open_cache([address]) as cache:
        assert cache.get("key") is None
        for value in ["text", b"bytes", 5, {"a": [1, None, 2.5]}]:
            cache.set("key", value)
            assert cache.get("key") == value


@pytest.mark.slow
def test_threads_share_one_pool(
    open_cache: Opener, address: str, connections: Connections
) -> None:
    with open_cache([address], size=3) as cache:

        def work(number: int) -> None:
            for round_ in range(100):
                cache.set(f"key{number}", round_ + 1)
                assert cache.get(f"key{number}") == round_ + 1

        in_threads([lambda number=number: work(number) for number in range(12)])  # type: ignore[misc]
        assert 1 <= connections.count() <= 3
        assert cache.pool.stats().size == connections.count()


@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.servers
def test_it_is_used_before_and_after_a_fork(
    open_cache: Opener, address: str, connections: Connections, fork: Any
) -> None:
    with open_cache([address]) as cache:
        cache.set("key", "value")

        def read() -> None:
            assert [cache.get("key") for _ in range(50)] == ["value"] * 50

        def work() -> None:
            read()
            assert connections.count() == 3  # the parent's, the child's, and this one

        succeeds(fork(work))
        read()


@pytest.mark.parametrize("path", ["/", "/wrapped"])
@pytest.mark.servers
def test_gunicorn_preloads_it(
    library: str,
    path: str,
    address: str,
    connections: Connections,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (gunicorn,) = [server for server in SERVERS if server.name == "gunicorn gthread"]
    monkeypatch.setenv("TEST_LIBRARY", library)
    monkeypatch.setenv("TEST_MEMCACHED", address)
    command = (
        "{python} -m gunicorn --bind 127.0.0.1:{port} --preload --worker-class gthread"
        " --workers 2 --threads 4 caches.preloaded:application"
    )
    with running(gunicorn, address, command=command) as found:
        answers: list[dict[str, int]] = []

        def ask() -> None:
            for _ in range(10):
                answers.append(get_json(found.port, path))

        in_threads([ask] * 8)
        assert {answer["wrong"] for answer in answers} == {0}, found.log.read_text()[-2000:]
        workers = {answer["pid"] for answer in answers}
        assert not workers & {answer["parent"] for answer in answers}
        assert {answer["size"] for answer in answers} <= {1, 2}
        assert connections.count() <= 2 * len(workers) + 1  # the parent has one


# -- Behind the middleware


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("owner", ["library", "pool", "client"])
def test_request_uses_its_own_client(
    open_cache: Opener, address: str, owner: str, lazy: bool
) -> None:
    # One slot, so that a reservation of a second client fails at once.
    client = PooledClient.from_servers([address], 1, timeout=0)
    given: dict[str, tuple[Any, dict[str, Any]]] = {
        "library": ([address], {"size": 1, "timeout": 0}),
        "pool": (None, {"pool": client.pool}),
        "client": (None, {"pool": client}),
    }
    servers, options = given[owner]
    with open_cache(servers, **options) as cache:
        pool = cache.pool
        assert (pool is client.pool) is (owner != "library")

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            get_client(environ).set("raw", "value")
            cache.set("key", "value")
            yield get_client(environ).get("raw").encode()
            yield cache.get("key").encode()

        wrapped = MemcachedPoolMiddleware(app, pool, lazy=lazy)
        response = request(wrapped)
        reservations = pool.stats().reservations
        assert list(response) == [b"value", b"value"]
        response.close()
        assert pool.stats().reservations == reservations + lazy
        assert pool.stats().in_use == 0


def test_request_that_makes_the_cache_uses_its_own_client(
    open_cache: Opener, address: str
) -> None:
    pool = ClientPool.from_servers([address], 1, timeout=0)

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with open_cache(None, pool=pool) as cache:
            cache.set("key", "value")
            yield cache.get("key").encode()

    for _ in range(2):
        assert serve(MemcachedPoolMiddleware(app, pool)) == [b"value"]
    assert pool.stats().reservations == 2
    pool.close()  # Django keeps its caches, and so the pool


# -- Options


def test_outage_is_a_miss_with_fail_soft(open_cache: Opener) -> None:
    with open_cache(NOWHERE, fail_soft=True) as cache:
        cache.set("key", "value")
        assert cache.get("key") is None
        assert cache.pool.stats().failures


def test_outage_is_an_error_without_fail_soft(open_cache: Opener) -> None:
    with open_cache(NOWHERE) as cache, pytest.raises(pylibmc.Error):
        cache.get("key")


@pytest.mark.parametrize("name", ["shared_pool", "shared_client"])
def test_pool_is_imported(open_cache: Opener, name: str) -> None:
    with open_cache(None, pool=f"{__name__}.{name}") as cache:
        assert cache.pool is shared_pool
        with pytest.raises(pylibmc.Error):
            cache.get("key")


@pytest.mark.parametrize(
    ("servers", "options", "message"),
    [
        (NOWHERE, {"sise": 12}, "unknown option 'sise'; the options are size, timeout, .*, pool"),
        (NOWHERE, {"size": 0}, "size must be a positive number, not 0"),
        (NOWHERE, {"timeout": -1}, "timeout must be a finite number of seconds"),
        (NOWHERE, {"fail_soft": "false"}, "fail_soft must be True or False, not 'false'"),
        (NOWHERE, {"behaviors": {"tcp_delay": 1}}, "unknown behavior names: tcp_delay"),
        (NOWHERE, {"username": "me", "binary": False, "password": "x"}, "binary"),
        (["host:port"], {}, "'host:port' is not the address of a memcached"),
        (None, {}, r"(LOCATION|url|CACHE_MEMCACHED_SERVERS) is missing: name the servers"),
        (NOWHERE, {"pool": shared_pool}, r"give either pool or (LOCATION|url|CACHE_MEM)"),
        (None, {"pool": shared_pool, "size": 2}, "give either pool or size"),
        (None, {"pool": 5}, "needs a pool of this package, not 5"),
        (None, {"pool": "no.such.pool"}, "a pool or where to import it, not 'no.such.pool'"),
    ],
)
@pytest.mark.parametrize("library", WITH_OPTIONS)
def test_wrong_option_is_an_error_at_once(
    library: str, servers: Any, options: dict[str, Any], message: str
) -> None:
    open_cache = opener(library)
    errors: tuple[type[Exception], ...] = (TypeError, ValueError)
    if library == "Django":
        from django.core.exceptions import ImproperlyConfigured

        errors = (ImproperlyConfigured,)
    with pytest.raises(errors, match=message), open_cache(servers, **options):
        pass


@pytest.mark.parametrize("library", WITH_OPTIONS)
def test_options_reach_the_client(library: str) -> None:
    options = {
        "size": 3,
        "timeout": 0.5,
        "behaviors": {"connect_timeout": 300},
        "command_timeout": 2.0,
        "binary": True,
        "allow_pickle": False,
    }
    with opener(library)("10.0.1.1, 10.0.1.2:11212;10.0.1.3", **options) as cache:
        master = cache.pool.master
        assert cache.pool.stats().slots == 3
        assert cache.pool.timeout == 0.5
        assert master.addresses == ["10.0.1.1", "10.0.1.2:11212", "10.0.1.3"]
        assert master.behaviors["connect_timeout"] == 300
        assert master.binary
        with pytest.raises(ValueError, match="pickle"):
            master.set("key", [])


@pytest.mark.parametrize("library", WITH_OPTIONS)
def test_distribution_of_pylibmc_can_be_kept(library: str) -> None:
    servers = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]
    old = pylibmc.Client(servers)
    with opener(library)(servers, behaviors={"ketama": False}) as cache:
        for number in range(50):
            key = b"key%d" % number
            assert cache.pool.master.hash(key) == old.hash(key)


@pytest.mark.parametrize("servers", ["unix:/memcached.sock", ["unix:/memcached.sock"]])
@pytest.mark.parametrize("library", WITH_OPTIONS)
def test_unix_socket_is_written_as_in_django(library: str, servers: Any) -> None:
    with opener(library)(servers) as cache:
        assert cache.pool.master.addresses == ["/memcached.sock"]


@pytest.mark.parametrize("library", WITH_OPTIONS)
def test_username_implies_the_binary_protocol(library: str) -> None:
    with opener(library)(NOWHERE, username="me", password="secret") as cache:
        assert cache.pool.master.binary


@pytest.mark.parametrize("library", WITH_OPTIONS)
def test_size_has_a_default(library: str) -> None:
    with opener(library)(NOWHERE) as cache:
        assert cache.pool.stats().slots == 12


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("beaker", "beaker.container", "beaker"),
        ("django", "django.core.cache", "django"),
        ("dogpile", "dogpile.cache.backends.memcached", "dogpile"),
        ("flask_caching", "flask_caching.backends.memcache", "flask-caching"),
    ],
)
def test_missing_library_is_named(
    module: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"mcpool_wsgi.caches.{module}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"pip install 'mcpool-wsgi\[{extra}\]'"):
        importlib.import_module(f"mcpool_wsgi.caches.{module}")
