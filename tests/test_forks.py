"""Forked processes: nobody reads, writes or closes a connection that another process opened."""

from __future__ import annotations

import logging
import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

import pylibmc
import pytest
from forking import FORKS, in_child, in_child_by_c, succeeds
from harness import eventually, in_threads, run_python, use, waiting

from mcpool_wsgi import Client, ClientPool, ThreadMappedPool, forks

pytestmark = pytest.mark.servers

READS = 10_000
#: From Python 3.12 on, forking with threads is warned of; that it works is tested here.
QUIET = ["-W", "ignore::DeprecationWarning"]


def pools(address: str) -> list[Any]:
    return [
        ClientPool(Client([address]), 4),
        ThreadMappedPool(Client([address])),
        ClientPool(pylibmc.Client([address]), 4),
        ThreadMappedPool(pylibmc.Client([address])),
    ]


def read(pool: Any, who: str, reads: int) -> None:
    for number in range(reads):
        with pool.reserve() as mc:
            key = f"{who}-{number % 100}"
            if number < 100:
                mc.set(key, key)
            assert mc.get(key) == key


def wrong_reads(pool: Any, reads: int) -> int:
    wrong = 0
    for number in range(reads):
        with pool.reserve() as mc:
            try:
                wrong += mc.get(f"k{number % 100}") != number % 100
            except Exception:
                wrong += 1
    return wrong


def are_mixed_up(address: str) -> bool:
    """Whether pylibmc's pool gives wrong values to workers that read at the same time."""
    client = pylibmc.Client([address], behaviors={"_poll_timeout": 300})
    client.set_multi({f"k{number}": number for number in range(100)})
    pool = pylibmc.ClientPool(client, 1)
    assert wrong_reads(pool, 100) == 0
    child = in_child(lambda: wrong_reads(pool, 2000))
    wrong = wrong_reads(pool, 2000)
    succeeds(child)
    return wrong > 0


def test_pylibmcs_pool_mixes_up_values_after_a_fork(address: str) -> None:
    """What this module is about. On a busy machine, the two workers may take turns."""
    script = f"import sys, test_forks; sys.exit(not test_forks.are_mixed_up({address!r}))"
    # A new process: what other tests have left in this one may close the socket in the child.
    command = [sys.executable, "-c", script]
    tests = Path(__file__).parent
    eventually(lambda: subprocess.run(command, cwd=tests, check=False).returncode == 0)


@pytest.mark.parametrize("fork", FORKS)
def test_parent_and_children_read_their_own_values_at_once(fork: Any, address: str) -> None:
    for pool in pools(address)[:2]:
        read(pool, "before", 100)
        children = [
            fork(lambda who=f"child{number}": read(pool, who, READS))  # noqa: B023
            for number in range(4)
        ]
        read(pool, "parent", READS)
        for child in children:
            succeeds(child)


@pytest.mark.parametrize("fork", FORKS)
def test_plain_pylibmc_clients_are_not_shared_either(fork: Any, address: str) -> None:
    for pool in pools(address)[2:]:
        read(pool, "before", 100)
        child = fork(lambda: read(pool, "child", 1000))  # noqa: B023
        read(pool, "parent", 1000)
        succeeds(child)


@pytest.mark.parametrize("fork", FORKS)
def test_client_itself_works_in_parent_child_and_grandchild(fork: Any, mc: Client) -> None:
    mc.set("key", "value")

    def use() -> None:
        assert mc.get("key") == "value"
        mc.disconnect_all()
        mc.behaviors = {"tcp_nodelay": False}
        assert mc.get_multi(["key"]) == {"key": "value"}
        assert mc.clone().get("key") == "value"
        succeeds(fork(lambda: mc.get("key")))

    child = fork(use)
    for _ in range(1000):
        assert mc.get("key") == "value"
    succeeds(child)
    assert mc.get("key") == "value"


def test_behaviors_set_in_a_child_are_those_of_its_clones(mc: Client) -> None:
    mc.set("key", "value")

    def work() -> None:
        mc.set_behaviors({"retry_timeout": 7, "cas": True})
        for client in (mc, mc.clone()):
            assert client.behaviors["retry_timeout"] == client.renewal_interval == 7
            assert client.gets("key")[1], "the C code has the behavior, too"

    succeeds(in_child(work))


SCRIPT = """
import os, sys, threading
from mcpool_wsgi import *
import pylibmc
address = {address!r}
master = {client}([address])
pool = {pool}
with pool.reserve() as mc:
    mc.set("key", "value")
reservation = pool.reserve()
lent = reservation.__enter__()
lent.get("key")
def hold():
    with pool.reserve() as mc:
        mc.get("key")
        held.set()
        done.wait()
        assert mc.get("key") == "value"
held, done = threading.Event(), threading.Event()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
sys.stdout.flush()
pid = os.fork()
if not pid:
    sys.stderr = open(os.devnull, "w")
    {leave}
_, status = os.waitpid(pid, 0)
done.set()
thread.join()
for client in (lent, pool.reserve().__enter__()):
    for _ in range(3):
        assert client.get("key") == "value"
reservation.__exit__(None, None, None)
print("alive")
"""


@pytest.mark.parametrize("client", ["Client", "pylibmc.Client"])
@pytest.mark.parametrize("pool", ["ClientPool(master, 4)", "ThreadMappedPool(master)"])
@pytest.mark.parametrize(
    "leave",
    [
        "sys.exit()",
        "os._exit(0)",
        "raise RuntimeError",
        "del pool, mc, lent, reservation, hold, master; import gc; gc.collect(); sys.exit()",
        "reservation.__exit__(None, None, None); sys.exit()",
        "pool.reserve().__enter__().get('key'); sys.exit()",
        "pool.close(); sys.exit()",
    ],
)
def test_parents_connections_outlive_the_child(
    address: str, client: str, pool: str, leave: str
) -> None:
    script = SCRIPT.format(address=address, client=client, pool=pool, leave=leave)
    done = run_python(script, options=QUIET)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")


@pytest.mark.parametrize("client", ["Client", "pylibmc.Client"])
def test_parents_connections_outlive_the_child_that_cannot_close_them(
    address: str, client: str
) -> None:
    """With another libmemcached its sockets are not found. Then a child must free no client."""
    other = (
        "from mcpool_wsgi.client import libmemcached; libmemcached.FD_OFFSET = 24;"
        " assert not libmemcached.calibrated()"
    )
    leave = "del pool, mc, lent, reservation, hold, master; import gc; gc.collect(); os._exit(0)"
    pool = "ClientPool(master, 4)"
    script = SCRIPT.format(address=address, client=client, pool=pool, leave=leave)
    done = run_python(f"{other}\n{script}", options=QUIET)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


LATE = """
import os, sys
from mcpool_wsgi import *
import pylibmc
{make}
mc.set("key", "value")
def hook():
    pass
os.register_at_fork(after_in_child=hook)
pid = os.fork()
if not pid:
    sys.exit()
os.waitpid(pid, 0)
print([mc.get("key"), mc.get("key")])
"""


@pytest.mark.parametrize(
    "make",
    [
        "mc = Client([{address!r}])",
        "lent = ClientPool(Client([{address!r}]), 1).reserve(); mc = lent.__enter__()",
        "lent = ClientPool(pylibmc.Client([{address!r}]), 1).reserve(); mc = lent.__enter__()",
    ],
)
def test_child_that_frees_a_client_after_its_modules_does_no_harm(address: str, make: str) -> None:
    """An application's own hook keeps its names until then."""
    script = LATE.format(make=make.format(address=address))
    # Python 3.12 and later warn of forks with threads.
    done = run_python(script, options=QUIET)
    assert (done.stdout, done.stderr) == ("['value', 'value']\n", "")


@contextmanager
def threads(work: Callable[[str, threading.Event], None]) -> Iterator[None]:
    """Three that do *work*, each with a name, until the event that it gets is set."""
    done = threading.Event()
    started = [
        threading.Thread(target=work, args=(f"thread{number}", done)) for number in range(3)
    ]
    for thread in started:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in started:
            thread.join(30)


def test_children_read_their_own_values_while_threads_of_the_parent_read(address: str) -> None:
    for pool in pools(address):

        def work(who: str, done: threading.Event) -> None:
            while not done.is_set():
                read(pool, who, 100)  # noqa: B023

        with threads(work):
            for _ in range(10):
                succeeds(in_child(lambda: read(pool, "child", 200)))  # noqa: B023
        read(pool, "parent", 100)


@pytest.mark.parametrize("fork", FORKS)
def test_clients_of_threads_that_sleep_work_after_forks(fork: Any, address: str) -> None:
    """A fork in C while others compete for the interpreter lock hangs CPython itself."""
    for pool in pools(address):
        held = threading.Barrier(4)

        def hold(who: str, done: threading.Event) -> None:
            with pool.reserve() as mc:  # noqa: B023
                mc.set(who, who)
                held.wait(10)  # noqa: B023
                done.wait(60)
                assert mc.get(who) == who

        with threads(hold):
            held.wait(10)
            for _ in range(10):
                succeeds(fork(lambda: read(pool, "child", 100)))  # noqa: B023
        read(pool, "parent", 100)


@pytest.mark.parametrize("fork", FORKS)
def test_reservation_held_across_a_fork_ends_in_both(fork: Any, address: str) -> None:
    for pool in pools(address)[:2]:
        with pool.reserve() as mc:
            mc.set("key", "value")
            child = fork(lambda: _go_on(pool, mc))  # noqa: B023
            for _ in range(500):
                assert mc.get("key") == "value"
            succeeds(child)
        assert pool.stats().idle == 1


def _go_on(pool: Any, mc: Client) -> None:
    for _ in range(500):
        assert mc.get("key") == "value"
    with pool.reserve() as other:
        assert other is not mc
    assert pool.stats().size == 1


@pytest.mark.parametrize("fork", FORKS)
def test_waiters_at_the_moment_of_the_fork_do_not_hang_the_child(fork: Any, mc: Client) -> None:
    pool = ClientPool(mc, 1)

    def use_and_look() -> None:
        use(pool)
        assert (pool.stats().waiting, pool.stats().in_use) == (0, 0)

    holder = pool.reserve()
    holder.__enter__()
    with waiting(pool, lambda: use(pool)):
        succeeds(fork(use_and_look))
        holder.release()
    assert pool.stats().in_use == 0


@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.parametrize("first", ["reserve", "set_servers", "disconnect_all"])
def test_lock_held_at_the_moment_of_the_fork_does_not_hang_the_child(
    fork: Any, first: str, mc: Client
) -> None:
    pool = ClientPool(mc, 1)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with pool._statistics._lock, pool._outages._lock, pool._generations._lock:
            held.set()
            done.wait(30)

    def work() -> None:
        if first == "set_servers":
            pool.set_servers(mc.addresses)
        elif first == "disconnect_all":
            pool.disconnect_all()
        read(pool, "child", 100)
        with pool.reserve() as lent:
            lent._client._on_failure(pylibmc.ConnectionError("as if a command had failed"))

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    try:
        succeeds(fork(work))
    finally:
        done.set()
        holder.join(10)


@pytest.mark.parametrize("fork", FORKS)
def test_log_that_is_being_written_does_not_hang_the_child(
    fork: Any, mc: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pool = ThreadMappedPool(mc)
    inside, done = threading.Event(), threading.Event()

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name == "app":
                inside.set()
                done.wait(60)

    def log() -> None:
        read(pool, "thread", 1)
        logging.getLogger("app").warning("hello")

    handler = Slow()
    logging.getLogger().addHandler(handler)
    writer = threading.Thread(target=log)
    writer.start()
    try:
        assert inside.wait(10)
        succeeds(fork(lambda: read(pool, "child", 1)))
    finally:
        done.set()
        writer.join(10)
        logging.getLogger().removeHandler(handler)


def test_threads_that_enter_a_child_together_share_its_slots(address: str) -> None:
    pool = ClientPool(Client([address]), 2)

    def work() -> None:
        sys.setswitchinterval(1e-6)
        together = threading.Barrier(8)

        def use() -> None:
            together.wait(10)
            for _ in range(3):
                with pool.reserve() as mc:
                    mc.get("key")

        in_threads([use] * 8)
        assert pool.stats().size <= 2
        assert len(pool._queue.idle) == 2

    for _ in range(20):
        succeeds(in_child_by_c(work))


def test_client_of_a_subclass_keeps_its_attributes_in_a_child(mc: Client) -> None:
    class Coded(Client):
        codec = ""

        def clone(self) -> Coded:
            clone = super().clone()
            assert self.behaviors
            clone.codec = self.codec
            return clone

        def decoded(self, key: str) -> str:
            return f"{self.codec} {self.get(key)}"

        def get(self, key: Any, default: Any = None) -> Any:
            return super().get(f"{self.codec}-{key}", default)

    coded = Coded(mc.addresses)
    coded.codec = "rot13"
    mc.set("rot13-key", "value")

    def work() -> None:
        assert coded.decoded("key") == "rot13 value"
        assert coded._child_client.codec == coded.clone().codec == "rot13"

    succeeds(in_child(work))


def test_closed_pool_is_closed_in_the_child(mc: Client) -> None:
    for pool in (ClientPool(mc, 1), ThreadMappedPool(mc)):
        pool.close()

        def refused() -> None:
            with pytest.raises(RuntimeError, match="closed"):
                pool.reserve().__enter__()  # noqa: B023

        succeeds(in_child(refused))


def test_each_of_five_generations_reads_its_own_values(address: str) -> None:
    pool = ClientPool(Client([address]), 2)

    def descend(depth: int) -> None:
        read(pool, f"depth{depth}", 200)
        if depth < 4:
            child = in_child(lambda: descend(depth + 1))
            read(pool, f"depth{depth}", 200)
            succeeds(child)

    descend(0)


def test_what_is_freed_is_forgotten() -> None:
    """Or a program that makes a client for each request would need more and more memory."""

    class Thing:
        pass

    things = forks.WeakList()
    kept = Thing()
    for thing in (Thing(), kept, Thing()):
        things.add(thing)
    del thing
    assert [reference() for reference in things.references()] == [kept]
    for _ in range(100):  # a process that never forks asks for no references
        things.add(Thing())
    assert len(things._references) == 2


def test_pid_stands_in_where_no_page_is_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = forks.PidMark()
    assert not mark
    mark.value = True
    assert mark
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert not mark
    monkeypatch.setattr(forks, "MADV_WIPEONFORK", 12345)
    assert isinstance(forks.make_mark(), forks.PidMark)


def test_pid_stands_in_where_advice_is_taken_and_not_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As QEMU does if it emulates another processor."""

    class IgnoringAdvice(mmap.mmap):
        def madvise(self, *advice: int) -> None:
            pass

    monkeypatch.setattr(mmap, "mmap", IgnoringAdvice)
    assert isinstance(forks.make_mark(), forks.PidMark)


@pytest.mark.parametrize("fork", FORKS)
def test_client_itself_is_used_by_three_generations_at_once(fork: Any, mc: Client) -> None:
    mc.set_multi({f"k{number}": number for number in range(100)})

    def read_all(times: int) -> None:
        for number in range(times):
            assert mc.get(f"k{number % 100}") == number % 100

    def child() -> None:
        read_all(10)
        grandchild = in_child(lambda: read_all(1000))
        read_all(1000)
        succeeds(grandchild)

    pid = fork(child)
    read_all(2000)
    succeeds(pid)


@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.parametrize("first", ["set_servers", "fill", "close", "stats"])
def test_child_may_call_anything_of_its_pool_first(fork: Any, first: str, address: str) -> None:
    for pool in pools(address)[:2]:
        read(pool, "parent", 5)
        calls: dict[str, Callable[[], object]] = {
            "set_servers": lambda: pool.set_servers([address]),  # noqa: B023
            "fill": lambda: pool.fill(Client([address]), 1),  # noqa: B023
            "close": lambda: pool.close(),  # noqa: B023
            "stats": lambda: pool.stats(),  # noqa: B023
        }

        def work() -> None:
            calls[first]()  # noqa: B023
            assert pool.stats().reservations == 0  # noqa: B023
            if first != "close":
                read(pool, "child", 5)  # noqa: B023

        succeeds(fork(work))
        read(pool, "parent", 5)


@pytest.mark.parametrize("fork", FORKS)
def test_child_finds_no_clients_of_its_parent(fork: Any, address: str) -> None:
    """Whatever it asks of its pool first."""

    def finds_no_holder() -> None:
        assert pool.holders() == []

    def finds_no_idle_client() -> None:
        assert pool.relinquish() is None

    def finds_no_reservation() -> None:
        assert (pool.stats().size, pool.stats().reservations) == (0, 0)

    for pool in pools(address):
        with pool.reserve() as mc:
            mc.get("key")
            succeeds(fork(finds_no_holder))
        succeeds(fork(finds_no_idle_client))
        succeeds(fork(finds_no_reservation))
        read(pool, "parent", 1)


@pytest.mark.parametrize("fork", FORKS)
def test_child_works_although_the_parent_keeps_a_client_that_could_not_be_made(
    fork: Any, mc: Client
) -> None:
    kept: list[Client] = []

    class Kept(Client):
        def __init__(self) -> None:
            kept.append(self)
            super().__init__(mc.addresses, {"unknown": 1})

    with pytest.raises(ValueError, match="unknown behavior"):
        Kept()
    assert not hasattr(kept[0], "addresses")
    succeeds(fork(lambda: mc.set("key", 1)))
