"""Beaker with the pool under it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import demand, in_threads
from werkzeug.test import Client as Browser

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware, PooledClient
from mcpool_wsgi.caches.options import EXPIRED

pool = ClientPool()


@pytest.fixture(autouse=True)
def installed() -> None:
    demand("beaker")


@pytest.mark.slow
def test_cache_of_an_ini_file(mc: Client, tmp_path: Path) -> None:
    from beaker.cache import CacheManager
    from beaker.util import parse_cache_config_options

    pool.fill(mc, 2)
    config = {
        "cache.type": "mcpool",
        "cache.pool": f"{__name__}.pool",
        "cache.data_dir": str(tmp_path),
        "cache.expire": "60",
    }
    cache = CacheManager(**parse_cache_config_options(config)).get_cache("namespace")
    made: list[int] = []

    def make() -> str:
        made.append(1)
        return "value"

    def work() -> None:
        assert cache.get("key", createfunc=make) == "value"

    in_threads([work] * 4)
    assert made == [1]
    assert (tmp_path / "container_mcd_lock").is_dir()
    assert mc.get("namespace_key")
    cache.remove("key")
    assert "key" not in cache
    cache.put("key", 5)
    cache.clear()
    assert "key" not in cache
    pool.close()


@pytest.mark.parametrize(("expire", "is_stored"), [(60.5, True), (0.5, True), (-1, False)])
def test_time_may_be_any_number(mc: Client, expire: float, is_stored: bool) -> None:
    from beaker.cache import Cache

    own_pool = ClientPool(mc, 1)
    cache = Cache("namespace", type="mcpool", pool=own_pool)
    assert cache.get("key", createfunc=lambda: "value", expiretime=expire) == "value"
    assert ("key" in cache.namespace) is is_stored
    own_pool.close()


@pytest.mark.parametrize(("expire", "time"), [(60.5, 61), (0.5, 1), (0, 0), (-0.5, EXPIRED)])
def test_memcached_keeps_a_value_for_its_time_and_not_for_ever(
    mc: Client, monkeypatch: pytest.MonkeyPatch, expire: float, time: int
) -> None:
    from beaker.cache import Cache

    times = []
    own_pool = ClientPool(mc, 1)
    namespace = Cache("namespace", type="mcpool", pool=own_pool).namespace
    monkeypatch.setattr(
        namespace, "mc", SimpleNamespace(set=lambda key, value, time=0: times.append(time))
    )
    namespace.set_value("key", "value", expire)
    assert times == [time]
    own_pool.close()


def test_session_uses_the_client_of_its_request(address: str) -> None:
    from beaker.middleware import SessionMiddleware

    mine = PooledClient.from_servers([address], 1, timeout=0)

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        session = environ["beaker.session"]
        session["visits"] = session.get("visits", 0) + 1
        session.save()
        start_response("200 OK", [])
        return [str(session["visits"]).encode()]

    options = {"session.type": "mcpool", "session.pool": mine, "session.timeout": 600}
    wrapped = MemcachedPoolMiddleware(SessionMiddleware(app, options), mine.pool)

    browser = Browser(wrapped)
    assert [browser.get("/", buffered=True).text for _ in range(3)] == ["1", "2", "3"]
    assert mine.pool.stats().reservations == 3


def test_pool_is_required() -> None:
    from beaker.cache import Cache
    from beaker.exceptions import MissingCacheParameter

    with pytest.raises(MissingCacheParameter, match="pool is required"):
        Cache("namespace", type="mcpool", url="127.0.0.1:11211")
    with pytest.raises(ValueError, match=r"not 'no\.pool'"):
        Cache("namespace", type="mcpool", pool="no.pool")


@pytest.mark.parametrize("option", [{"url": "127.0.0.1"}, {"size": 3}, {"fail_soft": True}])
def test_option_of_the_pool_is_refused(mc: Client, option: dict[str, Any]) -> None:
    from beaker.cache import Cache

    (name,) = option
    with pytest.raises(ValueError, match=f"{name} belongs to the pool"):
        Cache("namespace", type="mcpool", pool=ClientPool(mc, 1), **option)
