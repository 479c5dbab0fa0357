"""The admin port: health and metrics, for the operator's machines. It must not be public."""

import gzip
from collections.abc import Awaitable, Callable
from typing import Final, cast

from aiohttp import web

from jobstatus.core.readiness import Health, Status
from jobstatus.rest import headers, responses
from jobstatus.rest.protocol import Handler
from jobstatus.telemetry.collectors import Format

_CONSOLE: Final = "/console"
_GZIP_LEVEL: Final = 1
"""The event loop compresses, and higher levels take longer than what they spare is worth on a local network."""


def admin_handler(
    check: Callable[[], Awaitable[Health]],
    exposition: Callable[[Format], Awaitable[bytes]],
    has_started: Callable[[], bool] = lambda: True,
    console: Handler | None = None,
) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """Return the handler of the admin port.

    `check` returns the health, `exposition` the metrics in a format, and `has_started` whether polls
    have been served since the start. `console` handles all requests below /console, where there is one.
    """

    async def livez(_: web.BaseRequest) -> web.Response:
        return _status(200, "ok")

    async def startupz(_: web.BaseRequest) -> web.Response:
        return _status(200, "started") if has_started() else _status(503, "starting")

    async def readyz(_: web.BaseRequest) -> web.Response:
        status, reason = await check()
        if status is Status.NOT_READY:
            return _status(503, reason)
        return _status(200, status.value, reason)

    async def metrics(request: web.BaseRequest) -> web.Response:
        prefers = headers.prefers_openmetrics(request.headers.getall("Accept", ()))
        form = Format.OPENMETRICS if prefers else Format.TEXT
        body, fields = await exposition(form), {"Content-Type": form.value, "Vary": "Accept, Accept-Encoding"}
        if headers.accepts_gzip(request.headers.getall("Accept-Encoding", ())):
            body, fields["Content-Encoding"] = gzip.compress(body, _GZIP_LEVEL, mtime=0), "gzip"
        return web.Response(body=body, headers=fields)

    handlers = {
        "/healthz": livez,
        "/livez": livez,
        "/startupz": startupz,
        "/readyz": readyz,
        "/metrics": metrics,
    }

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if console is not None and (request.path == _CONSOLE or request.path.startswith(f"{_CONSOLE}/")):
            return await console(request)
        handler = handlers.get(request.path)
        if handler is None or request.method not in responses.ALLOWED_METHODS:
            refusal = responses.METHOD_NOT_ALLOWED if handler else responses.PATH_NOT_FOUND
            response = responses.problem_answer(refusal, headers.request_id_of(request.headers.get("X-Request-Id")))
            return cast("web.StreamResponse", response)
        return await handler(request)

    return answer


def _status(code: int, status: str, reason: str = "") -> web.Response:
    return web.json_response({"status": status} | ({"reason": reason} if reason else {}), status=code)
