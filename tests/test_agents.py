"""Other people's agents, which replace parts of pylibmc.

An agent may replace ``pylibmc.Client`` by an object that is no class (ddtrace), or wrap the
methods of ``pylibmc.client.Client`` (New Relic, Elastic APM). It may do so before this package
is imported or after. Each case runs in a process of its own. No agent sends anything: each one
is told so, and what still has an address has a closed port of this machine.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness import free_port, missing

pytestmark = pytest.mark.servers

TESTS = Path(__file__).parent

#: What each process does once its agent is there.
OUTAGE = """
import contextlib, sys, time
sys.path[:0] = [{tests!r}, {root!r}]
from mortal import Mortal
{before}
import pylibmc
import mcpool_wsgi
from mcpool_wsgi import Client, ClientPool, ThreadMappedPool
{after}
"""

USE = """
def every_command(mc):
    assert mc.set("key", "value") is True
    assert mc.get("key") == "value"
    assert mc.get("missing", "default") == "default"
    value, cas = mc.gets("key")
    assert value == "value"
    assert mc.cas("key", "swapped", cas) is True
    assert mc.replace("key", "b") and mc.append("key", "c") and mc.prepend("key", "a")
    assert mc.get("key") == "abc"
    assert mc.add("key", "other") is False
    assert mc.set("number", 1) and mc.incr("number", 2) == 3 and mc.decr("number") == 2
    mc.incr_multi(["number"])
    assert mc.get_multi(["key", "number", "missing"]) == {"key": "abc", "number": 3}
    assert mc.set_multi({"a": 1, "b": (2,)}, key_prefix="p") == []
    assert mc.add_multi({"a": 1}, key_prefix="p") == ["a"]
    assert mc.get_multi(["a", "b"], key_prefix="p") == {"a": 1, "b": (2,)}
    assert mc.delete_multi(["a", "b"], key_prefix="p") is True
    assert mc.touch("key", 60) is True
    mc["item"] = 1
    assert "item" in mc and mc["item"] == 1
    del mc["item"]
    assert mc.delete("key") is True
    assert len(mc.get_stats()) == 1
    assert mc.deserialize(*mc.serialize((1, 2))) == (1, 2)
    assert isinstance(mc.hash("key"), int)
    assert mc.behaviors["cas"] == 1
    assert mc.flush_all() is True
    mc.disconnect_all()
    assert mc.clone().get("key") is None


def app(environ, start_response):
    mc = environ["mc.client"]
    mc.set("page", "found")
    body = str(mc.get("page")).encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]


def request(wrapped):
    from werkzeug.test import Client as Browser

    response = Browser(wrapped).get("/")
    return response.status_code, response.get_data(as_text=True)


def works(address):
    hard = Client([address], {"cas": True})
    soft = Client([address], {"cas": True}, fail_soft=True)
    every_command(hard)
    every_command(soft)
    pools = [ClientPool(hard, 2), ThreadMappedPool(hard), ClientPool(soft, 2)]
    for pool in pools:
        with pool.reserve() as mc:
            every_command(mc)
        with pool.reserve(lazy=True) as mc:
            assert mc.get("missing") is None
    return hard, soft, pools


def fails_as_it_should(hard, soft, pools):
    for mc in (hard, soft):  # the first command of a dead connection may be a silent miss
        with contextlib.suppress(pylibmc.Error):
            mc.get("key")
    for command, *args in (
        ("get", "key"), ("set", "key", 1), ("get_multi", ["key"]), ("incr", "key"),
        ("delete", "key"), ("gets", "key"), ("touch", "key", 1),
    ):
        try:
            getattr(hard, command)(*args)
        except pylibmc.Error:
            pass
        else:
            raise AssertionError(f"{command} did not fail")
    assert soft.get("key", "default") == "default"
    assert soft.gets("key") == (None, None)
    assert soft.get_multi(["key"]) == {}
    assert soft.set("key", 1) is False
    assert soft.set_multi({"key": 1}) == ["key"]
    assert soft.incr("key") is False
    for pool in pools:
        with contextlib.suppress(pylibmc.Error), pool.reserve() as mc:
            mc.get("key")


def works_again(thing):
    deadline = time.monotonic() + 5
    while True:
        try:
            if thing.set("key", "value") and thing.get("key") == "value":
                return
        except pylibmc.Error:
            pass
        assert time.monotonic() < deadline, f"{thing} does not recover"
        time.sleep(0.01)


def through_an_outage():
    server = Mortal(False)
    try:
        hard, soft, pools = works(server.address)
        wrapped = mcpool_wsgi.MemcachedPoolMiddleware(app, pools[2])
        assert request(wrapped) == (200, "found")
        server.kill()
        fails_as_it_should(hard, soft, pools)
        assert request(wrapped) == (200, "None")
        server.start()
        for mc in (hard, soft):
            works_again(mc)
            every_command(mc)
        for pool in pools:
            with pool.reserve() as mc:
                works_again(mc)
                every_command(mc)
            assert pool.stats().in_use == 0
        assert request(wrapped) == (200, "found")
    finally:
        server.kill()


through_an_outage()
"""

#: What keeps the agents to this machine. The port is closed.
QUIET = {
    "DD_TRACE_ENABLED": "true",
    "DD_TRACE_AGENT_URL": "http://127.0.0.1:{port}",
    "DD_DOGSTATSD_URL": "udp://127.0.0.1:{port}",
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "DD_CRASHTRACKING_ENABLED": "false",
    "DD_TRACE_STARTUP_LOGS": "false",
    "DD_APPSEC_ENABLED": "false",
    "DD_PROFILING_ENABLED": "false",
    "NEW_RELIC_DEVELOPER_MODE": "true",
    "NEW_RELIC_MONITOR_MODE": "false",
    "NEW_RELIC_STARTUP_TIMEOUT": "0",
    "NEW_RELIC_LICENSE_KEY": "0" * 40,
    "NEW_RELIC_HOST": "127.0.0.1",
    "NEW_RELIC_PORT": "{port}",
    "NEW_RELIC_UTILIZATION_DETECT_AWS": "false",
    "NEW_RELIC_UTILIZATION_DETECT_AZURE": "false",
    "NEW_RELIC_UTILIZATION_DETECT_GCP": "false",
    "NEW_RELIC_UTILIZATION_DETECT_PCF": "false",
    "ELASTIC_APM_DISABLE_SEND": "true",
    "ELASTIC_APM_SERVER_URL": "http://127.0.0.1:{port}",
    "ELASTIC_APM_CENTRAL_CONFIG": "false",
    "ELASTIC_APM_CLOUD_PROVIDER": "none",
    "SENTRY_DSN": "",
}


def run(program: list[str], script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run *script* under *program*, in a process that talks to this machine only."""
    path = directory / "script.py"
    path.write_text(script)
    port = str(free_port())
    quiet = {name: value.replace("{port}", port) for name, value in QUIET.items()}
    return subprocess.run(
        [*program, str(path)],
        env={**os.environ, **quiet},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
    )


def works_through_an_outage(
    directory: Path,
    *,
    program: list[str] | None = None,
    before: str = "",
    after: str = "",
    finally_: str = "",
) -> None:
    """An app under an agent works through an outage.

    :param before: what the process does before it imports this package.
    :param after: what it does then.
    :param finally_: what it asks at the end, for one that the agent was there.
    """
    script = OUTAGE.format(tests=str(TESTS), root=str(TESTS.parent), before=before, after=after)
    done = run(
        program or [sys.executable], script + USE + finally_ + "\nprint('done')\n", directory
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1:] == ["done"], done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def required(module: str, program: str | None = None) -> list[str]:
    """The command that starts *program*; the test is skipped if it is not there."""
    if importlib.util.find_spec(module) is None:
        missing(module)
    if program is None:
        return []
    path = Path(sys.executable).parent / program
    if not path.exists():
        missing(program)
    return [str(path)]


@pytest.fixture(autouse=True)
def _needs_the_real_memcached(real_memcached: object) -> None:
    pass


# -- Agents

ELASTIC = """
import elasticapm
agent = elasticapm.Client(service_name="app", disable_send=True, central_config=False,
                          cloud_provider="none", metrics_interval="0s")
elasticapm.instrument()
agent.begin_transaction("request")
"""

SENTRY = """
import sentry_sdk
sentry_sdk.init(dsn="", traces_sample_rate=1.0)
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware
"""

NEW_RELIC = """
import newrelic.agent
newrelic.agent.initialize()
"""

NEW_RELIC_IS_THERE = """
import pylibmc.client
assert hasattr(pylibmc.client.Client.get, "__wrapped__"), pylibmc.client.Client.get
"""


def test_ddtrace_run(tmp_path: Path) -> None:
    program = [*required("ddtrace", "ddtrace-run"), sys.executable]
    there = "assert pylibmc.Client is not pylibmc.client.Client"
    works_through_an_outage(tmp_path, program=program, finally_=there)


@pytest.mark.parametrize("when", ["before", "after"])
def test_ddtrace(tmp_path: Path, when: str) -> None:
    required("ddtrace")
    patch = "import ddtrace; ddtrace.patch(pylibmc=True)"
    there = "assert pylibmc.Client is not pylibmc.client.Client"
    works_through_an_outage(tmp_path, finally_=there, **{when: patch})  # type: ignore[arg-type]


def test_newrelic_admin(tmp_path: Path) -> None:
    program = [*required("newrelic", "newrelic-admin"), "run-program", sys.executable]
    works_through_an_outage(tmp_path, program=program, finally_=NEW_RELIC_IS_THERE)


def test_new_relic_before(tmp_path: Path) -> None:
    required("newrelic")
    works_through_an_outage(tmp_path, before=NEW_RELIC, finally_=NEW_RELIC_IS_THERE)


def test_new_relic_after(tmp_path: Path) -> None:
    """It notices imports only, so this calls its hook."""
    required("newrelic")
    hook = """
import pylibmc.client
from newrelic.hooks.datastore_pylibmc import instrument_pylibmc_client
instrument_pylibmc_client(pylibmc.client)
"""
    works_through_an_outage(tmp_path, after=NEW_RELIC + hook, finally_=NEW_RELIC_IS_THERE)


@pytest.mark.parametrize("when", ["before", "after"])
def test_elastic_apm(tmp_path: Path, when: str) -> None:
    required("elasticapm")
    there = 'assert hasattr(pylibmc.Client.get, "__wrapped__"), pylibmc.Client.get'
    works_through_an_outage(tmp_path, finally_=there, **{when: ELASTIC})  # type: ignore[arg-type]


@pytest.mark.parametrize("when", ["before", "after"])
def test_sentry(tmp_path: Path, when: str) -> None:
    required("sentry_sdk")
    there = """
inner = mcpool_wsgi.MemcachedPoolMiddleware(
    lambda environ, start_response: [start_response("200 OK", []) and b""],
    ClientPool(Client(["127.0.0.1:1"], fail_soft=True), 1),
)
assert request(SentryWsgiMiddleware(inner))[0] == 200
"""
    works_through_an_outage(tmp_path, finally_=there, **{when: SENTRY})  # type: ignore[arg-type]


# -- What agents do, without an agent

NO_CLASS = """
import pylibmc
class Proxy:
    \"\"\"What ddtrace puts there, as an instance.\"\"\"
    def __init__(self, wrapped):
        self.wrapped = wrapped
    def __call__(self, *args, **kwargs):
        raise AssertionError("this package never calls what an agent has put there")
pylibmc.Client = Proxy(pylibmc.Client)
"""

WRAPPED = """
import pylibmc.client
class BoundWrapper:
    def __init__(self, wrapped, instance):
        self.__wrapped__, self.instance = wrapped, instance
    def __call__(self, *args, **kwargs):
        self.instance.addresses  # Elastic APM asks for it
        return self.__wrapped__(*args, **kwargs)
class FunctionWrapper:
    \"\"\"A descriptor that is no function, as wrapt's.\"\"\"
    def __init__(self, wrapped):
        self.__wrapped__ = wrapped
    def __get__(self, instance, owner):
        if instance is None:
            return self
        return BoundWrapper(self.__wrapped__.__get__(instance, owner), instance)
    def __call__(self, instance, *args, **kwargs):
        return self.__wrapped__(instance, *args, **kwargs)
for name in dir(pylibmc.client.Client):
    method = getattr(pylibmc.client.Client, name)
    if callable(method) and (not name.startswith("__") or name in {
        "__getitem__", "__setitem__", "__delitem__", "__contains__",
    }):
        setattr(pylibmc.client.Client, name, FunctionWrapper(method))
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("patch", [NO_CLASS, WRAPPED], ids=["no class", "wrapped methods"])
def test_patches_without_an_agent(tmp_path: Path, patch: str, when: str) -> None:
    works_through_an_outage(tmp_path, **{when: patch})  # type: ignore[arg-type]
