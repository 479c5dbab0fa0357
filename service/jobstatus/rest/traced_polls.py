"""Polls as spans, by OpenTelemetry's conventions for HTTP servers. Imported only where traces are made.

A poll is a child of the span that its client names. One that is answered with 200 is linked to the request that
submitted the job: its answer does not wait for that, the span ends a little later.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from aiohttp import web
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDictProxy
from opentelemetry.trace import Span, SpanKind

from jobstatus.core.errors import JobStatusError
from jobstatus.core.job import is_valid_id
from jobstatus.core.traceparent import TRACEPARENT_KEY, TRACESTATE_KEY
from jobstatus.rest.fast_path import TryAnswer
from jobstatus.rest.protocol import Handler
from jobstatus.rest.responses import ALLOWED_METHODS
from jobstatus.rest.routes import PATHS, target
from jobstatus.telemetry.spans import Spans, context_of, failed, link_to_origin, span_context

ReadTraceparent: TypeAlias = Callable[[str], Awaitable[str | None]]
"""Returns the traceparent of the job with this id. Raises what the store raises."""

MAX_LINKING: Final = 1000
"""Of polls whose spans wait for a traceparent; beyond that they end without a link."""
_STATUS: Final = slice(9, 12)
"""Where the status code stands in the bytes of an answer."""


class TracedPolls:
    """Makes the spans of polls."""

    def __init__(self, spans: Spans, read_traceparent: ReadTraceparent) -> None:
        self._spans = spans
        self._read_traceparent = read_traceparent
        self._linking: set[asyncio.Task[None]] = set()

    def handler(self, handler: Handler) -> Handler:
        """Return `handler` with a span for each request, which lasts until its answer is sent or is ready to be."""

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            span, job_id = self._begin(request.method, request.raw_path, request.rel_url, request.headers)
            status = 0
            try:
                with self._spans.current(span):
                    response = await handler(request)
                status = response.status
            finally:
                self._end(span, job_id, status)
            return response

        return answer

    def try_answer(self, try_answer: TryAnswer) -> TryAnswer:
        """Return `try_answer` with a span for what it answers."""

        def answer(message: RawRequestMessage) -> bytes | None:
            span, job_id = self._begin(message.method, message.path, message.url, message.headers)
            with self._spans.current(span):
                whole = try_answer(message)
            if whole is not None:  # else the span is dropped: the handler makes one of its own
                self._end(span, job_id, int(whole[_STATUS]))
            return whole

        return answer

    async def close(self) -> None:
        """Return when the spans of all answers have ended."""
        await asyncio.gather(*self._linking, return_exceptions=True)

    def _begin(self, method: str, path: str, url: Any, headers: "CIMultiDictProxy[str]") -> tuple[Span, str | None]:
        """Return the span of a request, and the id of the job that it is about, if any."""
        method = method if method in (*ALLOWED_METHODS, "OPTIONS") else "_OTHER"
        attributes = {"http.request.method": method, "url.scheme": "http"}
        asked_for, job_id, name = target(path, url), None, method
        if asked_for is not None:
            route = f"{PATHS[asked_for[0]]}{{job_id}}"
            name, attributes["http.route"] = f"{method} {route}", route
            if is_valid_id(asked_for[1]):
                job_id = asked_for[1]
                attributes |= {"url.path": f"{PATHS[asked_for[0]]}{job_id}", "jobstatus.job_id": job_id}
        parent = span_context(headers.get(TRACEPARENT_KEY), headers.get(TRACESTATE_KEY))
        span = self._spans.tracer.start_span(
            name, context=context_of(parent), kind=SpanKind.SERVER, attributes=attributes
        )
        return span, job_id

    def _end(self, span: Span, job_id: str | None, status: int) -> None:
        """End the span of an answer; `status` 0: there was none, because the client has gone or the service stops."""
        if not span.is_recording():
            return
        if status:
            span.set_attribute("http.response.status_code", status)
        if status >= 500:
            failed(span, str(status))
        elif status == 0:
            span.set_attribute("error.type", "cancelled")
        if status == 200 and job_id is not None and len(self._linking) < MAX_LINKING:
            linking = asyncio.create_task(self._link(span, job_id, time.time_ns()), name="jobstatus-link-trace")
            self._linking.add(linking)
            linking.add_done_callback(self._linking.discard)
        else:
            span.end()

    async def _link(self, span: Span, job_id: str, ended_ns: int) -> None:
        try:
            link_to_origin(span, await self._read_traceparent(job_id))
        except JobStatusError as error:
            span.set_attribute("jobstatus.link_error", type(error).__name__)
        finally:
            span.end(ended_ns)
