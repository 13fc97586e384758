"""Flask-Caching and cachelib with the pool under them."""

from __future__ import annotations

from typing import Any

import pytest
from harness import demand, eventually

from mcpool_wsgi import Client, ClientPool, PooledClient


@pytest.fixture
def installed() -> None:
    demand("flask_caching")


def make_cache(servers: Any, **config: Any) -> tuple[Any, Any]:
    """The app, and the Cache of Flask-Caching."""
    from flask import Flask
    from flask_caching import Cache

    app = Flask("app")
    app.config["CACHE_TYPE"] = "mcpool_wsgi.caches.flask_caching.pooled"
    app.config["CACHE_MEMCACHED_SERVERS"] = servers
    app.config.update(config)
    return app, Cache(app)


@pytest.mark.usefixtures("installed")
class TestFlaskCaching:
    def test_key_prefix_and_timeout_are_those_of_flask_caching(
        self, address: str, mc: Client
    ) -> None:
        _, cache = make_cache([address], CACHE_KEY_PREFIX="mine_", CACHE_DEFAULT_TIMEOUT=1)
        assert cache.set("key", "value")
        assert mc.get("mine_key") == "value"
        eventually(lambda: cache.get("key") is None)
        cache.set("key", "value", timeout=0)  # for ever
        assert cache.get("key") == "value"

    @pytest.mark.parametrize("timeout", [-1, -(10**6)])
    def test_timeout_that_is_over_stores_nothing(self, address: str, timeout: int) -> None:
        _, cache = make_cache([address])
        for write in (cache.set, cache.add):
            assert write("key", "value", timeout=timeout)
            assert cache.get("key") is None
        assert cache.set_many({"key": "value"}, timeout=timeout)
        assert cache.get("key") is None

    @pytest.mark.parametrize("timeout", [31 * 24 * 3600, 2**31, 10**12])
    def test_timeout_in_the_future_stores_the_value(self, address: str, timeout: int) -> None:
        _, cache = make_cache([address])
        assert cache.set("key", "value", timeout=timeout)
        assert cache.get("key") == "value"

    def test_views_and_functions_are_cached(self, address: str) -> None:
        app, cache = make_cache([address])
        calls: list[str] = []

        def view(name: str) -> str:
            calls.append(name)
            return name

        app.add_url_rule("/<name>", view_func=cache.cached(timeout=50)(view))

        def make_double(number: int) -> int:
            calls.append(str(number))
            return 2 * number

        double = cache.memoize(50)(make_double)
        browser = app.test_client()
        assert [browser.get("/a").text for _ in range(3)] == ["a"] * 3
        assert [double(4) for _ in range(3)] == [8] * 3
        assert calls == ["a", "4"]
        cache.delete_memoized(double)
        assert double(4) == 8
        assert calls == ["a", "4", "4"]

    def test_view_whose_key_is_bad_is_not_cached(self, address: str) -> None:
        app, cache = make_cache([address])
        calls: list[str] = []

        def view(name: str) -> str:
            calls.append(name)
            return name

        app.add_url_rule("/<name>", view_func=cache.cached()(view))
        browser = app.test_client()
        bad = {"a%20b": "a b", "a%0d%0aflush_all": "a\r\nflush_all", "b" * 300: "b" * 300}
        for path, name in bad.items():
            assert [browser.get(f"/{path}").text for _ in range(2)] == [name] * 2
            assert calls == [name] * 2
            calls.clear()
        assert cache.cache.pool.stats().failures == 0  # nothing was sent

    def test_credentials_are_those_of_flask_caching(self) -> None:
        _, cache = make_cache(
            ["127.0.0.1"], CACHE_MEMCACHED_USERNAME="me", CACHE_MEMCACHED_PASSWORD="secret"
        )
        assert cache.cache.pool.master._credentials == ("me", "secret")

    def test_class_makes_the_same_as_the_function(self, address: str) -> None:
        _, cache = make_cache(
            [address],
            CACHE_TYPE="mcpool_wsgi.caches.flask_caching.PooledCache",
            CACHE_OPTIONS={"size": 3},
        )
        assert cache.set("key", "value")
        assert cache.cache.pool.stats().slots == 3

    def test_positional_arguments_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"CACHE_ARGS must be empty, not \[5\]"):
            make_cache(["127.0.0.1"], CACHE_ARGS=[5])

    def test_two_apps_have_pools_of_their_own(self, address: str) -> None:
        _, one = make_cache([address])
        _, other = make_cache([address])
        assert one.cache.pool is not other.cache.pool


def test_cachelib_has_all_its_methods(address: str, mc: Client) -> None:
    demand("cachelib")
    from cachelib import MemcachedCache

    pool = ClientPool.from_servers([address], 1, timeout=0)
    cache: Any = MemcachedCache(PooledClient(pool), default_timeout=60)
    assert cache.set("key", "value")
    assert cache.get("key") == mc.get("key") == "value"
    assert cache.get("a b") is None
    assert not cache.add("key", "other")
    assert cache.has("key")
    assert cache.set_many({"a": 1, "b": 2})
    assert cache.get_many("a", "b", "c") == [1, 2, None]
    assert cache.get_dict("a", "c") == {"a": 1, "c": None}
    assert cache.inc("a") == 2
    assert cache.dec("a", 2) == 0
    assert cache.delete("a")
    assert cache.delete_many("b")
    assert not cache.has("b")
    assert cache.clear()
    assert cache.get("key") is None
    assert pool.stats().in_use == 0
