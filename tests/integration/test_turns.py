"""More requests of one kind than a turn of the event loop answers: all are answered, in order, and others meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Final

import pytest
from harness.jobs import create
from harness.raw import connection, next_answer
from harness.service import Service, edge_here, service_here
from harness.tokens import bearer, virtual_key_token
from jobstatus.rest.limits import RestLimits
from jobstatus.rest.turns import TurnLimits

OWNER: Final = bearer(virtual_key_token("vk-1"))
FORGED: Final = OWNER[:-4] + "AAAA"
ONE_EACH: Final = RestLimits(turns=TurnLimits(seconds=0.0))
CROWD: Final = 30


@pytest.fixture(params=["service", "edge"])
async def front(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """A service, or an edge before one, which begins one request in a turn; it has a job."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(service_here(rest=ONE_EACH))
        await create(service, "job", virtual_key_id="vk-1")
        if request.param == "edge":
            service = await stack.enter_async_context(edge_here(service, rest=ONE_EACH))
        yield service


def get(job_id: str, *headers: str) -> bytes:
    lines = [f"GET /v1/async/audio/transcriptions/{job_id} HTTP/1.1", "Host: test", *headers]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("job"), 401),
        (get("job", FORGED), 401),
        (get("job", "Prefer: wait=30"), 401),
        (get("job", OWNER), 202),
        (get("unknown", OWNER), 404),
        (get("unknown", OWNER, "Prefer: wait=30"), 404),
    ],
    ids=["no credential", "forged", "no credential, a wait", "owner", "unknown job", "unknown job, a wait"],
)
async def test_a_crowd_is_answered(front: Service, request_: bytes, status: int) -> None:
    """Each connection has each of its answers, once."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connection(front.http_port)) for _ in range(CROWD)]
        for _ in range(3):
            for _, writer in clients:
                writer.write(request_)
            answers = await asyncio.gather(*(next_answer(reader) for reader, _ in clients))
            assert [answer.status for answer in answers] == [status] * CROWD


async def test_a_client_among_strangers_is_answered(front: Service) -> None:
    """Requests of both kinds that come on one connection, as of a proxy, keep their order."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connection(front.http_port)) for _ in range(CROWD)]
        for _, writer in clients:
            writer.write(get("job") + get("job", OWNER) + get("job"))
        for reader, _ in clients:
            assert [(await next_answer(reader)).status for _ in range(3)] == [401, 202, 401]


async def test_strangers_that_go_away_while_they_wait_hold_up_nobody(front: Service) -> None:
    """The others are answered."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connection(front.http_port)) for _ in range(CROWD)]
        for _, writer in clients:
            writer.write(get("job"))
        for _, writer in clients[::2]:
            writer.transport.abort()
        for reader, _ in clients[1::2]:
            assert (await next_answer(reader)).status == 401
