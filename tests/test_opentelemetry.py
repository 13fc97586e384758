"""Spans and metrics, as OpenTelemetry's SDK gets them."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from types import FrameType
from typing import Any, Callable

import hostile
import pylibmc
import pytest
from apps import serving
from forking import FORKS, succeeds
from harness import eventually, in_threads, run_python
from mortal import Mortal
from opentelemetry import context, trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import db_attributes as all_db_attributes
from opentelemetry.semconv._incubating.metrics import db_metrics as all_db_metrics
from opentelemetry.semconv.attributes import db_attributes, error_attributes, server_attributes
from opentelemetry.semconv.metrics import db_metrics
from opentelemetry.trace import SpanKind, StatusCode

from mcpool_wsgi import (
    Client,
    ClientPool,
    CommandEvent,
    MemcachedPoolMiddleware,
    PooledClient,
    PoolTimeout,
    ThreadMappedPool,
    get_client,
)
from mcpool_wsgi.opentelemetry import instrument

pytestmark = pytest.mark.slow

SYSTEM = db_attributes.DB_SYSTEM_NAME
OPERATION = db_attributes.DB_OPERATION_NAME
BATCH_SIZE = db_attributes.DB_OPERATION_BATCH_SIZE
TEXT = db_attributes.DB_QUERY_TEXT
ADDRESS = server_attributes.SERVER_ADDRESS
PORT = server_attributes.SERVER_PORT
ERROR_TYPE = error_attributes.ERROR_TYPE
POOL_NAME = all_db_attributes.DB_CLIENT_CONNECTION_POOL_NAME
STATE = all_db_attributes.DB_CLIENT_CONNECTION_STATE
MEMCACHED = all_db_attributes.DbSystemNameValues.MEMCACHED.value
OUTCOME = "mcpool.outcome"


class Telemetry:
    """The SDK, with exporters that keep what they get."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader])
        self.tracer = self.tracer_provider.get_tracer("tests")

    def instrument(self, pool: Any, **options: Any) -> Callable[[], None]:
        return instrument(pool, self.tracer_provider, self.meter_provider, **options)

    def spans(self) -> list[ReadableSpan]:
        """Those that have ended since the last call."""
        spans = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return spans

    def metrics(self) -> dict[str, Any]:
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        found = [
            metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        assert len({metric.name for metric in found}) == len(found)
        return {metric.name: metric for metric in found}

    def figures(self, name: str) -> dict[tuple[Any, ...], Any]:
        """``{(attribute, ...): figure}`` of a metric; the figure of a histogram is its count."""
        metric = self.metrics().get(name)
        if metric is None:
            return {}
        return {
            tuple(point.attributes.values()): point.value
            if hasattr(point, "value")
            else point.count
            for point in metric.data.data_points
        }


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    found = Telemetry()
    yield found
    found.tracer_provider.shutdown()
    found.meter_provider.shutdown()


@pytest.fixture
def pool(address: str, telemetry: Telemetry) -> ClientPool:
    pool = ClientPool(Client([address]), 2, timeout=0, name="default")
    telemetry.instrument(pool)
    return pool


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def server(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {ADDRESS: host, PORT: int(port)}


def times(span: ReadableSpan) -> tuple[int, int]:
    """When it started and when it ended, in nanoseconds."""
    assert span.start_time
    assert span.end_time
    return span.start_time, span.end_time


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    ids = [one and (one.trace_id, one.span_id) for one in (span.parent, parent.context)]
    return ids[0] is not None and ids[0] == ids[1]


# -- Spans

Case = tuple[Callable[[Any], object], str, dict[str, Any]]
CASES: list[Case] = [
    (lambda mc: mc.get("key"), "get", {OUTCOME: "hit"}),
    (lambda mc: mc.get("missing"), "get", {OUTCOME: "miss"}),
    (lambda mc: mc.set("key", 1), "set", {OUTCOME: "stored"}),
    (lambda mc: mc.add("key", 1), "add", {OUTCOME: "not stored"}),
    (lambda mc: mc.incr("missing"), "incr", {OUTCOME: "miss"}),
    (lambda mc: mc.delete_multi(["key"]), "delete", {OUTCOME: "hit"}),
    (
        lambda mc: mc.get_multi(["key", "missing"]),
        "get_multi",
        {OUTCOME: "hit", "mcpool.keys": 2, "mcpool.hits": 1},
    ),
    (lambda mc: mc.set_multi({"a": 1, "b": 2}), "BATCH set", {OUTCOME: "stored", BATCH_SIZE: 2}),
    (
        lambda mc: mc.add_multi({"key": 1, "a": 2, "b": 3}),
        "BATCH add",
        {OUTCOME: "not stored", BATCH_SIZE: 3},
    ),
    (lambda mc: mc.set_multi({"a": 1}), "set", {OUTCOME: "stored"}),
    (lambda mc: mc.flush_all(), "flush_all", {OUTCOME: "done"}),
    (lambda mc: mc.get_stats(), "get_stats", {OUTCOME: "done"}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[1]} {case[2][OUTCOME]}")
def test_command_is_a_span_as_the_conventions_have_it(
    pool: ClientPool, telemetry: Telemetry, address: str, case: Case
) -> None:
    run, operation, expected = case
    with pool.reserve() as mc:
        mc.set("key", 5)
        telemetry.spans()
        with contextlib.suppress(pylibmc.NotFound):
            run(mc)
    (span,) = telemetry.spans()
    assert span.name == f"{operation} {address}"
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert attributes(span) == {
        SYSTEM: MEMCACHED,
        OPERATION: operation,
        **server(address),
        **expected,
    }
    assert not span.events
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "mcpool_wsgi"


def test_each_key_of_delete_multi_is_a_span(pool: ClientPool, telemetry: Telemetry) -> None:
    with pool.reserve() as mc:
        mc.delete_multi(["a", "b"])
    assert [attributes(span)[OPERATION] for span in telemetry.spans()] == ["delete"] * 2


def test_closing_connections_is_no_span(pool: ClientPool, telemetry: Telemetry) -> None:
    with pool.reserve() as mc:
        mc.get("key")
        mc.disconnect_all()
    assert [attributes(span)[OPERATION] for span in telemetry.spans()] == ["get"]


def test_span_has_the_times_of_its_command(
    pool: ClientPool, telemetry: Telemetry, address: str
) -> None:
    events: list[CommandEvent] = []
    with hostile.proxy(address) as proxy:
        proxy.delay = 0.05
        pool.set_servers([proxy.address])
        pool.observe(events.append)
        began = time.time_ns()
        with telemetry.tracer.start_as_current_span("request"), pool.reserve() as mc:
            mc.get("key")
        ended = time.time_ns()
    command, request = map(times, telemetry.spans())
    assert command[1] - command[0] == int(events[0].seconds * 1e9) > 0.05e9
    assert [began, *request, ended] == sorted([began, *request, ended])
    assert [request[0], *command, request[1]] == sorted([*request, *command])


def lent(pool: Any) -> None:
    with pool.reserve() as mc:
        mc.get("key")


def lazy(pool: Any) -> None:
    mc = pool.reserve(lazy=True)
    mc.get("key")
    mc.release()


def changed(pool: Any) -> None:
    with pool.reserve() as mc:
        mc.behaviors = {"namespace": "mine"}
        mc.get("key")


def pooled(pool: Any) -> None:
    PooledClient(pool).get("key")


@pytest.mark.parametrize("pool_class", [ClientPool, ThreadMappedPool])
@pytest.mark.parametrize("use", [lent, lazy, changed, pooled])
def test_parent_is_the_current_span(
    telemetry: Telemetry, address: str, pool_class: Any, use: Any
) -> None:
    pool = pool_class.from_servers([address], 1)
    telemetry.instrument(pool)
    with telemetry.tracer.start_as_current_span("request"):
        use(pool)
    use(pool)
    child, request, orphan = telemetry.spans()
    assert is_child(child, request)
    assert orphan.parent is None


# -- Behind OpenTelemetry's own middleware


@pytest.mark.parametrize("lazy", [False, True])
def test_spans_of_a_request_are_children_of_its_span(
    pool: ClientPool, telemetry: Telemetry, lazy: bool
) -> None:
    cache = PooledClient(pool)

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        mc = get_client(environ)
        mc.set("key", "value")
        start_response("200 OK", [("Content-Type", "text/plain")])

        def chunks() -> Iterator[bytes]:
            yield str(mc.get("key")).encode()
            yield str(cache.get_multi(["key"])).encode()

        return chunks()

    wrapped = OpenTelemetryMiddleware(
        MemcachedPoolMiddleware(app, pool, lazy=lazy),
        tracer_provider=telemetry.tracer_provider,
        meter_provider=telemetry.meter_provider,
    )
    trace_id, span_id = "1" * 32, "2" * 16
    with serving(wrapped) as url:
        caller = {"traceparent": f"00-{trace_id}-{span_id}-01"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=caller)) as response:
            assert response.read() == b"value{'key': 'value'}"
    *commands, request = telemetry.spans()
    assert [attributes(span)[OPERATION] for span in commands] == ["set", "get", "get_multi"]
    assert request.kind is SpanKind.SERVER
    assert request.context is not None
    assert f"{request.context.trace_id:032x}" == trace_id
    for span in commands:
        assert is_child(span, request)
        assert sorted([*times(request), *times(span)])[1:3] == [*times(span)]


# -- Errors


@pytest.mark.parametrize("fail_soft", [False, True])
def test_outage_is_an_error_also_with_fail_soft(telemetry: Telemetry, fail_soft: bool) -> None:
    with hostile.refusing() as address:
        pool = ClientPool(Client([address], fail_soft=fail_soft), 1)
        telemetry.instrument(pool)
        for _ in range(3):
            with pool.reserve() as mc, contextlib.ExitStack() as stack:
                if not fail_soft:
                    stack.enter_context(pytest.raises(pylibmc.Error))
                mc.get("secret")
        first, _, second = telemetry.spans()
        expected = {SYSTEM: MEMCACHED, OPERATION: "get", **server(address), OUTCOME: "failure"}
        assert attributes(first) == {**expected, ERROR_TYPE: "ConnectionError"}
        assert attributes(second) == {**expected, ERROR_TYPE: "ServerResting"}
        for span in (first, second):
            assert span.status.status_code is StatusCode.ERROR
            assert address in str(span.status.description)
        durations = telemetry.metrics()[db_metrics.DB_CLIENT_OPERATION_DURATION]
    assert [dict(point.attributes) for point in durations.data.data_points] == [
        attributes(first),
        attributes(second),
    ]


@pytest.mark.parametrize("command_timeout", [0.1, 5])
def test_time_out_of_either_kind_is_called_so(
    telemetry: Telemetry, mortal: Mortal, command_timeout: float
) -> None:
    pool = ClientPool(Client([mortal.address], command_timeout=command_timeout), 1)
    telemetry.instrument(pool)
    with pool.reserve() as mc:
        mc.get("key")
        mortal.stop()
        with pytest.raises(pylibmc.Error):
            mc.get("key")
    mortal.go_on()
    _, span = telemetry.spans()
    assert attributes(span)[ERROR_TYPE] == "timeout"
    assert span.status.status_code is StatusCode.ERROR


def test_error_of_the_caller_is_an_error(pool: ClientPool, telemetry: Telemetry) -> None:
    with pool.reserve() as mc, pytest.raises(pylibmc.TooBig):
        mc.set("key", "x" * (1 << 21))
    (span,) = telemetry.spans()
    assert attributes(span)[ERROR_TYPE] == "TooBig"
    assert attributes(span)[OUTCOME] == "error"
    assert span.status.status_code is StatusCode.ERROR


# -- Keys and values


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ValueError("secret")


def everything(telemetry: Telemetry) -> str:
    spans = "\n".join(span.to_json() for span in telemetry.spans())
    return f"{spans}\n{[metric.to_json() for metric in telemetry.metrics().values()]}"


@pytest.mark.parametrize("binary", [False, True])
def test_keys_and_values_are_nowhere(
    pool: ClientPool, telemetry: Telemetry, mortal: Mortal, binary: bool
) -> None:
    keys = ["secret", "a): secret", "secret\n): (x"] if binary else ["secret", "a):secret):("]
    pool.fill(Client([mortal.address], binary=binary), 1)
    commands: list[Callable[[Any, str], object]] = [
        lambda mc, key: mc.set(key, "secret"),
        lambda mc, key: mc.get(key),
        lambda mc, key: mc.get_multi([key, "other"]),
        lambda mc, key: mc.set_multi({key: "secret", "other": "secret"}),
        lambda mc, key: mc.incr(key),
        lambda mc, key: mc.delete(key),
        lambda mc, key: mc.touch(key, 1),
        lambda mc, key: mc.set(key, Unpicklable()),
    ]

    def run() -> None:
        for command in commands:
            for key in keys:
                pool.disconnect_all()  # so that no client remembers that the server failed
                with pool.reserve() as mc, contextlib.suppress(pylibmc.Error, ValueError):
                    command(mc, key)

    run()
    mortal.kill()
    run()
    found = everything(telemetry)
    assert "CONNECTION FAILURE" in found
    assert "secret" not in found


def test_keys_are_there_if_they_are_asked_for(telemetry: Telemetry, address: str) -> None:
    pool = ClientPool(Client([address]), 1)
    telemetry.instrument(pool, capture_keys=True)
    with pool.reserve() as mc:
        mc.get("key")
        mc.get(b"\xff")
        mc.get_multi(["a", "b"])
        mc.set_multi({"a": "secret", "b": "secret"}, key_prefix="p:")
        mc.flush_all()
    spans = telemetry.spans()
    assert [attributes(span).get(TEXT) for span in spans] == [
        "get key",
        "get \\xff",
        "get_multi a b",
        "set p:a; set p:b",
        None,
    ]
    assert not any("secret" in span.to_json() for span in spans)
    assert TEXT not in str(telemetry.metrics())


# -- Servers


def test_one_of_several_servers_is_not_known(
    telemetry: Telemetry, address: str, mortal: Mortal
) -> None:
    pool = ClientPool(Client([address, mortal.address]), 1)
    telemetry.instrument(pool)
    with pool.reserve() as mc:
        mc.get("key")
        mc.get_stats()  # of each server on its own
    get, *stats = telemetry.spans()
    assert get.name == "get"
    assert attributes(get) == {SYSTEM: MEMCACHED, OPERATION: "get", OUTCOME: "miss"}
    assert [span.name for span in stats] == [f"get_stats {address}", f"get_stats {mortal.address}"]
    assert attributes(stats[1]).items() >= server(mortal.address).items()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", {ADDRESS: "127.0.0.1", PORT: 11211}),
        ("[::1]:1", {ADDRESS: "::1", PORT: 1}),
        ("127.0.0.1:1:2", {ADDRESS: "127.0.0.1", PORT: 1}),
        ((pylibmc.server_type_tcp, "127.0.0.1", 1), {ADDRESS: "127.0.0.1", PORT: 1}),
        ("/no/such.sock", {ADDRESS: "/no/such.sock"}),
    ],
    ids=str,
)
def test_server_is_told_in_the_form_of_the_conventions(
    telemetry: Telemetry, address: Any, expected: dict[str, Any]
) -> None:
    pool = ClientPool(Client([address]), 1)
    telemetry.instrument(pool)
    with pool.reserve() as mc, contextlib.suppress(pylibmc.Error):
        mc.get("key")
    (span,) = telemetry.spans()
    found = attributes(span)
    assert {name: found[name] for name in (ADDRESS, PORT) if name in found} == expected
    assert span.name == f"get {':'.join(map(str, expected.values()))}"


# -- Metrics


def test_metrics_are_those_of_the_conventions(pool: ClientPool, telemetry: Telemetry) -> None:
    theirs = Telemetry()
    meter = theirs.meter_provider.get_meter("conventions")
    for name in ("count", "max", "pending_requests", "timeouts"):
        getattr(all_db_metrics, f"create_db_client_connection_{name}")(meter).add(1)
    for name in ("wait_time", "use_time"):
        getattr(all_db_metrics, f"create_db_client_connection_{name}")(meter).record(1)
    all_db_metrics.create_db_client_operation_duration(meter).record(1)
    with pool.reserve() as mc:
        mc.get("key")

    def described(telemetry: Telemetry) -> set[tuple[Any, ...]]:
        return {
            (
                metric.name,
                metric.unit,
                type(metric.data),
                isinstance(metric.data, Sum) and metric.data.is_monotonic,
            )
            for metric in telemetry.metrics().values()
        }

    assert described(telemetry) == described(theirs)
    theirs.meter_provider.shutdown()


def test_durations_are_counted_by_outcome(
    pool: ClientPool, telemetry: Telemetry, address: str
) -> None:
    events: list[CommandEvent] = []
    pool.observe(events.append)
    with pool.reserve() as mc:
        mc.set("key", 1)
        mc.get("key")
        mc.get("key")
        mc.get("missing")
        mc.set_multi({"a": 1, "b": 2})
    duration = telemetry.metrics()[db_metrics.DB_CLIENT_OPERATION_DURATION]
    common = (MEMCACHED, *server(address).values())
    points = {
        (attrs.pop(OPERATION), attrs.pop(OUTCOME), *attrs.values()): point
        for point in duration.data.data_points
        for attrs in [dict(point.attributes)]
    }
    assert {key: point.count for key, point in points.items()} == {
        ("set", "stored", *common): 1,
        ("get", "hit", *common): 2,
        ("get", "miss", *common): 1,
        ("BATCH set", "stored", *common): 1,
    }
    assert sum(point.sum for point in points.values()) == pytest.approx(
        sum(event.seconds for event in events)
    )
    bounds = next(iter(points.values())).explicit_bounds
    assert bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)


def test_metrics_show_the_state_of_the_pool(pool: ClientPool, telemetry: Telemetry) -> None:
    count, pending = "db.client.connection.count", "db.client.connection.pending_requests"
    timeouts, most = "db.client.connection.timeouts", "db.client.connection.max"
    assert telemetry.figures(count) == {("default", "idle"): 0, ("default", "used"): 0}
    with pool.reserve():
        with pool.reserve() as second:
            assert telemetry.figures(count) == {("default", "idle"): 0, ("default", "used"): 2}
            for _ in range(3):
                with pytest.raises(PoolTimeout):
                    pool.reserve().__enter__()
            waiter = threading.Thread(target=pool.reserve(timeout=10).__enter__)
            waiter.start()
            eventually(lambda: telemetry.figures(pending) == {("default",): 1})
            second.release()
            waiter.join(10)
        assert telemetry.figures(pending) == {("default",): 0}
    del waiter
    gc.collect()
    assert telemetry.figures(count) == {("default", "idle"): 1, ("default", "used"): 0}
    assert telemetry.figures(timeouts) == {("default",): 3}
    assert telemetry.figures(most) == {("default",): 2}


def test_waits_and_uses_are_measured(pool: ClientPool, telemetry: Telemetry) -> None:
    with pool.reserve() as mc, pool.reserve():
        mc.get("key")
        with pytest.raises(PoolTimeout):
            pool.reserve(timeout=0.01).__enter__()
    metrics = telemetry.metrics()
    (waits,) = metrics["db.client.connection.wait_time"].data.data_points
    (uses,) = metrics["db.client.connection.use_time"].data.data_points
    stats = pool.stats()
    assert waits.count == stats.reservations + stats.timeouts == 3
    assert waits.sum >= stats.seconds_waited >= 0.01
    assert (uses.count, uses.sum >= 0.02) == (2, True)  # each of them waited, too
    assert waits.attributes == uses.attributes == {POOL_NAME: "default"}
    assert waits.explicit_bounds[0] == uses.explicit_bounds[0] == 0.001


def test_pool_without_a_limit_has_no_maximum(mc: Client, telemetry: Telemetry) -> None:
    pool = ThreadMappedPool(mc)
    telemetry.instrument(pool)
    assert telemetry.figures("db.client.connection.count")
    assert telemetry.figures("db.client.connection.max") == {}


def test_pools_share_a_meter(pool: ClientPool, mc: Client, telemetry: Telemetry) -> None:
    other = ClientPool(mc, 5, name="other")
    undo = telemetry.instrument(other)
    most = "db.client.connection.max"
    assert telemetry.figures(most) == {("default",): 2, ("other",): 5}
    undo()
    assert telemetry.figures(most) == {("default",): 2}
    telemetry.instrument(other)
    assert telemetry.figures(most) == {("default",): 2, ("other",): 5}
    del other, undo
    gc.collect()
    assert telemetry.figures(most) == {("default",): 2}


def test_pools_may_come_and_go_while_figures_are_collected(
    pool: ClientPool, mc: Client, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """At each line of this package that collects them, as another thread could do it."""
    others = [ClientPool(mc, 1) for _ in range(3)]
    undo: list[Callable[[], None]] = []

    def come_or_go(frame: FrameType, *_: Any) -> Any:
        if not frame.f_globals["__name__"].startswith("mcpool_wsgi."):
            return None  # the collection has a time limit
        if len(undo) == len(others):
            while undo:
                undo.pop()()
        else:
            undo.append(telemetry.instrument(others[len(undo)]))
        return come_or_go

    before = sys.gettrace()
    sys.settrace(come_or_go)
    try:
        found = telemetry.figures("db.client.connection.max")
    finally:
        sys.settrace(before)
    assert found["default",] == 2
    assert not caplog.records


def test_closed_pool_keeps_its_figures(pool: ClientPool, telemetry: Telemetry) -> None:
    with pool.reserve():
        pass
    pool.close()
    assert telemetry.figures("db.client.connection.count") == {
        ("default", "idle"): 0,
        ("default", "used"): 0,
    }
    assert telemetry.figures("db.client.connection.use_time") == {("default",): 1}


GLOBAL = """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from mcpool_wsgi import Client, ClientPool
from mcpool_wsgi.opentelemetry import instrument

reader = InMemoryMetricReader()
provider = MeterProvider([reader])
pools = [ClientPool(Client(["127.0.0.1:1"]), 1, name=str(number)) for number in range(3)]
instrument(pools[0])
metrics.set_meter_provider(provider)
instrument(pools[1])
instrument(pools[2], meter_provider=provider)
(resource,) = reader.get_metrics_data().resource_metrics
(scope,) = resource.scope_metrics
for metric in scope.metrics:
    points = metric.data.data_points
    print(metric.name, *sorted(point.attributes["{POOL_NAME}"] for point in points))
"""


def test_global_provider_may_be_set_before_or_after(tmp_path: Any) -> None:
    script = GLOBAL.replace("{POOL_NAME}", POOL_NAME)
    done = run_python(script, options=["-W", "error"], cwd=tmp_path)
    assert done.stderr == ""
    assert "db.client.connection.max 0 1 2\n" in done.stdout


# -- Switching it off


@contextlib.contextmanager
def as_exporters_do() -> Iterator[None]:
    token = context.attach(context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    yield
    context.detach(token)


@pytest.mark.parametrize("suppressed", [suppress_instrumentation, as_exporters_do])
def test_suppression_is_honoured(
    pool: ClientPool, telemetry: Telemetry, suppressed: Callable[[], Any]
) -> None:
    with suppressed(), pool.reserve() as mc:
        mc.get("key")
    assert telemetry.spans() == []
    assert not any(".duration" in name or "_time" in name for name in telemetry.metrics())
    with pool.reserve() as mc:
        mc.get("key")
    assert len(telemetry.spans()) == 1


def test_span_that_is_not_sampled_is_measured_all_the_same(mc: Client) -> None:
    telemetry = Telemetry()
    pool = ClientPool(mc, 1)
    instrument(pool, trace.NoOpTracerProvider(), telemetry.meter_provider)
    with pool.reserve() as client:
        client.get("key")
    assert len(telemetry.figures(db_metrics.DB_CLIENT_OPERATION_DURATION)) == 1
    telemetry.meter_provider.shutdown()


def test_it_ends_when_its_function_is_called(mc: Client, telemetry: Telemetry) -> None:
    pool = ClientPool(mc, 1)
    undo = telemetry.instrument(pool)
    with pytest.raises(RuntimeError, match="instrumented already"):
        telemetry.instrument(pool)
    undo()
    undo()
    lent(pool)
    assert telemetry.spans() == []
    assert telemetry.metrics() == {}
    telemetry.instrument(pool)
    undo()  # that of the first one
    lent(pool)
    assert len(telemetry.spans()) == 1
    assert telemetry.figures("db.client.connection.use_time") == {(pool.name,): 1}


@pytest.mark.servers
@pytest.mark.parametrize("fork", FORKS)
def test_child_has_spans_and_figures_of_its_own(
    pool: ClientPool, telemetry: Telemetry, fork: Any
) -> None:
    lent(pool)

    def work() -> None:
        lent(pool)
        lent(pool)
        assert len(telemetry.spans()) == 3
        assert telemetry.figures("db.client.connection.use_time") == {("default",): 3}
        assert telemetry.figures("db.client.connection.count")["default", "idle"] == 1

    succeeds(fork(work))
    assert len(telemetry.spans()) == 1


# -- Mistakes


def test_wrong_arguments_are_named(mc: Client, address: str) -> None:
    pool = ClientPool(mc, 1)
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((mc,), "needs a pool of this package, not"),
        ((ClientPool(pylibmc.Client([address]), 1),), "of mcpool_wsgi.Client.*<class .pylibmc"),
        ((pool, MeterProvider()), r"must have get_tracer\(\)"),
        ((pool, None, TracerProvider()), r"must have get_meter\(\)"),
    ]
    for arguments, text in cases:
        with pytest.raises(TypeError, match=text):
            instrument(*arguments)
    instrument(pool)()


def test_one_of_many_threads_instruments_a_pool(mc: Client, telemetry: Telemetry) -> None:
    together = threading.Barrier(4)

    def work() -> None:
        together.wait(10)
        with contextlib.suppress(RuntimeError):
            telemetry.instrument(pool)

    for _ in range(20):
        pool = ClientPool(mc, 1)
        in_threads([work] * 4)
        with pool.reserve() as client:
            client.get("key")
        assert len(telemetry.spans()) == 1


def test_without_the_library_the_extra_is_named() -> None:
    script = "import sys; sys.modules['opentelemetry'] = None; import mcpool_wsgi.opentelemetry"
    done = run_python(script)
    assert "ImportError: mcpool_wsgi.opentelemetry needs opentelemetry-api: pip install" in (
        done.stderr
    )
