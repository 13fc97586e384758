"""Alerts, a dashboard and figures, in a real Prometheus."""

from __future__ import annotations

import json
import math
import re
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import eventually
from monitoring import MONITORING, REPLACED, Gunicorn, gunicorn, needed, prometheus
from prometheus_client import CollectorRegistry, generate_latest

from mcpool_wsgi import Client, ClientPool
from mcpool_wsgi.metrics import PoolCollector

DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
QUERIES = {
    f"{panel['title']} ({panel['type']}) {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
#: What Grafana puts in for its variables.
VARIABLES = {"$job": ".*", "$pool": "default", "$__rate_interval": "5s", "$__range": "1m"}


def checked(metrics: str) -> str:
    """What ``promtool check metrics`` has to say."""
    command = [needed("promtool"), "check", "metrics"]
    done = subprocess.run(command, input=metrics, capture_output=True, text=True)
    return done.stdout + done.stderr


def test_promtool_accepts_the_metrics_of_a_process(address: str) -> None:
    pool = ClientPool(Client([address]), 1)
    registry = CollectorRegistry()
    registry.register(PoolCollector([pool]))
    with pool.reserve() as mc:
        mc.get("key")
        pool.set_servers([address])
    with pool.reserve():
        pass
    assert checked(generate_latest(registry).decode()) == ""


@pytest.mark.servers
def test_promtool_accepts_the_metrics_of_several_workers(address: str) -> None:
    with gunicorn(address) as server, under_load(server):
        eventually(lambda: server.value("mcpool_clients_renewed_total"))
        metrics = server.get("/metrics")
    assert "mcpool_up" in metrics
    assert checked(metrics) == ""


@pytest.mark.slow
def test_alerts_ignore_a_blip_and_fire_in_an_outage_and_for_an_exhausted_pool() -> None:
    for arguments in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        command = [needed("promtool"), *arguments]
        done = subprocess.run(command, cwd=MONITORING, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_dashboard_shows_the_share_in_use_of_the_clients_that_have_a_limit(tmp_path: Path) -> None:
    """A ThreadMappedPool has none."""
    query = QUERIES["Clients in use (stat) A"].replace("$job", ".*").replace("$pool", ".*")
    name = "db_client_connection_pool_name"
    figures = {
        f'db_client_connections{{{name}="bounded", db_client_connection_state="used"}}': 3,
        f'db_client_connections{{{name}="bounded", db_client_connection_state="idle"}}': 1,
        f'db_client_connection_max{{{name}="bounded"}}': 12,
        f'db_client_connections{{{name}="by thread", db_client_connection_state="used"}}': 30,
    }
    test = {
        "input_series": [{"series": of, "values": f"{value}x3"} for of, value in figures.items()],
        "promql_expr_test": [{"expr": query, "eval_time": "1m", "exp_samples": [{"value": 0.25}]}],
    }
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"tests": [test]}))  # which is YAML, too
    command = [needed("promtool"), "test", "rules", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def under_load(server: Gunicorn, pace: float = 0.05) -> Iterator[list[float]]:
    """Send a request every *pace* seconds from each of two threads.

    :return: when each request to ``/read`` was answered.
    """
    answered: list[float] = []
    is_over = threading.Event()

    def load(path: str) -> None:
        while not is_over.is_set():
            began = time.monotonic()
            server.get(path)
            if path == "/read":
                answered.append(time.time())
            is_over.wait(pace - (time.monotonic() - began))

    threads = [threading.Thread(target=load, args=(path,)) for path in ("/read", "/trouble")]
    for thread in threads:
        thread.start()
    try:
        yield answered
        assert all(thread.is_alive() for thread in threads)
    finally:
        is_over.set()
        for thread in threads:
            thread.join(20)


@pytest.mark.servers
def test_prometheus_knows_what_the_dashboard_and_the_alerts_ask_for(address: str) -> None:
    with gunicorn(address) as server, prometheus(server.port) as observer, under_load(server):

        def has_data(expression: str) -> bool:
            found = observer.query(expression)
            return bool(found) and not any(math.isnan(float(each["value"][1])) for each in found)

        for name, expression in QUERIES.items():
            for variable, meaning in VARIABLES.items():
                expression = expression.replace(variable, meaning)
            assert "$" not in expression
            eventually(lambda query=expression: has_data(query), name, deadline=30)  # type: ignore[misc]
        rules = (MONITORING / "alerts.yml").read_text(encoding="utf-8")
        for metric in set(re.findall(r"\b(?:mcpool|db_client)_\w+(?=[\[{])", rules)):
            eventually(lambda name=metric: has_data(name), metric)  # type: ignore[misc]
        with urllib.request.urlopen(f"{observer.url}/api/v1/rules", timeout=10) as response:
            (group,) = json.load(response)["data"]["groups"]
        assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}


@pytest.mark.servers
def test_rate_is_that_of_the_load_while_workers_are_replaced(address: str) -> None:
    with gunicorn(address, *REPLACED) as server, prometheus(server.port) as observer:
        pairs: list[tuple[float, float]] = []

        def is_that_of_the_load() -> bool:
            began = time.time()
            eventually(lambda: time.time() > began + 10, deadline=30)
            end = time.time()
            # What is a second old has been published.
            eventually(lambda: time.time() > end + 2)
            load = sum(began < each <= end for each in answered.copy()) / (end - began)
            (found,) = observer.query("sum(rate(mcpool_hits_total[10s]))", time=end + 1)
            pairs.append((float(found["value"][1]), load))
            return pairs[-1] == pytest.approx((load, load), rel=0.25)

        with under_load(server, pace=0.02) as answered:
            eventually(lambda: len(answered) > 100, deadline=30)
            # A busy machine may scrape, or answer, late for a while.
            eventually(is_that_of_the_load, str(pairs), deadline=60)
