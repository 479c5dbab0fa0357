"""WatchJob: each version until the end, for as many as there is room for."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode as Code
from harness.jobs import complete, create, heartbeat, start
from harness.refusals import NOT_FOUND, invalid
from harness.rpc import furnish, get, watch, without_result
from harness.service import Service, service_here, stubs
from harness.staged_service import StagedService
from harness.waiting import until
from harness.wire import Refusal, channel_to, refused
from jobstatus.app.limits import ServiceLimits
from jobstatus.core.job import JobState
from jobstatus.core.tracker import JobTracker
from jobstatus.rpc.server import RpcLimits
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub


@pytest.fixture
async def watched() -> AsyncIterator[tuple[Service, JobTracker]]:
    """The gRPC server, at most three watches at a time, with the jobs; and the tracker behind it."""
    staged = StagedService(max_watchers=3)
    await staged.start()
    async with stubs(0, int(staged.target.rpartition(":")[2]), 0) as running:
        await furnish(running)
        yield running, staged.tracker
    await staged.tracker.close()
    await staged.server.stop(0)


async def test_watch_sends_each_version_until_the_end(service: Service) -> None:
    """A watch sends the job as it is, then each newer version that it is waited for, and ends after the last one."""
    stream = watch(service, "pending")
    assert (await stream.read()).job == await get(service, "pending")
    assert (await start(service, "pending")) == (await stream.read()).job
    beat = await service.jobs.HeartbeatJob(heartbeat("pending", progress=0.5))
    assert beat.job == (await stream.read()).job
    await complete(service, "pending")
    assert (await stream.read()).job == await get(service, "pending")
    assert await stream.read() is grpc.aio.EOF


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.FAILED])
async def test_watch_of_an_ended_job(service: Service, state: JobState) -> None:
    """An ended job is sent once, whatever after_version says, with its result unless that is omitted."""
    job = await get(service, state.value)
    for fields in ({}, {"after_version": 0}, {"after_version": job.version}, {"after_version": 2**63 - 1}):
        assert [answer.job async for answer in watch(service, state.value, **fields)] == [job]
    omitted = [answer.job async for answer in watch(service, state.value, omit_result=True)]
    assert omitted == [without_result(job)]


async def test_watch_after_a_version(service: Service) -> None:
    """With after_version the first answer is the first version above it."""
    stream = watch(service, "processing", after_version=2)
    await service.jobs.HeartbeatJob(heartbeat("processing", progress=0.5))
    assert (await stream.read()).job.version == 3
    stream = watch(service, "processing", after_version=2)
    assert (await stream.read()).job.version == 3
    stream.cancel()


async def test_slow_watcher_misses_steps_but_not_the_last(service: Service) -> None:
    """A client that does not read gets growing versions when it does, the terminal one last (G33)."""
    stream = watch(service, "processing")
    note = "x" * 1024
    for number in range(300):
        await service.jobs.HeartbeatJob(heartbeat("processing", progress=number / 300, message=note))
    await complete(service, "processing")
    versions = [answer.job.version async for answer in stream]
    assert versions == sorted(set(versions))
    assert versions[-1] == (await get(service, "processing")).version


async def test_a_watch_shows_signs_of_life_when_asked_to() -> None:
    """With idle_interval a response without a job comes whenever nothing was sent for so long, and only then."""
    limits = ServiceLimits(rpc=RpcLimits(min_idle_ms=1, hold_seconds=0))
    async with service_here(limits=limits) as service:
        job = await create(service, "j1")
        stream = watch(service, "j1", idle_interval=Duration(nanos=20_000_000))
        assert (await stream.read()).job == job
        for _ in range(3):
            assert await stream.read() == pb.WatchJobResponse()
        started = await start(service, "j1")
        assert (await next_job(stream)) == started
        assert await stream.read() == pb.WatchJobResponse()
        await complete(service, "j1")
        assert (await next_job(stream)).state == pb.JOB_STATE_COMPLETED
        assert await stream.read() is grpc.aio.EOF


async def next_job(stream: Any) -> pb.Job:
    """The next version, behind signs of life."""
    while not (message := await stream.read()).HasField("job"):
        pass
    job: pb.Job = message.job
    return job


@pytest.mark.parametrize(("seconds", "nanos"), [(0, 0), (4, 999_999_999), (-5, 0), (3600, 1_000_000), (5, -1)])
async def test_intervals_of_signs_of_life_are_bounded(service: Service, seconds: int, nanos: int) -> None:
    """From 5 s to an hour; anything else is INVALID_FIELD before anything is sent."""
    interval = Duration(seconds=seconds, nanos=nanos)
    assert await refused(watch(service, "pending", idle_interval=interval).read()) == invalid("idle_interval")


@pytest.mark.parametrize("seconds", [5, 3600])
async def test_bounds_of_signs_of_life_are_accepted(service: Service, seconds: int) -> None:
    """Both bounds are within."""
    stream = watch(service, "pending", idle_interval=Duration(seconds=seconds))
    assert (await stream.read()).job.job_id == "pending"
    stream.cancel()


async def test_watch_of_a_job_that_goes_away(service: Service) -> None:
    """A watch of a job that is deleted meanwhile ends with JOB_NOT_FOUND."""
    stream = watch(service, "pending")
    await stream.read()
    await service.jobs.DeleteJob(pb.DeleteJobRequest(job_id="pending"))
    assert await refused(stream.read()) == NOT_FOUND


async def test_watches_have_a_cap_and_are_freed(watched: tuple[Service, JobTracker]) -> None:
    """Above the cap a watch is OVERLOADED; one that ends in any way frees its place and leaves nothing behind (G33)."""
    service, tracker = watched
    streams = [watch(service, "pending") for _ in range(3)]
    for stream in streams:
        await stream.read()
    assert await refused(watch(service, "completed").read()) == Refusal(Code.RESOURCE_EXHAUSTED, "OVERLOADED")
    streams[0].cancel()
    await until(lambda: tracker._watchers.count == 2)
    assert (await watch(service, "completed").read()).job.state == pb.JOB_STATE_COMPLETED
    async with channel_to(service.grpc_port) as channel:
        await JobStatusStub(channel).WatchJob(pb.WatchJobRequest(job_id="leased")).read()
    await until(lambda: tracker._watchers.count == 2)  # that client has gone without a word
    await complete(service, "pending")
    for stream in streams[1:]:
        assert (await stream.read()).job.state == pb.JOB_STATE_COMPLETED
    assert await refused(watch(service, "unknown").read()) == NOT_FOUND
    await until(lambda: tracker._watchers.count == 0)
    assert tracker._subscriptions.versions() == {}
