"""A receiver of traces over OTLP/gRPC on loopback, and what it has received, as values and as a tree to look at."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

SERVICE: Final = "opentelemetry.proto.collector.trace.v1.TraceService"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One span. Ids are in hexadecimal; `parent` is empty for a root; `links` are ids of spans."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    links: tuple[str, ...]
    attributes: dict[str, Any]
    is_error: bool
    started_ns: int
    ended_ns: int


@dataclass(slots=True)
class Receiver:
    """The spans that were received."""

    port: int = 0
    spans: list[Received] = field(default_factory=list)

    def named(self, name: str) -> list[Received]:
        """The spans of this name."""
        return [span for span in self.spans if span.name == name]

    def about(self, trace_id: str) -> list[Received]:
        """The spans of a trace, and those of others that are linked to one of it, in order of time."""
        inside = {span.span_id for span in self.spans if span.trace_id == trace_id}
        found = [span for span in self.spans if span.trace_id == trace_id or inside & set(span.links)]
        return sorted(found, key=lambda span: span.started_ns)

    def tree(self, trace_id: str) -> Iterator[str]:
        """The lines of a trace for a person: children below their parents, with times from its begin."""
        spans = self.about(trace_id)
        known = {span.span_id for span in spans}
        began_ns = min(span.started_ns for span in spans)

        def lines(parent: str, depth: int) -> Iterator[str]:
            for span in spans:
                if (span.parent if span.parent in known else "") == parent:
                    yield _line(span, depth, began_ns, trace_id)
                    yield from lines(span.span_id, depth + 1)

        yield from lines("", 0)


def _line(span: Received, depth: int, began_ns: int, trace_id: str) -> str:
    name = f"{'  ' * depth}{span.name}"
    times = f"{(span.started_ns - began_ns) / 1e6:8.1f} ms {(span.ended_ns - span.started_ns) / 1e6:7.2f} ms"
    state = span.attributes.get("rpc.response.status_code") or span.attributes.get("http.response.status_code") or ""
    notes = [str(state)] if state else []
    notes += ["failed"] if span.is_error else []
    notes += ["linked to the submission"] if span.links else []
    notes += [] if span.trace_id == trace_id else ["trace of its own"]
    return f"{times}  {span.service:<10} {span.kind:<8} {name:<70} {', '.join(notes)}".rstrip()


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return None if kind is None else getattr(value, kind)


def received(request: ExportTraceServiceRequest) -> Iterator[Received]:
    """The spans of one request."""
    for resource in request.resource_spans:
        facts = {item.key: _value(item.value) for item in resource.resource.attributes}
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Received(
                    service=str(facts["service.name"]),
                    name=span.name,
                    kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    links=tuple(link.span_id.hex() for link in span.links),
                    attributes={item.key: _value(item.value) for item in span.attributes},
                    is_error=span.status.code == Status.STATUS_CODE_ERROR,
                    started_ns=span.start_time_unix_nano,
                    ended_ns=span.end_time_unix_nano,
                )


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that runs while the context lasts."""
    found = Receiver()

    async def export(request: ExportTraceServiceRequest, _: Any) -> ExportTraceServiceResponse:
        found.spans += received(request)
        return ExportTraceServiceResponse()

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {"Export": method})])
    found.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield found
    finally:
        await server.stop(0)
