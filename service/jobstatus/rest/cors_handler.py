"""The handler of the public port for pages of other origins: it answers preflights and adds the CORS header lines.

It wraps the poll handler only where the operator allows other origins, so that all other services pay nothing for it.
"""

import time
from functools import partial
from typing import Final, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage

from jobstatus.rest import responses
from jobstatus.rest.cors import Cors
from jobstatus.rest.fast_path import Prepare, TryAnswer
from jobstatus.rest.headers import request_id_of
from jobstatus.rest.protocol import Handler
from jobstatus.rest.responses import PrebuiltResponse
from jobstatus.telemetry.metrics import Metrics

PREFLIGHT: Final = "preflight"
"""The route under which preflights are counted."""


def cors_handler(handler: Handler, cors: Cors, metrics: Metrics) -> Handler:
    """Return `handler` with preflights answered, and CORS lines in all answers but event streams, which have theirs."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        started = time.perf_counter()
        if request.method == "OPTIONS" and (preflight := _preflight(request, cors)):
            metrics.request_answered(PREFLIGHT, preflight.status, time.perf_counter() - started)
            return preflight
        response = cast("PrebuiltResponse | web.StreamResponse", await handler(request))
        lines = cors.lines(request.headers.get("Origin"))
        if isinstance(response, PrebuiltResponse):
            response.add(lines)
        elif not response.prepared:
            response.headers.extend(responses.headers_of(lines))
        return cast("web.StreamResponse", response)

    return answer


def cors_prepare(prepare: Prepare, cors: Cors) -> Prepare:
    """Return `prepare` with CORS lines in the answers, after the status line."""
    of_no_page = f"\r\n{cors.lines(None)}".encode("ascii")

    def prepare_with_lines(message: RawRequestMessage) -> TryAnswer | None:
        try_answer = prepare(message)
        if try_answer is None:
            return None
        origin = message.headers.get("Origin")
        lines = of_no_page if origin is None else f"\r\n{cors.lines(origin)}".encode("ascii")
        return partial(_with_lines, lines, try_answer)

    return prepare_with_lines


def _with_lines(
    lines: bytes, try_answer: TryAnswer, message: RawRequestMessage | None, given_id: str | None
) -> bytes | None:
    whole = try_answer(message, given_id)
    return None if whole is None else whole.replace(b"\r\n", lines, 1)


def _preflight(request: web.BaseRequest, cors: Cors) -> web.Response | None:
    headers = request.headers
    if "Access-Control-Request-Method" not in headers:
        return None
    lines = cors.preflight_lines(headers.get("Origin"), headers.get("Access-Control-Request-Headers"))
    return responses.preflight(request_id_of(headers.get("X-Request-Id")), lines) if lines else None
