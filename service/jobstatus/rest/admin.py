"""The admin port: /healthz, /readyz and /metrics, for the operator's machines. It must not be public."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web

from jobstatus.core.errors import JobStatusError
from jobstatus.rest import headers, responses

PROBE_EVERY_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Readiness:
    """Whether the service should receive requests: what it depends on answers, and it is not stopping."""

    def __init__(self, probe: Callable[[], Awaitable[None]], monotonic: Callable[[], float] = time.monotonic) -> None:
        """`probe` returns if all is well, and raises a JobStatusError if not. `monotonic` returns seconds."""
        self._probe_dependencies = probe
        self._monotonic = monotonic
        self._answer: tuple[float, str] | None = None
        self._probing = asyncio.Lock()
        self._stopping = False

    def stop(self) -> None:
        """Be not ready from now on."""
        self._stopping = True

    async def problem(self) -> str:
        """Return why the service is not ready; an empty string when it is. Probes once a second at most."""
        if self._stopping:
            return "stopping"
        async with self._probing:
            if self._answer is None or self._monotonic() - self._answer[0] >= PROBE_EVERY_SECONDS:
                problem = await self._probe()
                self._answer = (self._monotonic(), problem)
            return self._answer[1]

    async def _probe(self) -> str:
        try:
            await self._probe_dependencies()
        except JobStatusError as error:
            cause = type(error.__cause__).__name__
            _log.warning(
                "The service is not ready.", extra={"event": "not_ready", "reason": error.reason, "cause": cause}
            )
            return error.reason.lower()
        return ""


def admin_handler(
    problem: Callable[[], Awaitable[str]], exposition: Callable[[], Awaitable[bytes]]
) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """Return the handler of the admin port.

    `problem` returns why the service is not ready, or an empty string; `exposition` the metrics in Prometheus' text
    format.
    """

    async def healthz() -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz() -> web.Response:
        found = await problem()
        return web.json_response({"status": found or "ready"}, status=503 if found else 200)

    async def metrics() -> web.Response:
        return web.Response(
            body=await exposition(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    handlers = {"/healthz": healthz, "/readyz": readyz, "/metrics": metrics}

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        handler = handlers.get(request.path)
        if handler is None or request.method not in responses.ALLOWED_METHODS:
            refusal = responses.METHOD_NOT_ALLOWED if handler else responses.PATH_NOT_FOUND
            response = responses.problem_answer(refusal, headers.request_id_of(request.headers.get("X-Request-Id")))
            return cast("web.StreamResponse", response)
        return await handler()

    return answer
