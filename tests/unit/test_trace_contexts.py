"""Whether traces are made, and what a span is a child of or linked to."""

import sys

import pytest
from jobstatus.client.trace_context import current_traceparent, trace_metadata
from jobstatus.telemetry.spans import MAX_LINKS, origins, span_context
from jobstatus.telemetry.tracing import wanted_exporter
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"}


@pytest.mark.parametrize(
    ("environment", "exporter"),
    [
        ({}, None),
        ({"OTEL_SERVICE_NAME": "jobstatus", "OTEL_TRACES_SAMPLER": "always_on"}, None),
        (ENDPOINT, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4317"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": " Console "}, "console"),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin"),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, None),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": ""}, "otlp"),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "no"}, "otlp"),
    ],
)
def test_traces_are_off_unless_the_variables_ask_for_them(environment: dict[str, str], exporter: str | None) -> None:
    assert wanted_exporter(environment) == exporter


@pytest.mark.parametrize("traceparent", [None, "", "x", VALID[:-1], f"{VALID}-more", "x" * 100_000])
def test_what_is_no_traceparent_is_no_parent(traceparent: str | None) -> None:
    assert span_context(traceparent) is None


def test_a_traceparent_is_a_parent_elsewhere() -> None:
    """With its tracestate, unless that is longer than any has to be passed on."""
    found = span_context(VALID, "vendor=1")
    assert found is not None
    assert (f"{found.trace_id:032x}", f"{found.span_id:016x}") == (TRACE, SPAN)
    assert (found.is_remote, found.trace_flags.sampled, found.trace_state.to_header()) == (True, True, "vendor=1")
    long = span_context(VALID, f"vendor={'x' * 600}")
    assert long is not None
    assert not long.trace_state


def test_a_batch_is_linked_to_each_submission_that_is_recorded_once() -> None:
    """And to no more than a span may have links."""
    ids = [f"00-{TRACE}-{number:016x}-01" for number in range(1, 300)]
    assert len(origins([VALID, VALID, None, f"00-{'a' * 32}-{SPAN}-00", "hostile"])) == 1
    assert len(origins(ids)) == MAX_LINKS


def test_a_client_names_the_current_span_of_its_program() -> None:
    """In each call; and nothing outside of a span, or where the program does not use OpenTelemetry."""
    assert trace_metadata() == ()
    span = NonRecordingSpan(
        SpanContext(int(TRACE, 16), int(SPAN, 16), False, TraceFlags(1), TraceState([("vendor", "1")]))
    )
    with trace.use_span(span):
        assert trace_metadata() == (("traceparent", VALID), ("tracestate", "vendor=1"))
        assert current_traceparent() == VALID
    assert current_traceparent() is None


def test_a_client_does_not_import_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that uses it has imported it."""
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")
    assert trace_metadata() == ()
    assert "opentelemetry.trace" not in sys.modules
