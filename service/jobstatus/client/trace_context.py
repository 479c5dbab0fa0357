"""The trace that a call belongs to: that of the program's current span, where it uses OpenTelemetry.

A program that uses it has imported it. So it is not imported here, and the others pay for a look-up in a dictionary.
"""

import sys

from jobstatus.core.traceparent import TRACEPARENT_KEY, TRACESTATE_KEY


def current_traceparent() -> str | None:
    """Return the W3C traceparent of the current span; None without one."""
    found = dict(trace_metadata())
    return found.get(TRACEPARENT_KEY)


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Return the metadata that names the current span; empty without one."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return ()
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return ()
    traceparent = f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
    state = span.trace_state.to_header()
    return ((TRACEPARENT_KEY, traceparent), *(((TRACESTATE_KEY, state),) if state else ()))
