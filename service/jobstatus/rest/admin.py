"""The admin port: /healthz, /readyz and /metrics, for the machines that run the service. Never public."""

import asyncio
import logging
import time
from collections.abc import Callable

from aiohttp import web

from jobstatus.core.errors import JobStatusError
from jobstatus.core.store import JobStore
from jobstatus.metrics import Metrics

PROBE_EVERY_SECONDS = 1.0

_log = logging.getLogger(__name__)


class Readiness:
    """Whether the service should be sent work: the store can really write, and nobody has asked us to stop."""

    def __init__(self, store: JobStore, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._answer: tuple[float, str] | None = None
        self._probing = asyncio.Lock()
        self._stopping = False

    def stop(self) -> None:
        """Not ready from now on."""
        self._stopping = True

    async def problem(self) -> str:
        """Why the service is not ready; empty when it is. The store is asked once a second at most."""
        if self._stopping:
            return "stopping"
        async with self._probing:
            if self._answer is None or self._monotonic() - self._answer[0] >= PROBE_EVERY_SECONDS:
                problem = await self._probe()
                self._answer = (self._monotonic(), problem)
            return self._answer[1]

    async def _probe(self) -> str:
        try:
            await self._store.probe()
        except JobStatusError as error:
            _log.warning(
                "the store cannot write", extra={"reason": error.reason, "cause": type(error.__cause__).__name__}
            )
            return error.reason.lower()
        return ""


def admin_application(readiness: Readiness, metrics: Metrics) -> web.Application:
    """Everything that the admin port serves."""

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_: web.Request) -> web.Response:
        problem = await readiness.problem()
        return web.json_response({"status": problem or "ready"}, status=503 if problem else 200)

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(
            body=metrics.exposition(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", exposition)])
    return app
