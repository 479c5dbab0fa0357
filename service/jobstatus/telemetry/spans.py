"""Makes spans with OpenTelemetry's SDK and sends them. Imported only where traces are made.

The SDK reads its variables itself: the endpoint and its headers, the sampler, the limits, the resource. Spans are sent
by a thread of the SDK's. A receiver that does not answer costs a line in the log from time to time, and spans.
"""

import asyncio
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

import jobstatus
from jobstatus.core.traceparent import valid_traceparent
from jobstatus.telemetry.throttle import LogThrottle

CLOSE_SECONDS: Final = 2.0
"""How long the end of a process waits for spans to be sent."""
LOG_EVERY_SECONDS: Final = 300.0
ABOUT_HEADERS: Final = "opentelemetry.trace.span"
"""The logger that quotes a `tracestate` which it cannot read. Anyone may send one."""
MAX_TRACESTATE_CHARS: Final = 512
MAX_LINKS: Final = 128
"""The SDK's own limit, by default."""
ROOT: Final = Context()
Attributes = Mapping[str, AttributeValue]

_log = logging.getLogger(__name__)


class Spans:
    """Makes the spans of one process."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._thinning = _Thinning()
        self._thinning.install()
        self.tracer: Final[Tracer] = provider.get_tracer("jobstatus", jobstatus.__version__)

    @contextmanager
    def current(self, span: Span) -> Iterator[Span]:
        """Make the span the current one in this block, at whose end it goes on."""
        token = attach(trace.set_span_in_context(span))
        try:
            yield span
        finally:
            detach(token)

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Send what is left, and return at the latest after `seconds`.

        A thread of its own does it, because the SDK waits half a minute for a receiver that does not answer.
        """
        loop, closed = asyncio.get_running_loop(), asyncio.Event()

        def close() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop is closed: it came too late
                loop.call_soon_threadsafe(closed.set)

        threading.Thread(target=close, name="otel-shutdown", daemon=True).start()
        with suppress(TimeoutError):
            await asyncio.wait_for(closed.wait(), seconds)
        if closed.is_set():
            self._thinning.remove()


def open_spans(exporter: str, environment: Mapping[str, str]) -> Spans:
    """Return what makes spans for this exporter. Raises ModuleNotFoundError, or what the SDK makes of its variables."""
    sender = ConsoleSpanExporter() if exporter == "console" else _otlp_exporter(environment)
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(sender))
    return Spans(provider)


def _otlp_exporter(environment: Mapping[str, str]) -> SpanExporter:
    """Return the exporter for the protocol. That for HTTP works where it is installed, as the extra does not do."""
    chosen = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if chosen in (None, "", "grpc"):
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        return OTLPSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
        OTLPSpanExporter as OverHttp,
    )

    over_http: SpanExporter = OverHttp()
    return over_http


def _resource() -> Resource:
    """Return what the variables say of this process, named `jobstatus` where they do not name it."""
    found = Resource.create({"service.version": jobstatus.__version__})
    if str(found.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        found = found.merge(Resource({SERVICE_NAME: "jobstatus"}))
    return found


# --- contexts ---


def span_context(traceparent: str | None, tracestate: str | None = None) -> SpanContext | None:
    """Return the span that a traceparent names; None where it is none. Anyone may have sent it."""
    valid = None if traceparent is None else valid_traceparent(traceparent)
    if valid is None:
        return None
    _, trace_id, span_id, flags = valid.split("-")
    state = TraceState.from_header([tracestate]) if tracestate and len(tracestate) <= MAX_TRACESTATE_CHARS else None
    return SpanContext(
        trace_id=int(trace_id, 16),
        span_id=int(span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(int(flags, 16)),
        trace_state=state,
    )


def context_of(parent: SpanContext | None) -> Context:
    """Return the context of a child of this span; of a root where there is none."""
    return ROOT if parent is None else trace.set_span_in_context(NonRecordingSpan(parent), ROOT)


def traceparent_of(span: SpanContext) -> str:
    """Return the traceparent that names a span."""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def origins(traceparents: Iterable[str | None]) -> list[SpanContext]:
    """Return the spans that submitted jobs, each once: those that are recorded, and no more than a span may link to."""
    found: dict[str, SpanContext] = {}
    for traceparent in traceparents:
        if traceparent is not None and traceparent not in found and len(found) < MAX_LINKS:
            origin = span_context(traceparent)
            if origin is not None and origin.trace_flags.sampled:
                found[traceparent] = origin
    return list(found.values())


def link_to_origin(span: Span, traceparent: str | None) -> None:
    """Link a span to the request that submitted its job."""
    for origin in origins((traceparent,)):
        if origin.span_id != span.get_span_context().span_id:
            span.add_link(origin)


def failed(span: Span, error_type: str) -> None:
    """Mark a span as failed. No text of the error is kept, because it may repeat what was sent."""
    span.set_attribute("error.type", error_type)
    span.set_status(Status(StatusCode.ERROR))


def links_to(found: Iterable[SpanContext]) -> list[Link]:
    return [Link(origin) for origin in found]


# --- the log ---


class _Thinning(logging.Handler):
    """Says in one line of ours, from time to time, that traces are not sent. OpenTelemetry's own lines may hold the
    headers of its variables, and come for each batch."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._throttle = LogThrottle(every_seconds=LOG_EVERY_SECONDS)
        self._logger = logging.getLogger("opentelemetry")

    def install(self) -> None:
        """Have OpenTelemetry's loggers say no more than that."""
        self._logger.addHandler(self)
        self._logger.propagate = False

    def remove(self) -> None:
        """Undo `install`."""
        self._logger.removeHandler(self)
        self._logger.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        if record.name != ABOUT_HEADERS and (lines := self._throttle.should_log()):
            _log.warning(
                "Traces are not sent as they should be.",
                extra={"event": "traces_not_sent", "source": record.name, "lines": lines},
            )
