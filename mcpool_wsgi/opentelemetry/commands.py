"""
Commands
========

One span and one measurement for each command. A command is told after its end, so its span is
made then, with the times at which the command began and ended.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from time import time_ns
from typing import Any

from opentelemetry.context import get_current
from opentelemetry.metrics import Histogram
from opentelemetry.trace import SpanKind, StatusCode, Tracer
from pylibmc.client import translate_server_spec

from ..client import CommandEvent, is_timeout, without_key
from .suppression import is_suppressed

Attributes = Mapping[str, Any]

#: The commands that memcached gets once for each key, in one go.
_BATCHES = {"set_multi": "set", "add_multi": "add"}


class Commands:
    """A listener of commands.

    :param duration: takes the seconds of each command.
    :param capture_keys: put the keys into the spans.
    """

    def __init__(self, tracer: Tracer, duration: Histogram, capture_keys: bool) -> None:
        self._tracer = tracer
        self._duration = duration
        self._capture_keys = capture_keys

    def __call__(self, event: CommandEvent) -> None:
        end = time_ns()
        context = get_current()
        if is_suppressed(context):
            return
        server = event.servers[0] if len(event.servers) == 1 else None
        name, common = _named(_operation(event), server)
        attributes = {**common, "mcpool.outcome": event.outcome}
        error = event.error if event.outcome in ("failure", "error") else None
        if error is not None:
            attributes["error.type"] = "timeout" if is_timeout(error) else type(error).__qualname__
        span = self._tracer.start_span(
            name,
            context,
            SpanKind.CLIENT,
            {**attributes, **self._details(event)},
            start_time=end - int(event.seconds * 1e9),
        )
        if error is not None:
            span.set_status(StatusCode.ERROR, self._description(event))
        span.end(end)
        self._duration.record(event.seconds, attributes, context)

    def _details(self, event: CommandEvent) -> Attributes:
        """What a span has and a metric has not, because there are too many values of it."""
        details: dict[str, Any] = {}
        if event.command == "get_multi":
            details = {"mcpool.keys": event.keys, "mcpool.hits": event.hits}
        elif event.command in _BATCHES and event.keys != 1:
            details = {"db.operation.batch.size": event.keys}
        if self._capture_keys and event.keys:
            details["db.query.text"] = _text(event)
        return details

    def _description(self, event: CommandEvent) -> str | None:
        """What pylibmc said of a failure, which may have the key in it."""
        if event.outcome == "error" or event.error is None:
            return None  # what pickle says may have a part of the value in it
        return str(event.error) if self._capture_keys else without_key(event.error)


def _operation(event: CommandEvent) -> str:
    single = _BATCHES.get(event.command)
    if single is None:
        return event.command
    return single if event.keys == 1 else f"BATCH {single}"


@functools.lru_cache(maxsize=1024)
def _named(operation: str, server: Any) -> tuple[str, Attributes]:
    """The name of the span, and the attributes that all spans of this name have."""
    attributes = {"db.system.name": "memcached", "db.operation.name": operation}
    if server is None:
        return operation, attributes
    _, host, port, *_ = translate_server_spec(server) if isinstance(server, str) else server
    attributes["server.address"] = target = host
    if port:  # a Unix socket has none
        attributes["server.port"] = port
        target = f"{host}:{port}"
    return f"{operation} {target}", attributes


def _text(event: CommandEvent) -> str:
    keys = [
        key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else key
        for key in event.key_names
    ]
    single = _BATCHES.get(event.command)
    if single is None:
        return " ".join([event.command, *keys])
    return "; ".join(f"{single} {key}" for key in keys)
