"""Memcacheds that come, go and move while requests run, found by their names in DNS."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import dns.rcode
import pytest
from dns.resolver import Resolver
from fleet import HOSTS, Fleet, numbered
from harness import eventually, free_port, in_threads, missing
from nameserver import Nameserver, nameserver
from werkzeug.test import Client as Browser

from mcpool_wsgi import Client, ClientPool, MemcachedPoolMiddleware
from mcpool_wsgi.discovery import Discovery, source_of

pytestmark = pytest.mark.servers

NAME = "memcached.cache.test"
SERVICE = "_memcache._tcp.memcached.cache.test"
KEYS = [f"key{number}" for number in range(400)]
OFTEN = {"interval": 0.02, "timeout": 0.2}


@pytest.fixture
def fleet(embedded: bool) -> Iterator[Fleet]:
    fleet = Fleet(embedded)
    yield fleet
    fleet.close()


# -- A site under load


def app(environ: Any, start_response: Any) -> list[bytes]:
    """Stores values of its own key and reads them. It trusts that there are no errors."""
    mc = environ["mc.client"]
    key = environ["PATH_INFO"].strip("/")
    number = int(environ["QUERY_STRING"])
    earlier = mc.get_multi([key, f"{key}-other"])
    stored = mc.set(key, f"{key} {number}")
    mc.set(f"{key}-other", f"{key}-other {number}")
    answers = [earlier.get(key), earlier.get(f"{key}-other"), mc.get(key)]
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([stored, answers]).encode()]


class Site:
    """Checks every answer of an app whose clients have ``fail_soft``."""

    def __init__(self, pool: Any) -> None:
        self._browser = Browser(MemcachedPoolMiddleware(app, pool))
        self._done = threading.Event()
        self.requests = 0

    def visit(self, visitor: str) -> None:
        for number in itertools.count():
            if self._done.is_set():
                return
            key = f"{visitor}-{number % 50}"
            response = self._browser.get(f"/{key}?{number}", buffered=True, multithread=True)
            assert response.status_code == 200, response.text
            stored, (own, other, now) = json.loads(response.text)
            # A value may be older, after servers have changed. It is never that of another key.
            for value, wanted in ((own, key), (other, f"{key}-other"), (now, key)):
                assert value is None or value.split()[0] == wanted
            assert not stored or now in (f"{key} {number}", None)
            self.requests += 1

    def visited(self) -> None:
        enough = self.requests + 100
        eventually(lambda: self.requests >= enough)

    def during(self, work: Callable[[], object]) -> None:
        def run() -> None:
            try:
                self.visited()
                work()
                self.visited()
            finally:
                self._done.set()

        in_threads([run, *(lambda n=n: self.visit(f"visitor{n}") for n in range(6))])


def test_site_shows_no_error_and_no_wrong_value_while_servers_come_go_and_move(
    fleet: Fleet, names: Nameserver
) -> None:
    a, b, c, d, e, f = HOSTS
    fleet.start(a, b)
    names.records[NAME, "A"] = [a, b]
    pool = ClientPool(Client(["127.0.0.1:1"], {"dead_timeout": 1}, fail_soft=True), 3)
    site = Site(pool)

    def answer(*hosts: str) -> None:
        names.records[NAME, "A"] = list(hosts)
        wanted = sorted(f"{host}:{fleet.port}" for host in hosts)

        def used() -> bool:
            with pool.reserve() as mc:
                return bool(mc.addresses == wanted)

        eventually(used)
        site.visited()

    def all_stored() -> bool:
        with pool.reserve() as mc:
            return not mc.set_multi(dict.fromkeys(KEYS, "value"))

    def change() -> None:
        # Scale up: the server runs before its name has it.
        fleet.start(c, d)
        answer(a, b, c)
        answer(a, b, c, d)
        # Scale down: the name loses the server first.
        answer(a, b)
        fleet.kill(c, d)
        site.visited()
        assert pool.stats().failures == 0
        # A server dies before the name loses it, and its successor has another address.
        fleet.kill(b)
        site.visited()
        answer(a)
        fleet.start(e)
        answer(a, e)
        eventually(all_stored)
        # The answer flaps.
        fleet.start(b, f)
        for _ in range(10):
            answer(a, e, f)
            names.fails_with = {"A": dns.rcode.SERVFAIL}
            site.visited()
            names.fails_with = {}
            answer(a, b)
            names.records.clear()
            site.visited()
            names.records[NAME, "TXT"] = ["no address"]
            answer(e, f)
            names.hangs = True
            site.visited()
            names.hangs = False
        eventually(all_stored)

    with Discovery(pool, f"dns+{NAME}:{fleet.port}", resolver=names.resolver(), **OFTEN):
        site.during(change)
    stats = pool.stats()
    assert (stats.in_use, stats.waiting, stats.timeouts) == (0, 0, 0)


# -- The keys that move


def test_new_server_takes_its_share_of_the_keys_and_no_other_key_moves(
    fleet: Fleet, names: Nameserver
) -> None:
    fleet.start(*HOSTS[:4])
    names.records[NAME, "A"] = HOSTS[:3]
    pool = ClientPool(Client(["127.0.0.1:1"], command_timeout=10), 1)
    places = []
    with Discovery(pool, f"dns+{NAME}:{fleet.port}", resolver=names.resolver()) as discovery:
        for number, hosts in enumerate([HOSTS[:3], HOSTS[:4], HOSTS[:3]]):
            names.records[NAME, "A"] = hosts
            discovery.refresh()
            with pool.reserve() as mc:
                assert mc.set_multi(numbered(KEYS, number)) == []
            places.append(fleet.where(numbered(KEYS, number)))
    before, after, again = places
    moved = [key for key in KEYS if before[key] != after[key]]
    assert {after[key] for key in moved} == {HOSTS[3]}
    assert 0.1 < len(moved) / len(KEYS) < 0.4  # a quarter
    assert again == before


# -- Names that the system looks up: a process whose /etc/resolv.conf has the tests' name server


@pytest.fixture
def real_names() -> Iterator[Nameserver]:
    """A name server at the port that all resolvers ask."""
    probe = ["unshare", "--mount", "true"]
    if os.geteuid() or not shutil.which("unshare") or subprocess.run(probe).returncode:
        missing("unshare, for root to use,")
    # An address of this test's own, because the port is given.
    with nameserver(f"127.{random.randrange(1, 255)}.53.{random.randrange(1, 255)}", 53) as server:
        yield server


class Follower:
    """A process with a pool, which it uses all the time: see the script ``follower.py``."""

    def __init__(self, names: Nameserver, directory: Path, **options: Any) -> None:
        self.number = 0
        resolv_conf = directory / "resolv.conf"
        resolv_conf.write_text(f"nameserver {names.host}\noptions timeout:1\n")
        script = str(Path(__file__).with_name("follower.py"))
        self._process = subprocess.Popen(
            [
                *("unshare", "--mount", "--propagation", "private", "sh", "-ec"),
                f'mount --bind {resolv_conf} /etc/resolv.conf; exec "$@"',
                *("sh", sys.executable, script, json.dumps({"keys": KEYS, **options})),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def stores(self) -> int:
        """Store all keys with a new number. How many could be stored."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.number += 1
        self._process.stdin.write(f"{self.number}\n")
        self._process.stdin.flush()
        report = json.loads(self._process.stdout.readline())
        assert report["errors"] == []
        return int(report["stored"])

    def whereabouts(self, fleet: Fleet) -> dict[str, str]:
        """The host of each key that can be stored now."""
        self.stores()
        return fleet.where(numbered(KEYS, self.number))

    def works(self) -> None:
        eventually(lambda: self.stores() == len(KEYS))

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()


def test_plain_name_is_looked_up_anew_after_its_server_has_died(
    fleet: Fleet, real_names: Nameserver, tmp_path: Path
) -> None:
    a, b = HOSTS[:2]
    real_names.records[NAME, "A"] = [a]
    fleet.start(a)
    with Follower(
        real_names, tmp_path, servers=[f"{NAME}:{fleet.port}"], behaviors={}
    ) as follower:
        follower.works()
        fleet.kill(a)
        assert follower.stores() == 0
        real_names.records[NAME, "A"] = [b]
        fleet.start(b)
        follower.works()
        assert follower.whereabouts(fleet) == dict.fromkeys(KEYS, b)


def test_server_with_a_stable_name_keeps_its_keys_when_its_address_changes(
    fleet: Fleet, real_names: Nameserver, tmp_path: Path
) -> None:
    pods = {f"pod-{number}.test": host for number, host in enumerate(HOSTS[:3])}
    service = [f"0 0 {fleet.port} {name}." for name in pods]

    def publish() -> None:
        addresses = {(name, "A"): [address] for name, address in pods.items()}
        real_names.records = {(SERVICE, "SRV"): service, **addresses}

    def whereabouts() -> dict[str, str]:
        """The pod of each key."""
        pod_at = {address: name for name, address in pods.items()}
        return {key: pod_at[host] for key, host in follower.whereabouts(fleet).items()}

    publish()
    fleet.start(*HOSTS[:3])
    with Follower(
        real_names,
        tmp_path,
        source=f"dnssrv+{SERVICE}",
        behaviors={"dead_timeout": 3600},  # a failure alone does not lead to the new address
    ) as follower:
        follower.works()
        before = whereabouts()
        assert set(before) == set(KEYS)
        fleet.kill(HOSTS[1])
        follower.works()
        assert set(whereabouts().values()) == {"pod-0.test", "pod-2.test"}
        pods["pod-1.test"] = HOSTS[4]
        fleet.start(HOSTS[4])
        publish()
        eventually(lambda: whereabouts() == before)


def test_name_is_followed_without_dnspython(
    fleet: Fleet, real_names: Nameserver, tmp_path: Path
) -> None:
    a, b = HOSTS[:2]
    real_names.records[NAME, "A"] = [a, b]
    fleet.start(a)
    with Follower(
        real_names,
        tmp_path,
        source=f"dns+{NAME}:{fleet.port}",
        dnspython=False,
        behaviors={"dead_timeout": 3600},
    ) as follower:
        for addresses in ([a], [a, b], [b]):
            fleet.start(*{*addresses} - {*fleet.running})
            real_names.records[NAME, "A"] = addresses
            eventually(lambda: {*follower.whereabouts(fleet).values()} == {*addresses})  # noqa: B023


# -- Another name server than the tests' own


@contextlib.contextmanager
def dnsmasq(directory: Path) -> Iterator[tuple[Resolver, Path, Callable[[], None]]]:
    """A resolver for a dnsmasq, its file of addresses, and how to make it read the file."""
    command = shutil.which("dnsmasq", path=f"{os.environ['PATH']}:/usr/sbin")
    if command is None:
        missing("dnsmasq")
    addresses, port = directory / "addresses", free_port()
    addresses.write_text("")
    options = ["--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces"]
    options += ["--conf-file=/dev/null", "--pid-file", "--listen-address=127.0.0.1"]
    options += [f"--port={port}", f"--addn-hosts={addresses}", "--local=/test/", "--user=root"]
    options += [f"--srv-host={SERVICE},pod-{number}.test,11211" for number in range(2)]
    process = subprocess.Popen([command, *options], stderr=subprocess.DEVNULL)
    resolver = Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], port
    try:
        yield resolver, addresses, lambda: process.send_signal(signal.SIGHUP)
    finally:
        process.kill()
        process.wait()


def test_dnsmasq_is_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mcpool_wsgi.discovery")
    pool = ClientPool(Client(["127.0.0.1:1"]), 1)
    with dnsmasq(tmp_path) as (resolver, addresses, read_again):
        eventually(lambda: servers(f"dnssrv+{SERVICE}", resolver))
        assert servers(f"dnssrv+{SERVICE}", resolver) == ["pod-0.test:11211", "pod-1.test:11211"]
        with Discovery(pool, f"dns+{NAME}", resolver=resolver, **OFTEN):
            for hosts in (HOSTS[:2], HOSTS[:4], HOSTS[3:4]):
                addresses.write_text("".join(f"{host} {NAME}\n" for host in hosts))
                read_again()
                wanted = ", ".join(f"{host}:11211" for host in hosts)
                eventually(lambda: f"{NAME}: {wanted}" in caplog.text)  # noqa: B023
            caplog.clear()
            addresses.write_text("")
            read_again()
            eventually(lambda: "keeping the servers" in caplog.text)
            with pool.reserve() as mc:
                assert mc.addresses == [f"{HOSTS[3]}:11211"]


def servers(source: str, resolver: Resolver) -> list[str]:
    try:
        return source_of(source, resolver).ask(1).servers
    except OSError:
        return []
