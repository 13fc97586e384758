"""
Workers
=======

Adds up the figures of several processes with the multiprocess mode of ``prometheus_client``. Its
``MultiProcessCollector`` reads the files in one directory and ignores collectors. So each process
writes what its collector finds into files there, once a second.

This costs a command nothing. To write each command into a file, as the counters and histograms of
``prometheus_client`` do, would take a quarter of the time of a ``get``.

Counters and histograms have files with a name of their own for each process, because a process
may have the number of one that has ended. Gauges are those of ``prometheus_client``, so its
``mark_process_dead()`` finds their files.

A fork in Python waits until nothing is being written, which takes less than a millisecond. For a
fork in C (uWSGI), the usual rule for threads holds: CPython can hang in the child if another
thread of the parent ran. A process that has not used its pools has no such thread.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Callable

from prometheus_client import Gauge, Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from .. import forks, interpreters

logger: logging.Logger = logging.getLogger("mcpool_wsgi.metrics")

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
INTERVAL = 1.0  # seconds
SIZE = 1 << 16  # bytes, as prometheus_client makes them: they grow
UP = "mcpool_up"
#: How the gauges of several processes become one. The others are added up.
MODES = {
    "mcpool_longest_wait_seconds": "livemax",
    "mcpool_longest_recent_wait_seconds": "livemax",
    UP: "livemostrecent",
}


class Publisher:
    """Writes what *collect* finds into *directory*.

    :raises ValueError: *directory* is none.
    """

    def __init__(self, directory: str, collect: Callable[[], Iterable[Metric]]) -> None:
        if not os.path.isdir(directory):
            raise ValueError(f"{DIRECTORY} must be a directory, and {directory!r} is none")
        self._directory = directory
        self._collect = collect
        self._reset_in_child()
        forks.reset_in_child(self)
        # prometheus_client has one lock for all values. A child that is forked while this process
        # holds it would wait for ever.
        os.register_at_fork(before=self._begin_fork, after_in_parent=self._end_fork)
        atexit.register(self._end)
        interpreters.at_end(self._end_thread)

    def _begin_fork(self) -> None:
        self._lock.acquire()

    def _end_fork(self) -> None:
        self._lock.release()

    def _reset_in_child(self) -> None:
        # Reentrant, for signal handlers that use the pool.
        self._lock = threading.RLock()
        self._is_used = False
        self._has_thread = False
        self._stopped = threading.Event()
        self._thread: int | None = None  # its ident
        self._has_failed = False
        self._files: dict[str, Any] = {}
        self._gauges: dict[str, Gauge] = {}
        self._shown: dict[tuple[str, tuple[str, ...]], float] = {}

    def start(self) -> None:
        """Publish from now on, in this process. A second call does nothing."""
        if not self._has_thread:  # no command waits for the lock while the figures are written
            self._is_used = True
            self._start_thread()

    def _start_thread(self) -> None:
        with self._lock:
            if self._has_thread:  # another thread was faster
                return
            try:
                # Not a threading.Thread: with gevent, what a signal handler raises in it would
                # end there.
                _thread.start_new_thread(self._run, ())
            except RuntimeError:  # there are too many threads: a later command tries again
                self._note_error()
                return
            self._has_thread = True  # last: after an interrupt, a later command starts one

    def _run(self) -> None:
        self._thread = threading.get_ident()
        while not self._stopped.wait(INTERVAL):
            self._try_to_publish()

    def _end_thread(self) -> None:
        self._stopped.set()
        interpreters.wait_for_thread(self._thread)

    def _end(self) -> None:
        if self._is_used:
            self._try_to_publish(gauges=False)

    def _try_to_publish(self, gauges: bool = True) -> None:
        try:
            self._publish(gauges)
        except Exception:
            self._note_error()
        else:
            self._has_failed = False

    def _note_error(self) -> None:
        if not self._has_failed:
            logger.exception("process %d cannot publish its metrics", os.getpid())
        self._has_failed = True

    def _publish(self, gauges: bool) -> None:
        """Write all figures. Without *gauges*, those that are added up become 0."""
        with self._lock:
            shown = {}
            for family in self._collect():
                if family.type != "gauge":
                    self._write(family)
                elif gauges:
                    self._open_gauge(family)
                    for sample in family.samples:
                        shown[family.name, tuple(sample.labels.values())] = sample.value
            self._show(shown)

    def _write(self, family: Metric) -> None:
        if family.type not in self._files:
            name = f"{family.type}_mcpool-{os.getpid()}-{secrets.token_hex(4)}.db"
            path = os.path.join(self._directory, name)
            _create(path)
            self._files[family.type] = MmapedDict(path)  # type: ignore[no-untyped-call]
        for name, labels, value in _cells(family):
            key = mmap_key(
                family.name, name, list(labels), list(labels.values()), family.documentation
            )
            self._files[family.type].write_value(key, value, 0.0)

    def _open_gauge(self, family: Metric) -> None:
        if family.name in self._gauges or not family.samples:
            return
        mode: Any = MODES.get(family.name, "livesum")
        _create(os.path.join(self._directory, f"gauge_{mode}_{os.getpid()}.db"))
        self._gauges[family.name] = Gauge(
            family.name,
            family.documentation,
            list(family.samples[0].labels),
            registry=None,
            multiprocess_mode=mode,
        )

    def _show(self, shown: dict[tuple[str, tuple[str, ...]], float]) -> None:
        """Write the gauges that have changed. What is no longer *shown* becomes 0."""
        gone = dict.fromkeys(self._shown.keys() - shown.keys(), 0.0)
        for key, value in {**shown, **gone}.items():
            name, labels = key
            if name == UP and key in gone:
                continue
            # The one that was set last is right, so each says again what has not changed.
            if name == UP or value != self._shown.get(key):
                self._gauges[name].labels(*labels).set(value)
        self._shown = shown


def _create(path: str) -> None:
    """Create the file, unless there is one.

    A scrape fails if it meets a file that is empty. So this one has its size from the start.
    """
    new = f"{path}.new"
    with open(new, "wb") as file:
        file.truncate(SIZE)
    with contextlib.suppress(OSError):  # it exists, or the file system has no links
        os.link(new, path)
    os.unlink(new)


def _cells(family: Metric) -> Iterator[tuple[str, dict[str, str], float]]:
    """The samples as they are in a file: there, a bucket does not contain those before it."""
    below = 0.0
    for name, labels, value, *_ in family.samples:
        if not name.endswith(("_bucket", "_count")):
            yield name, labels, value
        elif name.endswith("_bucket"):
            yield name, labels, value - below
            below = value
        else:
            below = 0.0  # the count is the sum of the buckets
