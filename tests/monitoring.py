"""Runs gunicorn with several workers, and a Prometheus that watches them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import eventually, free_port, missing
from prometheus_client.parser import text_string_to_metric_families

TESTS = Path(__file__).parent
MONITORING = TESTS.parent / "docs" / "monitoring"
WORKERS = 4
SLOTS = 3  # of each worker
#: Workers that are replaced again and again. With threads, gunicorn before version 26 would reset
#: connections at that.
REPLACED = ["--max-requests", "50", "--threads", "1"]

Counts = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Gunicorn:
    """A gunicorn with :data:`WORKERS` workers that runs ``monitored:app``."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read().decode()
        assert response.status == 200, body
        return body

    def answers(self) -> bool:
        try:
            return bool(self.get("/"))
        except OSError:
            return False

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples of this *name* that have these *labels*."""
        return sum(
            value
            for (found, pairs), value in self.scrape()[1].items()
            if found == name and labels.items() <= dict(pairs).items()
        )

    def scrape(self) -> tuple[Counts, Counts]:
        """The counters, and all there is."""
        counters: Counts = {}
        everything: Counts = {}
        for family in text_string_to_metric_families(self.get("/metrics")):
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                everything[key] = sample.value
                if family.type in ("counter", "histogram"):
                    counters[key] = sample.value
        return counters, everything


@contextlib.contextmanager
def gunicorn(memcached: str, *options: str) -> Iterator[Gunicorn]:
    """Run it for the length of a ``with`` block, with the configuration of the documentation."""
    with tempfile.TemporaryDirectory(prefix="metrics-") as name:
        port = free_port()
        configuration = MONITORING / "gunicorn.conf.py"
        command = [
            *(sys.executable, "-m", "gunicorn", "--config", str(configuration)),
            *("--workers", str(WORKERS), "--threads", "2", "--bind", f"127.0.0.1:{port}"),
            *("--log-level", "warning", *options, "monitored:app"),
        ]
        environ = dict(
            os.environ,
            PROMETHEUS_MULTIPROC_DIR=name,
            PYTHONPATH=os.pathsep.join([str(TESTS), str(TESTS.parent)]),
            TEST_MEMCACHED=memcached,
            TEST_SLOTS=str(SLOTS),
        )
        with ended(subprocess.Popen(command, cwd=name, env=environ)):
            found = Gunicorn(port)
            eventually(found.answers, "gunicorn answers", deadline=30)
            yield found


class Prometheus:
    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def query(self, expression: str, time: float | None = None) -> list[dict[str, Any]]:
        """The vector that *expression* gives, now or at another *time*."""
        parameters = {"query": expression, **({} if time is None else {"time": str(time)})}
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as response:
            result: list[dict[str, Any]] = json.load(response)["data"]["result"]
        return result

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=10):
                return True
        except OSError:
            return False


@contextlib.contextmanager
def prometheus(scraped: int) -> Iterator[Prometheus]:
    """A Prometheus that scrapes the port *scraped*, for the length of a ``with`` block."""
    program = needed("prometheus")
    with tempfile.TemporaryDirectory(prefix="prometheus-") as name:
        port = free_port()
        job = {"job_name": "app", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}
        configuration = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [job],
            "rule_files": [str(MONITORING / "alerts.yml")],
        }
        path = Path(name, "prometheus.yml")
        path.write_text(json.dumps(configuration))  # which is YAML, too
        command = [
            *(program, f"--config.file={path}", f"--storage.tsdb.path={name}/data"),
            *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
        ]
        with ended(subprocess.Popen(command)):
            found = Prometheus(port)
            eventually(found.is_ready, "Prometheus is ready", deadline=30)
            yield found


def needed(program: str) -> str:
    """The path of a *program* of Debian's package ``prometheus``."""
    path = shutil.which(program)
    return path or missing(program)


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
