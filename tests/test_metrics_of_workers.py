"""The metrics of several processes: their sums, from any of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from harness import demand, eventually, in_threads, run_python
from monitoring import REPLACED, SLOTS, WORKERS, Counts, gunicorn

from mcpool_wsgi import Client, ClientPool
from mcpool_wsgi.metrics import PoolCollector

pytestmark = pytest.mark.servers

REQUESTS = 600
HITS = "mcpool_hits_total"


def test_no_counter_goes_down_while_workers_are_replaced(address: str) -> None:
    with gunicorn(address, *REPLACED) as server:
        workers: set[str] = set()
        is_over = threading.Event()

        def load() -> None:
            for _ in range(REQUESTS // 4):
                workers.add(server.get("/read"))

        def watch() -> None:
            before: Counts = {}
            while not is_over.is_set():
                counters, _ = server.scrape()
                fallen = {key for key, value in before.items() if counters.get(key, -1) < value}
                assert not fallen
                before = counters

        def load_and_count() -> None:
            try:
                in_threads([load] * 4)
                # Those that have ended are counted, too, to the last request.
                eventually(lambda: server.value(HITS) == REQUESTS, "all are counted")
            finally:
                is_over.set()

        in_threads([watch, load_and_count])
        assert len(workers) > WORKERS
        everything = server.scrape()[1]
        assert value(everything, "mcpool_misses_total") == REQUESTS
        assert value(everything, "mcpool_reservations_total") == REQUESTS
        assert value(everything, "db_client_connection_wait_time_seconds_count") == REQUESTS
        assert value(everything, "db_client_operation_duration_seconds_count") == 3 * REQUESTS


def value(counts: Counts, name: str) -> float:
    return sum(value for (found, _), value in counts.items() if found == name)


@pytest.mark.parametrize("options", [[], ["--preload"]], ids=["", "preload"])
def test_gauges_are_those_of_the_workers_that_live(address: str, options: list[str]) -> None:
    with gunicorn(address, *options) as server:

        def slots() -> float:
            everything = server.scrape()[1]
            return value(everything, "db_client_connection_max")

        def all_work() -> bool:
            workers.add(server.get("/read"))
            return len(workers) == WORKERS

        workers: set[str] = set()
        eventually(all_work)
        eventually(lambda: slots() == WORKERS * SLOTS)
        assert value(server.scrape()[1], "mcpool_up") == 1
        hits = server.value(HITS)
        os.kill(int(workers.pop()), signal.SIGKILL)
        eventually(lambda: slots() == (WORKERS - 1) * SLOTS)
        eventually(all_work)
        eventually(lambda: slots() == WORKERS * SLOTS)
        assert server.value(HITS) >= hits


def published(what: str, address: str, directory: Path) -> str:
    """Run one of the functions of tests/published.py, and give what it logs."""
    command = [sys.executable, str(Path(__file__).parent / "published.py"), what, address]
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("fork", ["in_child", "in_child_by_c"])
def test_figures_of_parent_and_child_are_added_up(fork: str, address: str, tmp_path: Path) -> None:
    published(fork, address, tmp_path)


def test_up_tells_of_the_last_command_of_all(address: str, tmp_path: Path) -> None:
    published("looks", address, tmp_path)


def test_gauges_of_a_pool_end_with_it(address: str, tmp_path: Path) -> None:
    published("drops", address, tmp_path)


def test_directory_that_cannot_be_written_is_logged_once(address: str, tmp_path: Path) -> None:
    directory = tmp_path / "metrics"
    directory.mkdir()
    log = published("fails", address, directory)
    assert log.count("cannot publish its metrics") == 1
    assert log.count("FileNotFoundError") == 1


def test_process_that_can_start_no_thread_publishes_later(address: str, tmp_path: Path) -> None:
    log = published("has_no_thread", address, tmp_path)
    assert log.count("cannot publish its metrics") == 1
    assert "a listener failed" not in log


def test_directory_that_is_none_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="PROMETHEUS_MULTIPROC_DIR must be a directory"):
        PoolCollector([ClientPool(Client([address]), 1)])


PROGRAM_WITH_GEVENT = """
from gevent import monkey
monkey.patch_all()
import signal
import sys
import time
from mcpool_wsgi.metrics import workers

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it

def collect():
    if not interrupts:
        interrupts.append(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    return []

interrupts = []
workers.INTERVAL = 0.01
publisher = workers.Publisher(sys.argv[1], collect)
try:
    publisher.start()
    time.sleep(10)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_interrupt_of_the_greenlet_that_publishes_reaches_the_program(tmp_path: Path) -> None:
    """With gevent all greenlets are in the main thread, and signal handlers run in any of them."""
    demand("gevent")
    ended = run_python(PROGRAM_WITH_GEVENT, str(tmp_path))
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n"), ended.stderr


PROGRAM_WITH_GREENLETS = """
from gevent import monkey
monkey.patch_all()
import sys, threading
from mcpool_wsgi import Client, ClientPool
from mcpool_wsgi.metrics.recorder import SECONDS, Recorder

pool = ClientPool(Client([sys.argv[1]]), 1)
recorder = Recorder(lambda: None)
pool.observe(recorder.note)

def work():
    with pool.reserve() as mc:
        mc.get("key")

threads = [threading.Thread(target=work) for _ in range(20)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
counts = recorder.commands().rows["get", ""][:SECONDS]
print(int(sum(counts)), len(recorder._rows))
"""


def test_memory_for_counts_does_not_grow_with_the_number_of_greenlets(address: str) -> None:
    """Each would be a thread with counts of its own."""
    demand("gevent")
    ended = run_python(PROGRAM_WITH_GREENLETS, address)
    assert (ended.returncode, ended.stdout) == (0, "20 1\n"), ended.stderr
