"""Statistics as Prometheus reads them, from an endpoint of prometheus_client."""

from __future__ import annotations

import contextlib
import gc
import math
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pylibmc
import pytest
from apps import serving
from forking import FORKS, succeeds
from harness import eventually, in_threads, run_python, use, waiting
from mortal import Mortal
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.parser import text_string_to_metric_families

from mcpool_wsgi import Client, ClientPool, PoolStats, PoolTimeout, ThreadMappedPool
from mcpool_wsgi.metrics import POOL_NAME, PoolCollector

OUTAGE = "127.0.0.1:1"
#: How the names of what is counted by command begin.
COMMANDS = ("db_client_operation", "mcpool_hits", "mcpool_misses", "mcpool_up")
DURATION = "db_client_operation_duration_seconds"
DURATION_COUNT = f"{DURATION}_count"
DURATION_BUCKET = f"{DURATION}_bucket"
WAIT_TIME = "db_client_connection_wait_time_seconds"


class Figures:
    """A registry that can be scraped over HTTP."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.url = ""

    def scrape(self) -> dict[tuple[str, ...], float]:
        """``{(name, pool, other label ...): figure}``, without those of commands."""
        return {key: value for key, value in self.all().items() if not key[0].startswith(COMMANDS)}

    def commands(self) -> dict[tuple[str, ...], float]:
        """Those of commands, without buckets and sums."""
        found = {key: value for key, value in self.all().items() if key[0].startswith(COMMANDS)}
        left_out = ("_bucket", "_sum")
        return {key: value for key, value in found.items() if not key[0].endswith(left_out)}

    def all(self) -> dict[tuple[str, ...], float]:
        with urllib.request.urlopen(self.url, timeout=10) as response:
            text = response.read().decode()
        found = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = dict(sample.labels)
                key = (sample.name, labels.pop(POOL_NAME), *labels.values())
                assert key not in found
                found[key] = sample.value
        return found


@pytest.fixture
def figures() -> Iterator[Figures]:
    found = Figures()
    with serving(make_wsgi_app(found.registry)) as url:
        found.url = f"{url}metrics"
        yield found


def expected(name: str, pool: Any) -> dict[tuple[str, ...], float]:
    """The figures of ``pool.stats()`` under the names of their metrics."""
    stats = pool.stats()
    found = {
        ("db_client_connections", name, "idle"): stats.idle,
        ("db_client_connections", name, "used"): stats.in_use,
        ("db_client_connection_pending_requests", name): stats.waiting,
        ("db_client_connection_timeouts_total", name): stats.timeouts,
        (f"{WAIT_TIME}_sum", name): stats.seconds_waited,
        (f"{WAIT_TIME}_count", name): stats.reservations + stats.timeouts,
        ("mcpool_reservations_total", name): stats.reservations,
        ("mcpool_waits_total", name): stats.waits,
        ("mcpool_longest_wait_seconds", name): stats.longest_wait,
        ("mcpool_longest_recent_wait_seconds", name): stats.longest_recent_wait,
        ("mcpool_failures_total", name): stats.failures,
        ("mcpool_clients_made_total", name): stats.clients_made,
    }
    if stats.slots is not None:
        found["db_client_connection_max", name] = stats.slots
    waited_less = stats.reservations + stats.timeouts - stats.waits
    for seconds, number in stats.wait_times.items():
        waited_less += number
        bound = "+Inf" if seconds == math.inf else str(seconds)
        found[f"{WAIT_TIME}_bucket", name, bound] = waited_less
    for reason, number in stats.clients_renewed.items():
        found["mcpool_clients_renewed_total", name, reason] = number
    return found


def test_scrape_gives_the_statistics_of_all_pools(mc: Client, figures: Figures) -> None:
    bounded, mapped = ClientPool(mc, 3), ThreadMappedPool(Client([OUTAGE]))
    figures.registry.register(PoolCollector({"default": bounded, 'se"ssions\n': mapped}))
    assert figures.scrape() == {**expected("default", bounded), **expected('se"ssions\n', mapped)}

    # The figures get different values, so that none can stand for another.
    in_threads([lambda: use(bounded)] * 8)
    for _ in range(2):
        with mapped.reserve() as client, pytest.raises(pylibmc.Error):
            client.get("key")
    bounded.fill(mc, 1)
    bounded.set_servers(mc.addresses)
    reservations = [bounded.reserve() for _ in range(4)]
    for reservation in reservations:
        reservation.__enter__()
    with pytest.raises(PoolTimeout):
        bounded.reserve(timeout=0.01).__enter__()
    with waiting(bounded, lambda: use(bounded)):
        reservations[0].release()  # the waiter gets the client for a moment
    waiter = threading.Thread(target=use, args=(bounded,))
    reservations[0] = bounded.reserve()
    reservations[0].__enter__()
    waiter.start()
    eventually(lambda: bounded.stats().waiting == 1)

    found = figures.scrape()
    assert found == {**expected("default", bounded), **expected('se"ssions\n', mapped)}
    assert found["db_client_connections", "default", "used"] == 4
    assert found["db_client_connection_pending_requests", "default"] == 1
    assert found["db_client_connection_timeouts_total", "default"] == 1
    assert found["db_client_connection_max", "default"] == 4
    assert found[f"{WAIT_TIME}_sum", "default"] >= 0.01
    assert found["mcpool_longest_wait_seconds", "default"] >= 0.01
    assert found["mcpool_waits_total", "default"] >= 2
    assert found["mcpool_failures_total", 'se"ssions\n'] == 2
    assert ("db_client_connection_max", 'se"ssions\n') not in found
    for reservation in reservations:
        reservation.__exit__(None, None, None)
    waiter.join(10)
    assert figures.scrape() == {**expected("default", bounded), **expected('se"ssions\n', mapped)}


def test_renewals_are_counted_by_reason(address: str, mc: Client, figures: Figures) -> None:
    pool = ClientPool(mc, 1)
    figures.registry.register(PoolCollector({"default": pool}))
    with pool.reserve():
        pool.set_servers([address])
    with pool.reserve():
        pool.fill(mc, 1)
    with pool.reserve():
        pass
    found = figures.scrape()
    assert found == expected("default", pool)
    assert found["mcpool_clients_renewed_total", "default", "servers"] == 1
    assert found["mcpool_clients_renewed_total", "default", "fill"] == 1


def test_scrape_reserves_no_client(mc: Client, figures: Figures) -> None:
    pool = ClientPool(mc, 1)
    figures.registry.register(PoolCollector({"default": pool}))
    with pool.reserve():
        figures.scrape()
    assert pool.stats().reservations == 1


def test_closed_pool_keeps_its_counts(mc: Client, figures: Figures) -> None:
    pool = ClientPool(mc, 2)
    figures.registry.register(PoolCollector({"default": pool}))
    with pool.reserve():
        pass
    pool.close()
    found = figures.scrape()
    assert found == expected("default", pool)
    assert found["mcpool_reservations_total", "default"] == 1
    assert found["db_client_connections", "default", "idle"] == 0


def test_pool_without_references_is_absent(mc: Client, figures: Figures) -> None:
    pools = {"kept": ClientPool(mc, 1), "dropped": ThreadMappedPool(mc)}
    figures.registry.register(PoolCollector(pools))
    assert {key[1] for key in figures.scrape()} == {"kept", "dropped"}
    del pools["dropped"]
    gc.collect()
    assert {key[1] for key in figures.scrape()} == {"kept"}


def test_commands_are_counted_by_name_and_error(mc: Client, figures: Figures) -> None:
    pool = ClientPool(mc, 1)
    figures.registry.register(PoolCollector({"default": pool}))
    assert figures.commands() == {}
    with pool.reserve() as client:
        client.set("key", 1)
        client.get("key")
        client.get("missing")
        client.get_multi(["key", "one", "two"])
        client.touch("missing", 1)
        with contextlib.suppress(pylibmc.NotFound):
            client.incr("missing")
        with pytest.raises(pylibmc.Error):
            client.set("key", "x" * (1 << 21))
        client.disconnect_all()
    assert figures.commands() == {
        (DURATION_COUNT, "default", "get", "memcached", ""): 2,
        (DURATION_COUNT, "default", "get_multi", "memcached", ""): 1,
        (DURATION_COUNT, "default", "incr", "memcached", ""): 1,
        (DURATION_COUNT, "default", "set", "memcached", ""): 1,
        (DURATION_COUNT, "default", "set", "memcached", "TooBig"): 1,
        (DURATION_COUNT, "default", "touch", "memcached", ""): 1,
        ("mcpool_hits_total", "default", "get"): 1,
        ("mcpool_hits_total", "default", "get_multi"): 1,
        ("mcpool_misses_total", "default", "get"): 1,
        ("mcpool_misses_total", "default", "get_multi"): 2,
        ("mcpool_up", "default"): 1,
    }


@pytest.mark.slow
def test_command_is_in_the_buckets_of_its_time(mortal: Mortal, figures: Figures) -> None:
    pool = ClientPool(Client([mortal.address], command_timeout=0.3), 1)
    figures.registry.register(PoolCollector({"default": pool}))
    with pool.reserve() as client:
        client.get("key")
        mortal.stop()
        with pytest.raises(pylibmc.Error) as raised:
            client.get("key")
        mortal.go_on()
    error = type(raised.value).__name__
    found = figures.all()
    assert found[DURATION_BUCKET, "default", "get", "memcached", "", "0.25"] == 1
    assert found[DURATION_BUCKET, "default", "get", "memcached", error, "0.25"] == 0
    assert found[DURATION_BUCKET, "default", "get", "memcached", error, "+Inf"] == 1
    assert found[f"{DURATION}_sum", "default", "get", "memcached", error] > 0.25


@pytest.mark.slow
def test_up_tells_of_the_last_command(mortal: Mortal, figures: Figures) -> None:
    pool = ClientPool(Client([mortal.address], fail_soft=True), 1)
    figures.registry.register(PoolCollector({"default": pool}))

    def up() -> float | None:
        return figures.all().get(("mcpool_up", "default"))

    with pool.reserve() as client:
        client.disconnect_all()  # sends nothing
        with pytest.raises(Exception, match="cannot be stored"):
            client.set("key", lambda: 0)  # neither does this
        assert up() is None
        client.get("key")
        assert up() == 1
        mortal.kill()
        client.get("key")
        client.disconnect_all()
        client.get_multi([])  # sends nothing, either
        assert up() == 0
        mortal.start()
        eventually(lambda: client.set("key", 1))
        assert up() == 1


def test_wait_is_in_the_buckets_of_its_time(mc: Client, figures: Figures) -> None:
    pool = ClientPool(mc, 1)
    figures.registry.register(PoolCollector({"default": pool}))
    with pool.reserve(), pytest.raises(PoolTimeout):
        pool.reserve(timeout=0.02).__enter__()
    found = figures.all()
    assert found[f"{WAIT_TIME}_bucket", "default", "0.001"] == 1
    assert found[f"{WAIT_TIME}_bucket", "default", "0.01"] == 1
    assert found[f"{WAIT_TIME}_count", "default"] == 2


def test_no_counter_goes_down_while_the_pool_adds_up(mc: Client, figures: Figures) -> None:
    class Changing(ClientPool):
        """A pool that is asked while a reservation has waited, and is not counted yet."""

        changes = False

        def stats(self) -> PoolStats:
            stats = super().stats()
            if not self.changes:
                return stats
            return replace(stats, reservations=stats.reservations - 1, waits=stats.waits + 1)

    pool = Changing(mc, 1)
    figures.registry.register(PoolCollector({"default": pool}))
    for _ in range(3):
        with pool.reserve():
            pass
    before = figures.all()
    pool.changes = True
    during = figures.all()
    for name in ("mcpool_reservations_total", f"{WAIT_TIME}_count"):
        assert during[name, "default"] == before[name, "default"] == 3
    assert during[f"{WAIT_TIME}_bucket", "default", "0.001"] == 3


def test_pools_are_known_by_their_names(mc: Client, figures: Figures) -> None:
    pools = [ClientPool(mc, 1, name="one"), ThreadMappedPool(mc, name="two")]
    figures.registry.register(PoolCollector(pools))
    assert {key[1] for key in figures.scrape()} == {"one", "two"}
    alone = PoolCollector(pools[0]).collect()
    assert {each.labels[POOL_NAME] for family in alone for each in family.samples} == {"one"}
    with pytest.raises(ValueError, match="two pools have the name 'one'"):
        PoolCollector([ClientPool(mc, 1, name="one"), ClientPool(mc, 2, name="one")])


@pytest.mark.servers
@pytest.mark.parametrize("fork", FORKS)
def test_child_does_not_report_figures_of_its_parent(fork: Any, mc: Client) -> None:
    pool = ClientPool(mc, 2)
    collector = PoolCollector({"default": pool})
    hits = {POOL_NAME: "default", "db_operation_name": "get"}
    with pool.reserve() as client, pool.reserve():
        client.set("key", 1)
        client.get("key")

        def look() -> None:
            registry = CollectorRegistry()
            registry.register(collector)
            labels = {POOL_NAME: "default"}
            assert registry.get_sample_value("mcpool_hits_total", hits) is None
            assert registry.get_sample_value("mcpool_up", labels) is None
            client.get("key")
            client.get("key")
            assert registry.get_sample_value("mcpool_hits_total", hits) == 2
            assert registry.get_sample_value("mcpool_reservations_total", labels) == 0
            assert registry.get_sample_value("db_client_connection_max", labels) == 2

        succeeds(fork(look))
    assert pool.stats().reservations == 2


def test_registry_refuses_a_second_collector(mc: Client) -> None:
    registry = CollectorRegistry()
    pool = ClientPool(mc, 1)
    registry.register(PoolCollector({"default": pool}))
    with pytest.raises(ValueError, match="db_client_connections"):
        registry.register(PoolCollector({"other": pool}))


def test_pool_without_statistics_is_refused(mc: Client) -> None:
    theirs: Any = {"theirs": pylibmc.ClientPool(mc, 1)}
    with pytest.raises(TypeError, match="of this package, not <"):
        PoolCollector(theirs)
    nameless: Any = {1: ClientPool(mc, 1)}
    with pytest.raises(TypeError, match="must be a str, not 1"):
        PoolCollector(nameless)


def test_error_says_what_to_install_if_prometheus_client_is_missing() -> None:
    script = "import sys; sys.modules['prometheus_client'] = None; import mcpool_wsgi.metrics"
    done = run_python(script)
    assert done.returncode == 1
    assert "ImportError: mcpool_wsgi.metrics needs prometheus_client: pip install" in done.stderr
