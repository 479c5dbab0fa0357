"""`wait_for_job`: the end of a job, from a service that can be watched, that is full, that is old, that restarts."""

import asyncio
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message
from harness.http import request
from harness.jobs import complete, create, fail, heartbeat, start
from harness.service import Process, Service, service_here
from harness.stand_in import stand_in
from harness.waiting import LIMIT_SECONDS, until
from jobstatus.client import Job, JobNotFound, JobState, JobStatusClient, Overloaded, ServiceUnreachable
from jobstatus.client.watching import WatchLimits
from jobstatus.v1 import job_status_pb2 as pb

SOON = timedelta(seconds=0.3)
USUAL = WatchLimits()


@pytest.fixture
async def client(service: Service) -> AsyncIterator[JobStatusClient]:
    async with connected(service.grpc_port) as client:
        yield client


def connected(port: int, *, retry: bool = True, limits: WatchLimits = USUAL) -> JobStatusClient:
    return JobStatusClient(f"127.0.0.1:{port}", timeout=timedelta(seconds=3), retry=retry, watch_limits=limits)


async def in_time(waiting: Awaitable[Job]) -> Job:
    async with asyncio.timeout(2 * LIMIT_SECONDS):
        return await waiting


@asynccontextmanager
async def old_service(service: Service) -> AsyncIterator[tuple[int, Counter[str]]]:
    """The port of a service that knows no WatchJob, and how often which other call was made."""
    calls: Counter[str] = Counter()

    async def get_job(request: pb.GetJobRequest) -> Message:
        calls["GetJob"] += 1
        return await service.jobs.GetJob(request)

    async with stand_in(GetJob=get_job) as target:
        yield int(target.rpartition(":")[2]), calls


@pytest.mark.parametrize(("end", "state"), [(complete, JobState.COMPLETED), (fail, JobState.FAILED)])
async def test_the_job_comes_when_it_ends(
    service: Service, client: JobStatusClient, end: Callable[..., Any], state: JobState
) -> None:
    """With all that it ended with; steps before the end do not end the wait, and what has ended comes at once."""
    await create(service, "j1")
    waiting = asyncio.create_task(client.wait_for_job("j1"))
    await start(service, "j1")
    await service.jobs.HeartbeatJob(heartbeat("j1", progress=0.5))
    assert not waiting.done()
    await end(service, "j1")
    job = await in_time(waiting)
    assert job.state is state
    assert job == await client.get_job("j1") == await in_time(client.wait_for_job("j1"))


async def test_the_result_can_be_left_out(service: Service, client: JobStatusClient) -> None:
    """For those who only want to know how it ended."""
    await create(service, "j1")
    await complete(service, "j1")
    assert (await in_time(client.wait_for_job("j1", omit_result=True))).result is None


async def test_a_job_that_is_unknown_or_goes_is_said_to_be_so(service: Service, client: JobStatusClient) -> None:
    """At once, and at any time."""
    with pytest.raises(JobNotFound):
        await in_time(client.wait_for_job("none"))
    await create(service, "j1")
    waiting = asyncio.create_task(client.wait_for_job("j1"))
    await service.jobs.DeleteJob(pb.DeleteJobRequest(job_id="j1"))
    with pytest.raises(JobNotFound):
        await in_time(waiting)


async def test_a_wait_has_an_end(service: Service, client: JobStatusClient) -> None:
    """After `timeout`, whether the job is watched or asked for."""
    await create(service, "j1")
    with pytest.raises(TimeoutError):
        await client.wait_for_job("j1", timeout=SOON)
    async with old_service(service) as (port, _), connected(port) as old:
        with pytest.raises(TimeoutError):
            await old.wait_for_job("j1", timeout=SOON)


async def test_an_old_service_is_asked_again_and_again(service: Service) -> None:
    """One that does not know WatchJob: politely, and the end is not missed."""
    await create(service, "j1")
    async with old_service(service) as (port, calls), connected(port) as client:
        waiting = asyncio.create_task(client.wait_for_job("j1"))
        await until(lambda: calls["GetJob"] >= 2)
        assert not waiting.done()
        await complete(service, "j1")
        job = await in_time(waiting)
    assert (job.state, job.result) == (JobState.COMPLETED, b'{"text": "hello"}')
    assert calls["GetJob"] >= 3


@asynccontextmanager
async def watched_by_another(service: Service, client: JobStatusClient) -> AsyncIterator[None]:
    """Somebody takes a place of the service while the block lasts."""
    await create(service, "another")
    async with aclosing(client.watch_job("another")) as versions:
        await anext(versions)
        yield


async def asked_at_least(service: Service, times: int) -> bool:
    """Whether so many GetJob have been answered."""
    metrics = (await request(service.admin_port, "/metrics")).body.decode()
    counted = re.search(r'^jobstatus_rpcs_total\{code="OK",method="GetJob"\} (\S+)$', metrics, re.MULTILINE)
    return counted is not None and float(counted[1]) >= times


async def refused(client: JobStatusClient) -> bool:
    """Whether the service has no room for a watch."""
    try:
        async with aclosing(client.watch_job("j1", patience=timedelta())) as versions:
            await anext(versions)
    except Overloaded:
        return True
    return False


async def test_a_full_service_is_asked_again_and_again() -> None:
    """A place taken by another is no error: the job is asked for until it ends."""
    limits = WatchLimits(shortest_pause_seconds=0.05)
    async with service_here(max_watchers=1) as service, connected(service.grpc_port, limits=limits) as client:
        await create(service, "j1")
        async with (
            watched_by_another(service, client),
            connected(service.grpc_port, retry=False, limits=limits) as impatient,
        ):
            assert await refused(impatient)
            waiting = [asyncio.create_task(each.wait_for_job("j1")) for each in (client, impatient)]
            await until(lambda: asked_at_least(service, 6))
            await complete(service, "j1")
            assert [(await in_time(each)).state for each in waiting] == [JobState.COMPLETED] * 2


async def test_a_service_is_watched_once_it_has_room() -> None:
    """After having been full: the wait then holds the place that has become free."""
    limits = WatchLimits(shortest_pause_seconds=0.05, longest_pause_seconds=0.05, watch_again_seconds=0.1)
    async with service_here(max_watchers=1) as service, connected(service.grpc_port, limits=limits) as client:
        await create(service, "j1")
        async with connected(service.grpc_port, retry=False) as other:
            async with watched_by_another(service, other):
                waiting = asyncio.create_task(client.wait_for_job("j1"))
                assert await refused(other)
            await until(lambda: refused(other))
            await complete(service, "j1")
            assert (await in_time(waiting)).state is JobState.COMPLETED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_is_survived(number: signal.Signals, tmp_path: Path) -> None:
    """However the service ends, and whether the job ends before or after it is back."""
    async with Process(tmp_path) as process, connected(process.port("GRPC")) as client:
        async with process.connected() as service:
            await create(service, "j1")
            await create(service, "j2")
            waiting = [asyncio.create_task(client.wait_for_job(job_id)) for job_id in ("j1", "j2")]
            await anext(client.watch_job("j1"))
            await complete(service, "j2")
            assert (await in_time(waiting[1])).state is JobState.COMPLETED
        process.send(number)
        await process.ended()
        await process.start()
        async with process.connected() as service:
            await complete(service, "j1")
        assert (await in_time(waiting[0])).state is JobState.COMPLETED


async def test_a_service_that_stays_away_is_given_up(service: Service) -> None:
    """After `patience`, counted from when it went away; without retry at once."""
    async with old_service(service) as (port, _):
        pass
    async with connected(port) as client, connected(port, retry=False) as impatient:
        with pytest.raises(ServiceUnreachable):
            await in_time(client.wait_for_job("j1", patience=SOON))
        with pytest.raises(ServiceUnreachable):
            await in_time(impatient.wait_for_job("j1"))
