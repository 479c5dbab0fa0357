"""More requests of one kind than a turn of the event loop answers: all are answered, in order, and others meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

import pytest
from harness.jobs import create, put_virtual_key
from harness.raw import connection, next_answer
from harness.service import Service, edge_here, service_here
from harness.tokens import bearer, virtual_key_token
from harness.waiting import until
from jobstatus.rest.limits import RestLimits
from jobstatus.rest.turn_quota import TurnQuota

OWNER: Final = bearer(virtual_key_token("vk-1"))
FORGED: Final = OWNER[:-4] + "AAAA"
ONE_EACH: Final = RestLimits(each_turn=1)
CROWD: Final = 30


@pytest.fixture(params=["service", "edge"])
async def front(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """A service, or an edge before one, which answers one request of each credential in a turn; it has a job."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(service_here(rest=ONE_EACH))
        await create(service, "job", virtual_key_id="vk-1")
        if request.param == "edge":
            service = await stack.enter_async_context(edge_here(service, rest=ONE_EACH))
        yield service


@dataclass(frozen=True, kw_only=True)
class HeldTurns(RestLimits):
    """One request of each credential in a turn, and turns that end when the test says, once `held` is set."""

    each_turn: int = 1
    quotas: list[TurnQuota] = field(default_factory=list)
    held: asyncio.Event = field(default_factory=asyncio.Event)
    due: list[Callable[[], None]] = field(default_factory=list)

    def turn_quota(self, loop: asyncio.AbstractEventLoop) -> TurnQuota:
        def call_soon(end: Callable[[], None]) -> None:
            if self.held.is_set():
                self.due.append(end)
            else:
                loop.call_soon(end)

        self.quotas.append(TurnQuota(limit=self.each_turn, call_soon=call_soon))
        return self.quotas[-1]

    def end_turn(self) -> None:
        ended, self.due[:] = self.due[:], []
        for end in ended:
            end()


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


async def test_a_credential_that_is_withdrawn_before_its_turn_is_refused() -> None:
    limits = HeldTurns()
    async with service_here(rest=limits) as service, connection(service.http_port) as (reader, writer):
        await create(service, "job", virtual_key_id="vk-1")
        for _ in range(2):  # as a stranger, and then as one that is known
            writer.write(get("job", OWNER))
            assert (await next_answer(reader)).status == 202
            for _ in range(5):  # until the turns of the first have ended
                await asyncio.sleep(0)
            limits.held.set()
        writer.write(get("job", OWNER))
        [quota] = limits.quotas
        await until(lambda: bool(quota._waiting))  # nothing else shows that it waits
        await put_virtual_key(service, "vk-1", disabled=True)
        limits.end_turn()
        assert (await next_answer(reader)).status == 401
