"""Django's cache with the pool under it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from harness import Connections, demand, django_settings, eventually, in_thread, in_threads
from mortal import Mortal
from werkzeug.test import EnvironBuilder

from mcpool_wsgi import Client, ClientPool

BACKEND = "mcpool_wsgi.caches.django.PooledCache"


@pytest.fixture(autouse=True)
def installed() -> None:
    demand("django")


@contextmanager
def configured(**aliases: dict[str, Any]) -> Iterator[Any]:
    """``caches`` with these *aliases*."""
    settings = {alias: {"BACKEND": BACKEND, **aliases[alias]} for alias in aliases}
    with django_settings(CACHES=settings):
        from django.core.cache import caches

        yield caches


@pytest.fixture
def cache(address: str) -> Iterator[Any]:
    with configured(default={"LOCATION": address, "OPTIONS": {"size": 2}}) as caches:
        yield caches["default"]


# -- Pools


def test_pools_made_by_threads_at_once_are_one(address: str) -> None:
    for number in range(20):
        with configured(default={"LOCATION": address, "KEY_PREFIX": str(number)}) as caches:
            meeting = threading.Barrier(4)
            pools: list[Any] = []

            def work(caches: Any = caches, meeting: Any = meeting, pools: Any = pools) -> None:
                meeting.wait(10)
                pools.append(caches["default"].pool)

            in_threads([work] * 4)
            assert len(set(map(id, pools))) == 1


def test_aliases_have_pools_of_their_own(address: str) -> None:
    options = {"size": 2}
    same = {"LOCATION": address, "OPTIONS": options}
    with configured(
        default=same,
        same=same,
        equal={"LOCATION": address, "OPTIONS": dict(options)},
        prefix={"LOCATION": address, "OPTIONS": options, "KEY_PREFIX": "prefix"},
    ) as caches:
        pools = {alias: caches[alias].pool for alias in caches}
        assert len(set(map(id, pools.values()))) == 4
        assert [pool.name for pool in pools.values()] == list(pools)
        other: dict[str, Any] = {}
        in_thread(lambda: other.update({alias: caches[alias].pool for alias in reversed(pools)}))
        assert other == pools


def test_pool_has_the_name_of_its_alias_if_an_agent_wraps_what_makes_the_cache(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.core.cache import CacheHandler

    make = CacheHandler.create_connection

    def traced(*args: Any) -> Any:
        return make(*args)

    monkeypatch.setattr(CacheHandler, "create_connection", traced)
    with configured(default={"LOCATION": address}) as caches:
        assert caches["default"].pool.name == "default"


def test_cache_of_another_thread_is_used_in_all(address: str) -> None:
    same = {"LOCATION": address, "OPTIONS": {"size": 2}}
    with configured(default=same, same=same) as caches:
        cache = caches["same"]  # as in a module that is imported once
        in_threads([lambda: cache.set("key", "value")] * 4)
        assert cache.get("key") == "value"
        assert cache.pool is caches["same"].pool is not caches["default"].pool
        assert cache.pool.name == "same"


def test_other_settings_make_another_pool(address: str) -> None:
    with configured(default={"LOCATION": address, "OPTIONS": {"size": 2}}) as caches:
        before = caches["default"].pool
        with configured(default={"LOCATION": address, "OPTIONS": {"size": 3}}):
            assert caches["default"].pool.stats().slots == 3
        assert caches["default"].pool is not before
        assert caches["default"].pool.stats().slots == 2


def test_other_settings_close_the_connections(address: str, connections: Connections) -> None:
    with configured(default={"LOCATION": address}) as caches:
        caches["default"].set("key", "value")
        assert connections.count() == 1
    eventually(lambda: connections.count() == 0)


def test_subclass_that_changes_its_settings_has_one_pool(address: str) -> None:
    with configured(default={"LOCATION": address}) as caches:
        from mcpool_wsgi.caches.django import PooledCache

        class Mine(PooledCache):
            def __init__(self, location: Any, params: dict[str, Any]) -> None:
                super().__init__(location, {"OPTIONS": {"size": params["size"]}})

        assert Mine(address, {"size": 3}).pool is Mine(address, {"size": 3}).pool
        assert Mine(address, {"size": 3}).pool is not caches["default"].pool
        assert Mine(address, {"size": 4}).pool.stats().slots == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"OPTIONS": "size=3"}, "OPTIONS must be a dict, not 'size=3'"),
        ({"OPTIONS": ["size"]}, "OPTIONS must be a dict, not"),
        ({"LOCATION": 123}, "LOCATION must be a list of servers, not 123"),
        ({"LOCATION": {"host": 1}}, "LOCATION must be a list of servers, not {'host': 1}"),
        ({"OPTIONS": {"behaviors": ["cas"]}}, r"behaviors must be a dict, not \['cas'\]"),
        ({"OPTIONS": {"size": True}}, "size must be an int, not True"),
    ],
)
def test_wrong_setting_is_named(settings: dict[str, Any], message: str) -> None:
    with configured(default={"LOCATION": "127.0.0.1:1", **settings}) as caches:
        from django.core.exceptions import ImproperlyConfigured

        with pytest.raises(ImproperlyConfigured, match=rf"^CACHES\['default'\]: {message}"):
            caches["default"].get("key")


def test_options_may_be_none(address: str) -> None:
    with configured(default={"LOCATION": address, "OPTIONS": None}) as caches:
        assert caches["default"].set("key", 1) is None
        assert caches["default"].get("key") == 1


def test_error_names_the_alias() -> None:
    from django.core.exceptions import ImproperlyConfigured

    message = r"CACHES\['sessions'\]: unknown option 'max'; the options are size"
    with (
        configured(default={}, sessions={"LOCATION": "/", "OPTIONS": {"max": 1}}) as caches,
        pytest.raises(ImproperlyConfigured, match=message),
    ):
        caches["sessions"]


def test_pool_of_the_site_is_used_without_a_location(address: str) -> None:
    with (
        ClientPool.from_servers([address], 1) as pool,
        configured(default={"OPTIONS": {"pool": pool}}) as caches,
    ):
        caches["default"].set("key", "value")
        assert caches["default"].pool is pool
        with pool.reserve() as mc:
            assert mc.get(":1:key") == "value"


def test_pools_of_one_name_are_told_apart(address: str) -> None:
    from mcpool_wsgi.caches.django import PooledCache

    for size in 1, 2:
        with ClientPool.from_servers([address], size, name="shared") as pool:
            assert PooledCache("", {"OPTIONS": {"pool": pool}}).pool is pool


# -- Requests


def test_end_of_a_request_keeps_the_connection(cache: Any, connections: Connections) -> None:
    from django.core.signals import request_finished

    cache.set("key", "value")
    request_finished.send(sender=None)
    assert connections.count() == 1
    assert cache.get("key") == "value"
    assert cache.pool.stats().clients_made == 1


def test_sessions_are_in_the_cache(address: str, mc: Client) -> None:
    with configured(default={"LOCATION": address}):
        from django.contrib.sessions.backends.cache import SessionStore

        session = SessionStore()
        session["user"] = 5
        session.save()
        assert SessionStore(session.session_key)["user"] == 5
        assert mc.get(f":1:django.contrib.sessions.cache{session.session_key}")
        session.flush()
        assert "user" not in SessionStore(session.session_key)


def test_session_is_missing_for_django_if_no_client_comes_free(address: str) -> None:
    """Django catches every error of a read: docs/how-to/caches.md tells what follows."""
    options = {"size": 1, "timeout": 0}
    with configured(default={"LOCATION": address, "OPTIONS": options}) as caches:
        from django.contrib.sessions.backends.cache import SessionStore

        session = SessionStore()
        session["user"] = 5
        session.save()
        with caches["default"].pool.reserve():
            read = SessionStore(session.session_key)
            assert "user" not in read
            assert read.session_key is None
        assert SessionStore(session.session_key)["user"] == 5


async def async_use(cache: Any) -> Any:
    await cache.aset("key", "value")
    return await cache.aget("key")


def test_asynchronous_methods_use_the_pool(cache: Any) -> None:
    import asyncio

    assert asyncio.run(async_use(cache)) == "value"


# -- The API. Django's own tests run in test_djangos_own_tests.py.


def test_versions_and_prefixes_are_in_the_key(address: str, mc: Client) -> None:
    with configured(default={"LOCATION": address, "KEY_PREFIX": "site", "VERSION": 3}) as caches:
        cache = caches["default"]
        cache.set("key", 1)
        assert mc.get("site:3:key") == 1
        assert cache.get("key", version=2) is None
        assert cache.incr_version("key") == 4
        assert cache.get("key", version=4) == 1


@pytest.mark.parametrize("timeout", [0, -1, 0.5, -(10**12)])
def test_timeout_that_is_over_stores_nothing(cache: Any, timeout: float) -> None:
    cache.set("key", "before")
    cache.set("key", "value", timeout)
    assert cache.get("key") is None
    assert cache.add("key", "value", timeout)
    assert cache.get("key") is None
    cache.set("key", "value")
    assert cache.touch("key", timeout)
    assert cache.get("key") is None
    assert cache.set_many({"key": "value"}, timeout) == []
    assert cache.get("key") is None


@pytest.mark.parametrize("timeout", [None, 60, 2592000, 2592001, 86400 * 365 * 100])
def test_timeout_in_the_future_stores_the_value(cache: Any, timeout: float | None) -> None:
    cache.set("key", "value", timeout)
    assert cache.touch("key", timeout)
    assert cache.get("key") == "value"


@pytest.mark.slow
def test_value_expires(cache: Any) -> None:
    cache.set("key", "value", 1)
    assert cache.get("key") == "value"
    eventually(lambda: cache.get("key") is None)


def test_timeout_of_the_settings(address: str) -> None:
    with configured(
        default={"LOCATION": address, "TIMEOUT": 0}, forever={"LOCATION": address, "TIMEOUT": None}
    ) as caches:
        for alias, value in [("default", None), ("forever", "value")]:
            caches[alias].set("key", "value")
            assert caches[alias].get("key") == value


def test_incr_and_decr_count_as_django_says(cache: Any) -> None:
    cache.set("key", 5)
    assert cache.incr("key") == 6
    assert cache.decr("key", 10) == 0  # memcached does not count below 0
    assert cache.incr("key", 0) == 0
    with pytest.raises(ValueError, match="missing' not found"):
        cache.incr("missing")


def test_delta_that_is_too_large_is_no_missing_key(cache: Any) -> None:
    cache.set("key", 2**31)
    for count, delta in [(cache.incr, 2**31), (cache.decr, 2**31), (cache.incr, 10**5000)]:
        with pytest.raises(OverflowError, match="delta of key 'key' must be at most 2147483647"):
            count("key", delta)
    assert cache.decr("key", 2**31 - 1) == 1


def test_commands_of_many_keys_work(cache: Any) -> None:
    assert cache.set_many({"a": 1, "b": 2}) == []
    assert cache.get_many(["a", "b", "c"]) == {"a": 1, "b": 2}
    cache.delete_many(["a", "c"])
    assert cache.get_many(["a", "b"]) == {"b": 2}


def test_get_or_set_and_clear(cache: Any) -> None:
    assert cache.get_or_set("key", lambda: "made") == "made"
    assert cache.get_or_set("key", lambda: "again") == "made"
    assert "key" in cache
    cache.clear()
    assert "key" not in cache
    cache.set("none", None)
    assert cache.get("none", "default") is None


@pytest.mark.parametrize("key", ["a b", "a\nflush_all", "x" * 251, "é" * 126])
def test_bad_key_is_an_error(cache: Any, key: str) -> None:
    for command in (cache.get, cache.delete, cache.incr):
        with pytest.raises(ValueError, match=r"[Cc]ache key|memcached key"):
            command(key)


def test_value_without_pickle(address: str) -> None:
    import json

    options = {"serializer": json}
    with configured(default={"LOCATION": address, "OPTIONS": options}) as caches:
        caches["default"].set("key", {"a": [1]})
        assert caches["default"].get("key") == {"a": [1]}


# -- The client of the request


def test_request_has_the_environ_as_its_meta(address: str) -> None:
    """Type checkers know no ``environ`` of a request of Django."""
    with configured(default={"LOCATION": address}):
        from django.core.handlers.wsgi import WSGIRequest

        environ = EnvironBuilder().get_environ()
        assert WSGIRequest(environ).META is environ


# -- Outages


@pytest.mark.servers
def test_outage_with_fail_soft_is_a_miss_and_ends(mortal: Mortal) -> None:
    options = {"fail_soft": True, "size": 2}
    with configured(default={"LOCATION": mortal.address, "OPTIONS": options}) as caches:
        cache = caches["default"]
        cache.set("key", 1)
        mortal.kill()
        cache.set("key", 2)
        assert cache.get("key", "default") == "default"
        assert cache.get_many(["key"]) == {}
        assert cache.set_many({"key": 1, "other": 2}) == ["key", "other"]
        assert cache.add("key", 1) is False
        assert cache.touch("key") is False
        assert cache.delete("key") is False
        assert cache.get_or_set("key", 3) == 3
        for count in (cache.incr, cache.decr, cache.incr_version):
            with pytest.raises(ValueError, match="'key' not found"):
                count("key")
        cache.delete_many(["key"])
        cache.clear()
        mortal.start()
        eventually(lambda: cache.set("key", 5) or cache.get("key"), deadline=30)
        assert cache.incr("key") == 6
