"""The two edges that a client may meet, a service's own and one of its own in front of it, and who waits there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

from jobstatus.v1 import job_status_pb2 as pb

from harness.http import Answer, parse, request
from harness.jobs import complete, create
from harness.raw import talk
from harness.service import Service, edge_here, service_here
from harness.stores import DelegatingStore
from harness.tokens import admin_token, bearer
from harness.waiting import until

FRONTS: Final = ("the service's own edge", "an edge of its own")
_KEPT: Final = ", on connections that are kept"
WAYS: Final = (*FRONTS, *(front + _KEPT for front in FRONTS))
"""Polls that wait are answered in two ways: by a handler, or without one on a connection that stays open."""
_PROBE: Final = "probe-of-the-front"


@asynccontextmanager
async def front_here(front: str, store: str | DelegatingStore = "memory://", **settings: Any) -> AsyncIterator[Service]:
    """A service in this process, met through this one of WAYS, which has the settings."""
    if front.endswith(_KEPT):
        async with front_here(front.removesuffix(_KEPT), store, **settings) as service:
            yield replace(service, keeps_connections=True)
    elif front == FRONTS[0]:
        async with service_here(store, **settings) as service:
            yield service
    else:
        async with service_here(store) as service, listening_edge(service, **settings) as edge:
            yield edge


@asynccontextmanager
async def listening_edge(service: Service, **settings: Any) -> AsyncIterator[Service]:
    """An edge of its own in front of the service, which hears of changes already."""
    async with edge_here(service, **settings) as edge:
        if settings.get("max_waiting_polls") != 0:
            await until_it_listens(edge)
        yield edge


async def until_it_listens(edge: Service) -> None:
    """Return when polls can wait there."""
    await create(edge, _PROBE)
    await complete(edge, _PROBE)

    async def can_wait() -> bool:
        answer = await edge.poll(_PROBE, bearer(admin_token()), "Prefer: wait=1")
        return "preference-applied" in answer.headers

    await until(can_wait)
    await edge.jobs.DeleteJob(pb.DeleteJobRequest(job_id=_PROBE))


async def poll_patiently(front: Service, job_id: str, *headers: str) -> Answer:
    """One poll that may wait for as long as any may, whatever this machine does meanwhile."""
    lines = [f"GET /v1/async/audio/transcriptions/{job_id} HTTP/1.1", "Host: test", "Connection: close", *headers]
    return parse(await talk(front.http_port, "\r\n".join([*lines, "", ""]).encode(), seconds=90))


async def held_bytes(front: Service) -> int:
    """How much memory the large answers that are being sent hold there."""
    metrics = (await request(front.admin_port, "/metrics")).body.decode()
    (line,) = [line for line in metrics.splitlines() if line.startswith("jobstatus_large_answer_bytes ")]
    return int(float(line.split(" ")[1]))


async def waiting(front: Service, count: int) -> None:
    """Return when so many polls and event streams wait."""

    async def is_so() -> bool:
        metrics = (await request(front.admin_port, "/metrics")).body.decode()
        return f"\njobstatus_waiting_polls {count}.0\n" in metrics

    await until(is_so)
