"""RPCs as spans, by OpenTelemetry's conventions for gRPC servers. Imported only where traces are made.

A call is a child of the span that its client names, and is linked to the request that submitted its job.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.trace import Span, SpanKind

from jobstatus.core.caller import TRACEPARENT
from jobstatus.core.traceparent import TRACEPARENT_KEY, TRACESTATE_KEY
from jobstatus.rpc.intake import Context
from jobstatus.rpc.options import DESCRIPTORS
from jobstatus.telemetry.spans import Spans, context_of, failed, link_to_origin, span_context, traceparent_of
from jobstatus.v1 import job_status_pb2 as pb

QUIET: Final = frozenset({"FollowJobs", "BatchGetVirtualKeys", "BatchGetJobs", "GetJob"})
"""The calls of edges, some of them once a second: traced only where they are part of a trace."""
MAX_PARSED_BYTES: Final = 64 * 1024
"""A larger answer is not read for the job's traceparent."""
FAILURES: Final = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""The codes that are errors of a server, by the conventions."""
_OF_ONE_JOB: Final = frozenset(
    {"CreateJob", "StartJob", "HeartbeatJob", "CompleteJob", "FailJob", "CancelJob", "GetJob"}
)
"""The calls whose answers have a job in their field 1."""
_CODES: Final[dict[Any, grpc.StatusCode]] = {
    **{code: code for code in grpc.StatusCode},
    **{code.value[0]: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK},
}
"""What a context says of the status of its call: None or 0 where it has none."""
_SERVICES: Final = frozenset(descriptor.full_name for descriptor in DESCRIPTORS)


class TracedCalls(grpc.aio.ServerInterceptor):
    """Makes the spans of calls."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the handler of a call, with a span around it."""
        handler = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.removeprefix("/").partition("/")
        metadata: dict[str, Any] = dict(handler_call_details.invocation_metadata or ())
        parent = span_context(metadata.get(TRACEPARENT_KEY), metadata.get(TRACESTATE_KEY))
        if handler is None or service not in _SERVICES or (parent is None and method in QUIET):
            return handler
        name = f"{service}/{method}"

        def begin() -> Span:
            return self._spans.tracer.start_span(
                name,
                context=context_of(parent),
                kind=SpanKind.SERVER,
                attributes={"rpc.system.name": "grpc", "rpc.method": name},
            )

        if handler.response_streaming:
            return _streaming(handler, begin)
        return _single(handler, self._spans, begin, method)


def _single(handler: Any, spans: Spans, begin: Callable[[], Span], method: str) -> Any:
    """Return the handler of a call with one response."""
    behavior = handler.stream_unary if handler.request_streaming else handler.unary_unary

    async def handle(request: Any, context: Context) -> bytes:
        with _span(begin, context) as span, spans.current(span):
            answer: bytes = await behavior(request, context)
            if method in _OF_ONE_JOB and len(answer) <= MAX_PARSED_BYTES:
                link_to_origin(span, _traceparent_in(answer))
        return answer

    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(handle)
    return grpc.unary_unary_rpc_method_handler(handle)


def _streaming(handler: Any, begin: Callable[[], Span]) -> Any:
    """Return the handler of a call with several responses. Its span is not the current one: it lasts too long."""
    behavior = handler.stream_stream if handler.request_streaming else handler.unary_stream

    async def handle(request: Any, context: Context) -> AsyncIterator[bytes]:
        with _span(begin, context):
            async with aclosing(behavior(request, context)) as responses:
                async for response in responses:
                    yield response

    if handler.request_streaming:
        return grpc.stream_stream_rpc_method_handler(handle)
    return grpc.unary_stream_rpc_method_handler(handle)


@contextmanager
def _span(begin: Callable[[], Span], context: Context) -> Iterator[Span]:
    """Yield the span of a call, which ends with the block. A job that the call creates keeps it if none came."""
    span = begin()
    TRACEPARENT.set(traceparent_of(span.get_span_context()))
    without_code = grpc.StatusCode.OK
    try:
        yield span
    except (asyncio.CancelledError, GeneratorExit):  # the client has gone
        without_code = grpc.StatusCode.CANCELLED
        raise
    finally:
        status = _CODES.get(context.code(), without_code)
        span.set_attribute("rpc.response.status_code", status.name)
        if status in FAILURES:
            failed(span, status.name)
        span.end()


def _traceparent_in(answer: bytes) -> str | None:
    """Return the traceparent of the job in an answer. All answers with one job have it in the same field."""
    try:
        return pb.GetJobResponse.FromString(answer).job.traceparent or None
    except DecodeError:
        return None
