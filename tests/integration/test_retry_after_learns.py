"""A service tells a poller when to come back by what it has seen of other jobs; so does an edge of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from harness.faults import Clock
from harness.http import request
from harness.jobs import cancel, complete, create, fail
from harness.service import Service, edge_here, service_here
from harness.tokens import bearer, virtual_key_token
from harness.waiting import LIMIT_SECONDS, until
from jobstatus.core.retry_after import MIN_KNOWN

OWNER = bearer(virtual_key_token("vk-1"))
STRANGER = bearer(virtual_key_token("vk-2"))
JOBS = [f"job-{number}" for number in range(MIN_KNOWN)]
UNLEARNED = ["2", "4"]
LEARNED = ["5", "25"]
"""What is told of a new job, and of one that is 40 s old, when all jobs take longer."""


@asynccontextmanager
async def front(name: str, *, clock: Clock) -> AsyncIterator[Service]:
    """A service; or an edge in front of one, and the service's RPCs."""
    async with service_here(clock=clock) as service:
        if name == "service":
            yield service
        else:
            async with edge_here(service, clock=clock) as edge:
                yield edge


async def told(service: Service, clock: Clock) -> list[str]:
    """Retry-After for a job that nobody has asked for yet, at once and when it is 40 s old."""
    await create(service, "next-job")
    answers = [await service.poll("next-job", OWNER)]
    clock.move(seconds=40)
    answers.append(await service.poll("next-job", OWNER))
    return [answer.headers["retry-after"] for answer in answers]


async def statuses(service: Service, header: str = OWNER) -> set[int]:
    """What polls for all JOBS are answered."""
    return {answer.status for answer in await asyncio.gather(*(service.poll(name, header) for name in JOBS))}


@pytest.mark.parametrize("name", ["service", "edge"])
async def test_who_saw_jobs_end_tells_a_later_poller_another_time(name: str) -> None:
    """Jobs that were polled took two minutes: the poller of the next one is asked to take its time."""
    clock = Clock()
    async with front(name, clock=clock) as service:
        await asyncio.gather(*(create(service, name) for name in JOBS))
        assert await statuses(service) == {202}
        clock.move(seconds=120)
        await asyncio.gather(*(complete(service, name) for name in JOBS))
        assert await statuses(service) == {200}
        assert await told(service, clock) == LEARNED


@pytest.mark.parametrize("name", ["service", "edge"])
async def test_who_waited_for_the_end_has_seen_it_too(name: str) -> None:
    """A poll that waits teaches as much as one that comes again."""
    clock = Clock()
    async with front(name, clock=clock) as service:
        await asyncio.gather(*(create(service, name) for name in JOBS))
        polls = [asyncio.create_task(service.poll(name, OWNER, "Prefer: wait=30")) for name in JOBS]

        async def all_wait() -> bool:
            metrics = (await request(service.admin_port, "/metrics")).body.decode()
            return f"\njobstatus_waiting_polls {len(JOBS)}.0\n" in metrics

        await until(all_wait)
        assert await statuses(service) == {202}  # whose reads come after those of the polls that wait
        clock.move(seconds=120)
        await asyncio.gather(*(complete(service, name) for name in JOBS))
        async with asyncio.timeout(LIMIT_SECONDS):
            assert {answer.status for answer in await asyncio.gather(*polls)} == {200}
        assert await told(service, clock) == LEARNED


async def test_jobs_that_nobody_may_or_did_await_teach_nothing() -> None:
    """A stranger's polls do not count, nor do an owner's that come after the end, however many they are."""
    clock = Clock()
    async with service_here(clock=clock) as service:
        await asyncio.gather(*(create(service, name) for name in JOBS))
        assert await statuses(service, STRANGER) == {404}
        clock.move(seconds=120)
        await asyncio.gather(*(complete(service, name) for name in JOBS))
        assert [await statuses(service) for _ in range(3)] == [{200}] * 3
        assert await told(service, clock) == UNLEARNED


@pytest.mark.parametrize("name", ["service", "edge"])
@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_jobs_that_were_given_up_teach_nothing(name: str, *, is_cancelled: bool) -> None:
    """When the service, or whoever asked for the job, lost patience says nothing of how long jobs take."""
    clock = Clock()
    async with front(name, clock=clock) as service:
        await asyncio.gather(*(create(service, name) for name in JOBS))
        assert await statuses(service) == {202}
        clock.move(seconds=120)
        for job_id in JOBS:
            await (cancel(service, job_id) if is_cancelled else fail(service, job_id, status_code=504))
        assert await statuses(service) == {200}
        assert await told(service, clock) == UNLEARNED
