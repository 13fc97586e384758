"""dogpile.cache with the pool under it."""

from __future__ import annotations

import json
import threading
from typing import Any

import pylibmc
import pytest
from apps import serve
from harness import demand, eventually, in_thread, in_threads
from mortal import Mortal

from mcpool_wsgi import Client, ClientPool, InvalidKey, MemcachedPoolMiddleware


@pytest.fixture(autouse=True)
def installed() -> None:
    demand("dogpile.cache")


def make_region(**arguments: Any) -> Any:
    from dogpile.cache import make_region

    return make_region().configure("mcpool", arguments=arguments)


def test_region_of_an_ini_file(address: str) -> None:
    from dogpile.cache import make_region

    region = make_region().configure_from_config(
        {
            "cache.backend": "mcpool",
            "cache.arguments.url": address,
            "cache.arguments.size": "3",
            "cache.arguments.fail_soft": "true",
            "cache.arguments.distributed_lock": "true",
        },
        "cache.",
    )
    assert region.get_or_create("key", lambda: 5) == 5
    backend: Any = region.backend
    assert backend.pool.stats().slots == 3
    assert backend.distributed_lock


def test_many_keys(address: str) -> None:
    region = make_region(url=[address])
    region.set_multi({"a": 1, "b": 2})
    assert region.get_multi(["a", "b"]) == [1, 2]
    region.delete_multi(["a", "b"])
    assert not any(region.get_multi(["a", "b"]))
    assert region.get_or_create_multi(["a", "b"], lambda *keys: list(keys)) == ["a", "b"]


def test_function_of_two_arguments_needs_a_key_mangler(address: str) -> None:
    from dogpile.cache import make_region
    from dogpile.cache.util import sha1_mangle_key

    def cached(region: Any) -> Any:
        region.configure("mcpool", arguments={"url": address})
        return region.cache_on_arguments()(lambda a, b: [a, b])

    with pytest.raises(InvalidKey, match="hash"):  # dogpile puts a space between them
        cached(make_region())(1, 2)
    assert cached(make_region(key_mangler=sha1_mangle_key))(1, 2) == [1, 2]


@pytest.mark.slow
def test_time_and_compression_reach_memcached(address: str, mc: Client) -> None:
    region = make_region(url=address, memcached_expire_time=1, min_compress_len=10)
    region.set("key", "x" * 5000)
    assert region.get("key") == "x" * 5000
    assert mc.append("key", "")  # it is there
    eventually(lambda: not mc.append("key", ""))


def test_serializer_of_the_region_replaces_pickle(address: str, mc: Client) -> None:
    from dogpile.cache import make_region

    region = make_region(
        serializer=lambda value: json.dumps(value).encode(), deserializer=json.loads
    ).configure("mcpool", arguments={"url": address, "allow_pickle": False})
    region.set("key", {"a": [1]})
    assert region.get("key") == {"a": [1]}
    assert b'{"a": [1]}' in mc.get("key")


def test_serializer_of_the_client_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"serializer is an argument of make_region\(\)"):
        make_region(url=address, serializer=json)


@pytest.mark.parametrize(
    "arguments",
    [
        {"lock_timeout": 0.5},
        {"lock_timeout": -1},
        {"memcached_expire_time": "60"},
        {"memcached_expire_time": 2**31},
        {"min_compress_len": -1},
        {"distributed_lock": "no"},
    ],
    ids=str,
)
def test_wrong_argument_of_dogpiles_own_is_an_error_at_once(arguments: dict[str, Any]) -> None:
    [name] = arguments
    with pytest.raises((TypeError, ValueError), match=name):
        make_region(url="127.0.0.1:1", **arguments)


def test_argument_of_dogpiles_own_that_is_none_is_not_given(address: str) -> None:
    names = ["distributed_lock", "lock_timeout", "memcached_expire_time", "min_compress_len"]
    region = make_region(url=address, **dict.fromkeys(names))
    assert region.get_or_create("key", lambda: 5) == 5
    assert region.backend.get_mutex("key") is None


# -- The distributed lock


@pytest.fixture
def locked(address: str) -> Any:
    return make_region(url=address, size=2, distributed_lock=True, lock_timeout=30)


@pytest.mark.slow
def test_only_one_thread_makes_the_value(locked: Any) -> None:
    meeting = threading.Barrier(4)
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return len(made)

    def work() -> None:
        meeting.wait(10)
        assert locked.get_or_create("key", make) == 1

    in_threads([work] * 4)
    assert made == [1]


def test_lock_is_in_memcached(locked: Any, mc: Client) -> None:
    mutex, same = locked.backend.get_mutex("key"), locked.backend.get_mutex("key")
    assert mutex.acquire()
    assert mc.get("_lockkey") == 1
    assert same.locked()
    assert not same.acquire(wait=False)
    mutex.release()
    assert not same.locked()
    assert same.acquire(wait=False)


@pytest.mark.slow
def test_lock_expires(address: str) -> None:
    backend = make_region(url=address, distributed_lock=True, lock_timeout=1).backend
    assert backend.get_mutex("key").acquire()
    eventually(lambda: backend.get_mutex("key").acquire(wait=False))


def test_without_a_distributed_lock_there_is_none_in_memcached(address: str) -> None:
    region = make_region(url=address)
    assert region.backend.get_mutex("key") is None
    assert region.get_or_create("key", lambda: 5) == 5


def test_lock_of_a_request_uses_its_client(address: str) -> None:
    pool = ClientPool.from_servers([address], 1, timeout=0)
    region = make_region(pool=pool, distributed_lock=True)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        return [region.get_or_create("key", lambda: b"made")]

    assert serve(MemcachedPoolMiddleware(app, pool)) == [b"made"]
    assert pool.stats().reservations == 1


def test_outage_with_fail_soft_does_not_wait_for_the_lock(mortal: Mortal) -> None:
    region = make_region(url=mortal.address, fail_soft=True, distributed_lock=True)
    mortal.kill()
    for _ in range(3):
        in_thread(lambda: region.get_or_create("key", lambda: 5))


def test_lock_is_not_acquired_because_a_command_of_another_thread_fails(
    address: str, mortal: Mortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two servers one is down, and the lock is on the other one."""
    region = make_region(
        url=[address, mortal.address],
        fail_soft=True,
        distributed_lock=True,
        lock_timeout=30,
        behaviors={"ketama": False, "remove_failed": 1000, "dead_timeout": 1},
    )
    backend = region.backend
    mortal.kill()
    with backend.pool.reserve() as mc:
        here = next(key for key in map(str, range(99)) if mc.set(f"_lock{key}", 1))
        gone = next(key for key in map(str, range(99)) if not mc.set(key, 1))
    add = Client.add

    def fail_meanwhile(client: Client, *args: Any) -> bool:
        added = add(client, *args)
        in_thread(lambda: backend.get(gone))
        return added

    monkeypatch.setattr(Client, "add", fail_meanwhile)
    failures = backend.pool.stats().failures
    assert not backend.get_mutex(here).acquire(wait=False)
    assert backend.pool.stats().failures > failures


def test_outage_without_fail_soft_is_an_error_of_the_lock(mortal: Mortal) -> None:
    region = make_region(url=mortal.address, distributed_lock=True)
    mortal.kill()
    mutex = region.backend.get_mutex("key")
    with pytest.raises(pylibmc.Error):
        mutex.acquire()
