"""
Suppression
===========

Whether spans and measurements are unwanted now. The exporters of OpenTelemetry suppress them while
they send, and programs do so with ``opentelemetry.instrumentation.utils``.
"""

from __future__ import annotations

# The instrumentations of OpenTelemetry use it, too. It has no public name.
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context

_PLAIN_KEY = "suppress_instrumentation"  # of older versions


def is_suppressed(context: Context) -> bool:
    return bool(context.get(_SUPPRESS_INSTRUMENTATION_KEY) or context.get(_PLAIN_KEY))
