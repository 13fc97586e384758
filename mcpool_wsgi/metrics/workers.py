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
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Callable

from prometheus_client import Gauge, Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from .. import forks

logger: logging.Logger = logging.getLogger("mcpool_wsgi.metrics")

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
INTERVAL = 1.0  # seconds
SIZE = 1 << 16  # bytes, as prometheus_client makes them: they grow
#: How the gauges of several processes become one. The others are added up.
MODES = {
    "mcpool_longest_wait_seconds": "livemax",
    "mcpool_longest_recent_wait_seconds": "livemax",
    "mcpool_up": "livemostrecent",
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
        atexit.register(self._end)

    def _reset_in_child(self) -> None:
        # Reentrant, for signal handlers that use the pool.
        self._lock: AbstractContextManager[Any] = threading.RLock()
        self._is_started = False
        self._has_failed = False
        self._files: dict[str, Any] = {}
        self._gauges: dict[str, Gauge] = {}
        self._shown: set[tuple[str, tuple[str, ...]]] = set()

    def start(self) -> None:
        """Publish from now on, in this process."""
        with self._lock:
            if self._is_started:
                return
            self._is_started = True
        threading.Thread(target=self._run, name="mcpool_wsgi.metrics", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(INTERVAL)
            self._try_to_publish()

    def _end(self) -> None:
        if self._is_started:
            self._try_to_publish(gauges=False)

    def _try_to_publish(self, gauges: bool = True) -> None:
        try:
            self._publish(gauges)
        except Exception:
            if not self._has_failed:
                logger.exception("process %d cannot publish its metrics", os.getpid())
            self._has_failed = True
        else:
            self._has_failed = False

    def _publish(self, gauges: bool = True) -> None:
        """Write all figures. Without *gauges*, those that are added up become 0."""
        with self._lock:
            shown = set()
            for family in self._collect():
                if family.type != "gauge":
                    self._write(family)
                elif gauges:
                    shown |= set(self._show(family))
            for name, labels in self._shown - shown:
                if name not in MODES:
                    self._gauges[name].labels(*labels).set(0)
            self._shown = shown

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

    def _show(self, family: Metric) -> Iterator[tuple[str, tuple[str, ...]]]:
        for sample in family.samples:
            gauge = self._gauges.get(family.name)
            if gauge is None:
                mode: Any = MODES.get(family.name, "livesum")
                _create(os.path.join(self._directory, f"gauge_{mode}_{os.getpid()}.db"))
                gauge = self._gauges[family.name] = Gauge(
                    family.name,
                    family.documentation,
                    list(sample.labels),
                    registry=None,
                    multiprocess_mode=mode,
                )
            labels = tuple(sample.labels.values())
            gauge.labels(*labels).set(sample.value)
            yield family.name, labels


def _create(path: str) -> None:
    """Create the file, unless there is one.

    A scrape fails if it meets a file that is empty. So this one has its size from the start.
    """
    new = f"{path}.new"
    with open(new, "wb") as file:
        file.truncate(SIZE)
    with contextlib.suppress(FileExistsError):
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
