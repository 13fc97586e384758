"""Names in DNS that are followed. The name server and the memcacheds are real."""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from typing import Any

import dns.name
import dns.rcode
import dns.resolver
import pytest
from forking import FORKS, in_child, succeeds
from harness import eventually
from nameserver import Nameserver

from mcpool_wsgi import Client, ClientPool, ThreadMappedPool
from mcpool_wsgi.discovery import Discovery, look_up, source_of

pytestmark = pytest.mark.servers

INTERVAL = 0.01
NAME = "memcached.cache.test"
SERVICE = "_memcache._tcp.memcached.cache.test"


def following(pool: Any, source: str, names: Nameserver, **options: Any) -> Discovery:
    options = {"interval": INTERVAL, "min_interval": INTERVAL, **options}
    return Discovery(pool, source, resolver=names.resolver(), **options)


def servers_of(pool: Any) -> list[str]:
    with pool.reserve() as mc:
        return list(mc.addresses)


def asked(names: Nameserver, times: int = 2) -> None:
    """Wait for this number of questions. The answer to the last but one has then been used."""
    enough = len(names.questions) + times
    eventually(lambda: len(names.questions) >= enough)


def a_pool() -> ClientPool:
    return ClientPool(Client(["127.0.0.1:1"], fail_soft=True), 2)


# -- The addresses of a name


def test_all_addresses_of_a_name_are_used(names: Nameserver) -> None:
    names.records[NAME, "A"] = ["10.0.0.2", "10.0.0.10", "10.0.0.1"]
    for source, port in ((f"dns+{NAME}:11311", 11311), (f"dns+{NAME}", 11211)):
        pool = a_pool()
        with following(pool, source, names):
            wanted = [f"10.0.0.{number}:{port}" for number in (1, 2, 10)]
            assert servers_of(pool) == sorted(wanted)


def test_ipv6_addresses_are_used_if_there_are_no_others(names: Nameserver) -> None:
    pool = a_pool()
    names.records[NAME, "AAAA"] = ["fe80::2", "fe80::1"]
    with following(pool, f"dns+{NAME}", names):
        assert servers_of(pool) == ["[fe80::1]:11211", "[fe80::2]:11211"]
        names.records[NAME, "A"] = ["10.0.0.1"]
        eventually(lambda: servers_of(pool) == ["10.0.0.1:11211"])


@pytest.mark.parametrize("how", ["hangs", "SERVFAIL"])
def test_ipv4_addresses_that_dns_does_not_tell_do_not_become_ipv6_addresses(
    names: Nameserver, how: str
) -> None:
    """Otherwise one lost packet would move all keys to other servers, and back."""
    pool = a_pool()
    names.records.update({(NAME, "A"): ["10.0.0.1"], (NAME, "AAAA"): ["fe80::1"]})
    with following(pool, f"dns+{NAME}", names, timeout=0.1):
        eventually(lambda: servers_of(pool) == ["10.0.0.1:11211"])  # on a busy machine, later
        if how == "hangs":
            names.hangs_for = {"A"}
        else:
            names.fails_with = {"A": dns.rcode.SERVFAIL}
        asked(names, 4)
        assert servers_of(pool) == ["10.0.0.1:11211"]


def test_answer_that_is_too_long_for_a_datagram_is_complete(names: Nameserver) -> None:
    names.records[NAME, "A"] = [f"10.0.{number}.1" for number in range(200)]
    source = source_of(f"dns+{NAME}", names.resolver())
    assert len(source.ask(10).servers) == 200
    assert [transport for *_, transport in names.questions] == ["udp", "tcp"]


def test_short_names_are_searched_for_as_in_a_pod(names: Nameserver) -> None:
    resolver = names.resolver()
    resolver.search = [dns.name.from_text(f"{n}cluster.local") for n in ("web.svc.", "svc.", "")]
    resolver.ndots = 5
    names.records["memcached.cache.svc.cluster.local", "A"] = ["10.0.0.1"]
    name = "_memcache._tcp.memcached.cache.svc.cluster.local"
    names.records[name, "SRV"] = ["0 0 11211 pod-0.test."]
    for source, server in (
        ("dns+memcached.cache.svc", "10.0.0.1:11211"),
        ("dnssrv+_memcache._tcp.memcached.cache.svc", "pod-0.test:11211"),
    ):
        assert source_of(source, resolver).ask(10).servers == [server]


def test_order_of_an_answer_changes_nothing(names: Nameserver) -> None:
    """The name server gives another order each time."""
    for kind, source in (("A", f"dns+{NAME}"), ("SRV", f"dnssrv+{SERVICE}")):
        pool = a_pool()
        names.records.clear()
        if kind == "A":
            names.records[NAME, "A"] = [f"10.0.0.{number}" for number in range(10)]
        else:
            for number in range(10):
                names.records[f"pod-{number}.test", "A"] = [f"10.0.0.{number}", "10.1.0.1"]
            names.records[SERVICE, "SRV"] = [f"0 0 11211 pod-{n}.test." for n in range(10)]
        with following(pool, source, names):
            before = servers_of(pool)
            assert before == sorted(before)
            asked(names, 60)
            assert servers_of(pool) == before
        assert pool.stats().clients_renewed == {}


@pytest.mark.parametrize("kind", [ClientPool, ThreadMappedPool])
def test_servers_that_come_and_go_are_followed(kind: Any, names: Nameserver) -> None:
    pool = kind.from_servers(["127.0.0.1:1"], 2, fail_soft=True)
    names.records[NAME, "A"] = ["10.0.0.1"]
    with following(pool, f"dns+{NAME}", names):
        for addresses in (["10.0.0.1", "10.0.0.2"], ["10.0.0.2"], ["10.0.0.3", "10.0.0.2"]):
            names.records[NAME, "A"] = addresses
            wanted = sorted(f"{address}:11211" for address in addresses)
            eventually(lambda: servers_of(pool) == wanted)  # noqa: B023


# -- SRV records


def test_servers_of_srv_records_are_names(names: Nameserver) -> None:
    pool = a_pool()
    names.records[SERVICE, "SRV"] = [
        "10 1 11212 pod-1.test.",
        "0 9 11211 POD-0.test.",
        "0 9 11211 without-address.test.",
    ]
    names.records["pod-0.test", "A"] = ["10.0.0.1"]
    names.records["pod-1.test", "AAAA"] = ["fe80::1"]
    with following(pool, f"dnssrv+{SERVICE}", names):
        assert servers_of(pool) == [
            "pod-0.test:11211",
            "pod-1.test:11212",
            "without-address.test:11211",
        ]


def test_clients_are_renewed_when_a_name_in_srv_records_gets_another_address(
    names: Nameserver,
) -> None:
    pool = a_pool()
    names.records[SERVICE, "SRV"] = ["0 0 11211 pod-0.test.", "0 0 11211 pod-1.test."]
    names.records["pod-0.test", "A"] = ["10.0.0.1"]
    names.records["pod-1.test", "A"] = ["10.0.0.2"]
    with following(pool, f"dnssrv+{SERVICE}", names):
        before = servers_of(pool)
        asked(names, 10)
        servers_of(pool)
        assert pool.stats().clients_renewed == {}
        names.records["pod-1.test", "A"] = ["10.0.0.3"]

        def is_renewed() -> bool:
            assert servers_of(pool) == before
            return pool.stats().clients_renewed == {"servers": 1}

        eventually(is_renewed)


def test_service_that_does_not_exist_has_no_servers(names: Nameserver) -> None:
    source = source_of(f"dnssrv+{SERVICE}", names.resolver())
    names.records[SERVICE, "SRV"] = ["0 0 0 ."]
    with pytest.raises(OSError, match="no servers"):
        source.ask(10)
    names.records[SERVICE, "SRV"] = ["0 0 0 pod-0.test."]
    with pytest.raises(ValueError, match=r"no server in it: 0 0 0 pod-0\.test\."):
        source.ask(10)


# -- What fails


def fails(names: Nameserver, how: str) -> None:
    if how == "unknown name":
        names.records.clear()
    elif how == "no records":
        names.records = {(name, "TXT"): ["text"] for name, _ in names.records}
    elif how == "hangs":
        names.hangs = True
    elif how == "no such service":
        names.records[SERVICE, "SRV"] = ["0 0 0 ."]
    elif how == "bad name":
        names.records[SERVICE, "SRV"] = ["0 0 11211 not\\032a\\032name.test."]
        names.records["not\\032a\\032name.test", "A"] = ["10.0.0.1"]
    else:
        names.fails_with = dict.fromkeys(("A", "AAAA", "SRV"), dns.rcode.from_text(how))


FAILURES = ["unknown name", "no records", "hangs", "SERVFAIL", "REFUSED"]
SRV_FAILURES = [*FAILURES, "no such service", "bad name"]


@pytest.mark.parametrize(
    ("source", "how"),
    [(f"dns+{NAME}", how) for how in FAILURES]
    + [(f"dnssrv+{SERVICE}", how) for how in SRV_FAILURES],
)
def test_failure_keeps_the_servers_and_is_logged_once(
    names: Nameserver, source: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mcpool_wsgi.discovery")
    pool = a_pool()
    good = {
        (NAME, "A"): ["10.0.0.1", "10.0.0.2"],
        (SERVICE, "SRV"): ["0 0 11211 pod-0.test.", "0 0 11211 pod-1.test."],
        ("pod-0.test", "A"): ["10.0.0.1"],
        ("pod-1.test", "A"): ["10.0.0.2"],
    }
    names.records = good.copy()
    with following(pool, source, names, timeout=0.1):
        eventually(lambda: len(servers_of(pool)) == 2)  # on a busy machine, later
        before, renewed = servers_of(pool), pool.stats().clients_renewed
        caplog.clear()
        fails(names, how)
        asked(names, 8)
        assert servers_of(pool) == before
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        names.records, names.hangs, names.fails_with = good.copy(), False, {}
        eventually(lambda: f"{source} answers again" in caplog.text)
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
        begin, end = (record.getMessage() for record in caplog.records)
        assert begin.startswith(f"{pool.name}: keeping the servers, no answer from {source}: ")
        assert end == f"{pool.name}: {source} answers again"
        assert servers_of(pool) == before
    assert pool.stats().clients_renewed == renewed


@pytest.mark.parametrize("source", [f"dns+{NAME}", f"dnssrv+{SERVICE}"])
def test_name_server_that_hangs_blocks_neither_start_nor_stop(
    names: Nameserver, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    pool = a_pool()
    names.hangs = True
    discovery = following(pool, source, names, timeout=0.3)
    began = time.monotonic()
    discovery.start()
    assert 0.2 < time.monotonic() - began < 2
    asked(names, 1)
    began = time.monotonic()
    discovery.stop()
    assert time.monotonic() - began < 2
    assert caplog.text.count("keeping the servers") == 1


def test_time_limit_is_one_for_all_names_in_srv_records(
    names: Nameserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        names.records[f"pod-{number}.test", "A"] = ["10.0.0.1"]
    names.records[SERVICE, "SRV"] = [f"0 0 11211 pod-{number}.test." for number in range(20)]
    answer = names.answer

    def slow(wire: bytes, transport: str) -> bytes | None:
        time.sleep(0.1)
        return answer(wire, transport)

    monkeypatch.setattr(names, "answer", slow)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        source_of(f"dnssrv+{SERVICE}", names.resolver()).ask(0.5)
    assert time.monotonic() - began < 1.5


def test_second_name_server_is_asked_if_the_first_hangs(
    names: Nameserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    names.records[NAME, "A"] = ["10.0.0.1"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.2", names.port))

        def both() -> dns.resolver.Resolver:
            resolver = names.resolver()
            resolver.nameservers = ["127.0.0.2", "127.0.0.1"]
            return resolver

        monkeypatch.setattr("dns.resolver.Resolver", both)
        assert look_up(f"dns+{NAME}", timeout=1) == ["10.0.0.1:11211"]


# -- When it asks


@pytest.mark.parametrize(("ttl", "wait"), [(0, 5), (4, 5), (30, 30), (86400, 60)])
def test_ttl_says_when_to_ask_again_within_limits(names: Nameserver, ttl: int, wait: int) -> None:
    names.ttl = ttl
    names.records[NAME, "A"] = ["10.0.0.1"]
    names.records[SERVICE, "SRV"] = ["0 0 11211 pod-0.test."]
    names.records["pod-0.test", "A"] = ["10.0.0.1"]
    for source in (f"dns+{NAME}", f"dnssrv+{SERVICE}"):
        with Discovery(a_pool(), source, resolver=names.resolver()) as discovery:
            assert discovery._wait == wait


def test_limits_can_be_chosen(names: Nameserver) -> None:
    names.records[NAME, "A"] = ["10.0.0.1"]
    names.ttl = 3600
    with following(a_pool(), f"dns+{NAME}", names, interval=0.05):
        asked(names, 3)
    names.ttl = 0
    with following(a_pool(), f"dns+{NAME}", names, interval=3600, min_interval=0.05):
        asked(names, 3)


def test_shortest_ttl_counts(names: Nameserver) -> None:
    names.ttl = 3600
    names.records[NAME, "CNAME"] = ["alias.test"]
    names.records["alias.test", "A"] = ["10.0.0.1"]
    names.records[SERVICE, "SRV"] = ["0 0 11211 pod-0.test.", "0 0 11211 pod-1.test."]
    names.records["pod-0.test", "A"] = names.records["pod-1.test", "A"] = ["10.0.0.1"]
    address, service = f"dns+{NAME}", f"dnssrv+{SERVICE}"
    for source, name, kind in (
        (address, NAME, "CNAME"),
        (address, "alias.test", "A"),
        (service, SERVICE, "SRV"),
        (service, "pod-0.test", "A"),
        (service, "pod-1.test", "A"),
    ):
        names.ttls = {(name, kind): 20}
        assert source_of(source, names.resolver()).ask(10).ttl == 20


def test_failures_in_a_row_are_further_and_further_apart(names: Nameserver) -> None:
    discovery = Discovery(a_pool(), f"dns+{NAME}", resolver=names.resolver())
    waits = []
    for _ in range(6):
        with pytest.raises(OSError, match="does not exist") as caught:
            discovery.refresh()
        discovery._note_failure(caught.value)
        waits.append(discovery._wait)
    assert waits == [5, 10, 20, 40, 60, 60]
    discovery = Discovery(a_pool(), "dns+a", interval=0.5, resolver=names.resolver())
    discovery._note_failure(caught.value)
    assert discovery._wait == 0.5


# -- The thread


@pytest.mark.parametrize("kind", [ClientPool, ThreadMappedPool])
def test_discovery_ends_when_its_pool_is_closed(kind: Any, names: Nameserver) -> None:
    pool = kind.from_servers(["127.0.0.1:1"], 2)
    names.records[NAME, "A"] = ["10.0.0.1"]
    discovery = following(pool, f"dns+{NAME}", names)
    discovery.start()
    poll = discovery._poll
    assert poll is not None
    asked(names)
    pool.close()
    assert poll.ended.wait(10)
    discovery.stop()


@pytest.mark.parametrize("fork", FORKS)
def test_child_follows_a_name_too(fork: Any, names: Nameserver) -> None:
    pool = a_pool()
    names.records[NAME, "A"] = ["10.0.0.1"]
    with following(pool, f"dns+{NAME}", names, interval=0.5, min_interval=0.5):

        def follow() -> None:
            eventually(lambda: servers_of(pool) == ["10.0.0.2:11211"])
            succeeds(in_child(lambda: eventually(lambda: servers_of(pool) != [])))

        child = fork(follow)
        names.records[NAME, "A"] = ["10.0.0.2"]
        succeeds(child)
        eventually(lambda: servers_of(pool) == ["10.0.0.2:11211"])


@pytest.mark.parametrize("fork", FORKS)
def test_child_works_when_the_name_server_hangs_during_the_fork(
    fork: Any, names: Nameserver
) -> None:
    pool = a_pool()
    names.records[NAME, "A"] = ["10.0.0.1"]
    options = {"interval": 0.5, "min_interval": 0.5, "timeout": 2}
    with following(pool, f"dns+{NAME}", names, **options) as discovery:
        names.hangs = True
        asked(names, 1)

        def use_and_stop() -> None:
            assert servers_of(pool) == ["10.0.0.1:11211"]
            discovery.stop()

        succeeds(fork(use_and_stop))


# -- Without dnspython, and names that DNS does not know


@pytest.mark.usefixtures("without_dnspython")
def test_system_is_asked_if_dnspython_is_not_installed(mc: Client) -> None:
    port = mc.addresses[0].rpartition(":")[2]
    pool = a_pool()
    with Discovery(pool, f"dns+localhost:{port}") as discovery:
        assert discovery._wait == 60
        assert servers_of(pool) == [f"127.0.0.1:{port}"]
        with pool.reserve() as client:
            assert client.set("key", "value")
    assert mc.get("key") == "value"


def test_system_is_asked_for_a_name_that_dns_does_not_know(system_names: Nameserver) -> None:
    assert look_up("dns+localhost:11311") == ["127.0.0.1:11311"]
    assert system_names.questions[0][0].startswith("localhost")
    with pytest.raises(OSError, match="does not exist"):
        source_of("dns+localhost", system_names.resolver()).ask(1)


@pytest.mark.usefixtures("without_dnspython")
@pytest.mark.parametrize("source", ["dns+cache.invalid", "127.0.0.1:1"])
def test_error_of_a_look_up_names_the_source(source: str) -> None:
    with pytest.raises(OSError, match=rf"^no answer from {re.escape(source)}: \[Errno "):
        look_up(source)


def test_system_is_asked_if_it_has_no_name_server_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_configuration() -> None:
        raise dns.resolver.NoResolverConfiguration("empty")  # type: ignore[no-untyped-call]

    monkeypatch.setattr("dns.resolver.Resolver", no_configuration)
    assert look_up("dns+localhost") == ["127.0.0.1:11211"]
    with pytest.raises(OSError, match="empty"):
        look_up(f"dnssrv+{SERVICE}")


@pytest.mark.usefixtures("without_dnspython")
def test_system_that_hangs_blocks_neither_start_nor_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()

    def hangs(*args: object) -> Any:
        released.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "too late")

    monkeypatch.setattr("socket.getaddrinfo", hangs)
    try:
        for source in ("dns+cache.test", "elasticache+cache.test"):
            caplog.clear()
            discovery = Discovery(a_pool(), source, interval=INTERVAL, timeout=0.3)
            began = time.monotonic()
            discovery.start()
            assert 0.2 < time.monotonic() - began < 2
            began = time.monotonic()
            discovery.stop()
            assert time.monotonic() - began < 2
            assert caplog.text.count("keeping the servers") == 1
    finally:
        released.set()


@pytest.mark.usefixtures("without_dnspython")
def test_ipv4_addresses_that_the_system_could_not_ask_for_do_not_become_ipv6_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = socket.EAI_AGAIN

    def only_ipv6(host: str, port: object, family: int, kind: int) -> Any:
        if family == socket.AF_INET:
            raise socket.gaierror(error, "no IPv4 address")
        return [(family, kind, 6, "", ("fe80::1", 0, 0, 0))]

    monkeypatch.setattr("socket.getaddrinfo", only_ipv6)
    with pytest.raises(OSError, match="no IPv4 address"):
        look_up("dns+cache.test")
    error = socket.EAI_NONAME
    assert look_up("dns+cache.test") == ["[fe80::1]:11211"]


@pytest.mark.usefixtures("without_dnspython")
def test_error_says_what_to_install() -> None:
    wanted = r"pip install 'mcpool-wsgi\[dns\]'"
    with pytest.raises(ImportError, match=wanted):
        Discovery(a_pool(), f"dnssrv+{SERVICE}")
    with pytest.raises(ImportError, match=wanted):
        source_of(f"dns+{NAME}", dns.resolver.Resolver(configure=False))


# -- Wrong arguments


@pytest.mark.parametrize(
    "source",
    [
        *("dns+", "dns+:11211", "dns+name:", "dns+name:0", "dns+name:65536", "dns+name:port"),
        *("dns+10.0.0.1", "dns+10.0.0.1:11211", "dns+[::1]:11211", "dns+a:1:2", "dns+a..b"),
        *("dns+/run/memcached.sock", "dns+a b", "dns+a,b", "dns+dns+a", "dns+" + 64 * "a"),
        *("dns+" + 127 * "a." + "a:1", "dnssrv+", "dnssrv+name:11211", "dnssrv+10.0.0.1"),
        *("dnssrv+a b", "dnsrv+name", "dnssrvnoa+name", "DNS+name", "+name", "elasticache+"),
        *("elasticache+cache:0", "elasticache+elasticache+cache", "dns+n\u00e4me", "dns+a\n"),
    ],
)
def test_text_that_means_no_source_is_refused(source: str) -> None:
    name = source.partition("+")[2]
    with pytest.raises(ValueError, match="not '") as caught:
        Discovery(a_pool(), source)
    assert repr(name)[1:-1] in str(caught.value)


def test_client_and_pool_take_no_source() -> None:
    for source in ("dns+a", "dns+a:11211", "dnssrv+a", "elasticache+a:11211"):
        with pytest.raises(ValueError, match=r"'[a-z]+\+a.* is .* but a source"):
            Client([source])
        with pytest.raises(ValueError, match=r"'[a-z]+\+a.* is .* but a source"):
            a_pool().set_servers([source])


@pytest.mark.parametrize("source", ["dns+a", "dns+a.", "dns+a-b_c.0.d:1", "dnssrv+_a._tcp.b."])
def test_names_are_sources(source: str) -> None:
    Discovery(a_pool(), source)


def test_wrong_arguments_are_refused() -> None:
    pool = a_pool()
    for seconds in (0, -1, float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match=f"min_interval must be a positive number of seconds, not {seconds}"
        ):
            Discovery(pool, "dns+a", min_interval=seconds)
    anything: Any
    for anything in (None, 1, b"dns+a"):
        with pytest.raises(TypeError, match="a source is a str"):
            Discovery(pool, anything)
    anything = "127.0.0.1"
    with pytest.raises(TypeError, match=r"resolver must have a method resolve\(\), and '127"):
        Discovery(pool, "dns+a", resolver=anything)
    resolver = dns.resolver.Resolver(configure=False)
    for source in ("elasticache+cache", "cache"):
        with pytest.raises(ValueError, match=f"resolver is for .* not for '{source[:5]}"):
            Discovery(pool, source, resolver=resolver)
