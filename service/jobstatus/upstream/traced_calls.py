"""An edge's calls as spans, by OpenTelemetry's conventions for gRPC clients. Imported only where traces are made."""

from collections.abc import Callable
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from jobstatus.core.traceparent import TRACEPARENT_KEY
from jobstatus.telemetry.spans import Spans, failed, traceparent_of


class TracedUpstream(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg,unused-ignore]
    """Makes a span for each call that is made for a poll, and names it to the service."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Any],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        """Return the response of a call. One that no poll waits for, as that which keeps the time, has no span."""
        if not trace.get_current_span().is_recording():
            return await continuation(client_call_details, request)
        method: Any = client_call_details.method
        name = (method.decode() if isinstance(method, bytes) else method).removeprefix("/")
        attributes = {"rpc.system.name": "grpc", "rpc.method": name}
        with self._spans.tracer.start_as_current_span(
            name, kind=SpanKind.CLIENT, attributes=attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            metadata = [pair for pair in client_call_details.metadata or () if pair[0] != TRACEPARENT_KEY]
            metadata.append((TRACEPARENT_KEY, traceparent_of(span.get_span_context())))
            details = grpc.aio.ClientCallDetails(
                method,
                client_call_details.timeout,
                grpc.aio.Metadata(*metadata),
                client_call_details.credentials,
                client_call_details.wait_for_ready,
            )
            call = await continuation(details, request)
            code = await call.code()
            span.set_attribute("rpc.response.status_code", code.name)
            if code is not grpc.StatusCode.OK:
                failed(span, code.name)
            return call
