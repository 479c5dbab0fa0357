"""Polls as spans, by OpenTelemetry's conventions for HTTP servers. Imported only where traces are made.

A poll is a child of the span that its client names. One that is answered with 200 is linked to the request that
submitted the job: its answer does not wait for that, the span ends a little later.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from aiohttp import web
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDictProxy
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind
from yarl import URL

from jobstatus.core.errors import JobStatusError
from jobstatus.core.job import is_valid_id
from jobstatus.core.traceparent import TRACEPARENT_KEY, TRACESTATE_KEY
from jobstatus.rest.fast_path import Prepare, TryAnswer
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
            asked = _asked(request.method, request.raw_path, request.rel_url, request.headers)
            span, status = self._begin(asked), 0
            try:
                with self._spans.current(span):
                    response = await handler(request)
                status = response.status
            finally:
                self._end(span, asked.job_id, status)
            return response

        return answer

    def prepare(self, prepare: Prepare) -> Prepare:
        """Return `prepare` with a span for each answer."""

        def traced(message: RawRequestMessage) -> TryAnswer | None:
            try_answer = prepare(message)
            if try_answer is None:
                return None
            asked = _asked(message.method, message.path, message.url, message.headers)
            return partial(self._try_answer, asked, try_answer)

        return traced

    def _try_answer(
        self, asked: "_Asked", try_answer: TryAnswer, message: RawRequestMessage | None, given_id: str | None
    ) -> bytes | None:
        """Return the answer. Where the handler is to answer the span is dropped, because it makes one of its own."""
        span = self._begin(asked)
        with self._spans.current(span):
            whole = try_answer(message, given_id)
        if whole is not None:
            self._end(span, asked.job_id, int(whole[_STATUS]))
        return whole

    async def close(self) -> None:
        """Return when the spans of all answers have ended."""
        await asyncio.gather(*self._linking, return_exceptions=True)

    def _begin(self, asked: "_Asked") -> Span:
        return self._spans.tracer.start_span(
            asked.name, context=asked.context, kind=SpanKind.SERVER, attributes=asked.attributes
        )

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


class _Asked(NamedTuple):
    """What a request says of its span. `job_id` is None where it is about no job."""

    name: str
    attributes: dict[str, str]
    context: Context
    job_id: str | None


def _asked(method: str, path: str, url: URL, headers: "CIMultiDictProxy[str]") -> _Asked:
    """Read a request. A path is told only where it is a job's."""
    method = method if method in (*ALLOWED_METHODS, "OPTIONS") else "_OTHER"
    attributes = {"http.request.method": method, "url.scheme": "http"}
    context = context_of(span_context(headers.get(TRACEPARENT_KEY), headers.get(TRACESTATE_KEY)))
    if (asked_for := target(path, url)) is None:
        return _Asked(method, attributes, context, None)
    route = PATHS[asked_for[0]]
    attributes["http.route"] = f"{route}{{job_id}}"
    job_id = asked_for[1] if is_valid_id(asked_for[1]) else None
    if job_id is not None:
        attributes |= {"url.path": f"{route}{job_id}", "jobstatus.job_id": job_id}
    return _Asked(f"{method} {route}{{job_id}}", attributes, context, job_id)
