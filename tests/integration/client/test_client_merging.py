"""Writes of several callers become one batch, and each caller notices nothing of it but the time that it saves."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final

import grpc
import pytest
from harness.staged_service import LIMIT_SECONDS, StagedService
from harness.stand_in import stand_in
from jobstatus.client import BlockingJobStatusClient, Job, JobState, JobStatusClient, RequestType, ServiceUnreachable
from jobstatus.client.channel import ServiceChannel
from jobstatus.client.merging import MergeLimits, Waiting, WriteMerger, batches_of
from jobstatus.client.writes import create_request
from jobstatus.core import errors
from jobstatus.core.commands import CreateJob
from jobstatus.v1 import job_status_pb2 as pb

ALL_MERGED: Final = MergeLimits(single_calls=0, wait_seconds=0.0)
"""Whatever comes in one turn of the event loop is one batch."""

create: Final = partial(JobStatusClient.create_job, request_type=RequestType.OCR)


@asynccontextmanager
async def client_of(target: str, limits: MergeLimits = ALL_MERGED, **options: Any) -> AsyncIterator[JobStatusClient]:
    limit = timedelta(seconds=LIMIT_SECONDS)
    async with JobStatusClient(target, timeout=limit, merge_limits=limits, **options) as client:
        yield client


@asynccontextmanager
async def merger_of(
    target: str, limits: MergeLimits = ALL_MERGED, *, retry: bool = False
) -> AsyncIterator[WriteMerger]:
    channel = ServiceChannel(target, credentials=None, timeout_seconds=LIMIT_SECONDS, retry=retry)
    async with channel:
        merger = WriteMerger(channel, limits=limits)
        yield merger
        await merger.close()


async def together(calls: Iterable[Awaitable[Job]]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


def batch_sizes(service: StagedService) -> list[int]:
    queue = service.stage.requests["BatchWrite"]
    return [len(queue.get_nowait().operation) for _ in range(queue.qsize())]


async def test_many_callers_at_a_time_share_a_batch(service: StagedService) -> None:
    """All but the first few, who had nobody to wait for; those that come back when it is answered share the next."""

    async def live(client: JobStatusClient) -> Job:
        job = await create(client)
        await client.start_job(job.job_id, worker_id="w")
        return await client.complete_job(job.job_id, {"id": job.job_id})

    async with JobStatusClient(service.target) as client:
        jobs = await together(live(client) for _ in range(100))
        assert {job.state for job in jobs} == {JobState.COMPLETED}
        for job in jobs:
            assert (await client.get_job(job.job_id)).result == b'{"id":"%s"}' % job.job_id.encode()
    singles = [service.stage.requests[name].qsize() for name in ("CreateJob", "StartJob", "CompleteJob")]
    sizes = batch_sizes(service)
    assert sum(singles) + sum(sizes) == 300
    assert sum(singles) <= 20
    assert len(sizes) <= 20


async def test_a_caller_alone_makes_single_calls(client: JobStatusClient, service: StagedService) -> None:
    """It has nobody to wait for."""
    for _ in range(5):
        job = await create(client)
        await client.start_job(job.job_id, worker_id="w")
        await client.heartbeat_job(job.job_id, attempt=1)
        await client.fail_job(job.job_id, "e", attempt=1)
    assert batch_sizes(service) == []


async def test_merging_can_be_turned_off(service: StagedService) -> None:
    """By one argument."""
    async with client_of(service.target, merge_writes=False) as client:
        await together(create(client) for _ in range(20))
    assert batch_sizes(service) == []
    assert service.stage.requests["CreateJob"].qsize() == 20


async def test_each_caller_gets_its_own_error_as_from_a_single_call(service: StagedService, job_id: str) -> None:
    """Class, message, metadata and the code of gRPC's own error; those beside it get their jobs."""

    def calls(client: JobStatusClient) -> list[Awaitable[Job]]:
        return [
            client.heartbeat_job("nobody"),
            client.heartbeat_job(job_id),
            client.complete_job("done", b"{"),
            client.complete_job("done", b"9" * 2000),
            client.fail_job("ended", "other"),
            client.cancel_job("cancelled", reason="again"),
            client.complete_job("cancelled", b"1"),
            create(client, job_id="ended", provider="other"),
        ]

    async with client_of(service.target, merge_writes=False) as client:
        await together(create(client, job_id=name) for name in ("ended", "cancelled", "done"))
        await client.complete_job("ended", b"1")
        await client.cancel_job("cancelled")
        alone = [await together([call]) for call in calls(client)]
    async with client_of(service.target) as client:
        merged = await together(calls(client))
    assert sum(batch_sizes(service)) == len(alone)
    assert [seen(outcome) for outcome in merged] == [seen(outcome) for (outcome,) in alone]
    assert len({type(outcome) for outcome in merged}) == 8


def seen(outcome: Any) -> object:
    if isinstance(outcome, Job):
        return outcome
    return type(outcome), outcome.message, outcome.metadata, outcome.__cause__.code(), outcome.__cause__.details()


@pytest.mark.parametrize(
    "failure", [errors.InvalidField.of("request", "x"), errors.ClientNotAllowed(), KeyError("bug")]
)
async def test_a_batch_that_is_refused_whole_is_sent_one_by_one(service: StagedService, failure: Exception) -> None:
    """So what a service or a proxy does not take of one caller is not refused to the others."""
    service.stage.failures["BatchWrite"].append(failure)
    async with client_of(service.target, retry=False) as client:
        jobs = await together(create(client) for _ in range(5))
    assert {job.state for job in jobs} == {JobState.PENDING}
    assert service.stage.requests["CreateJob"].qsize() == 5


@pytest.mark.parametrize("failure", [errors.Overloaded, errors.ShuttingDown, errors.StoreUnavailable])
async def test_a_batch_that_may_succeed_later_is_retried_one_by_one(
    service: StagedService, failure: type[errors.JobStatusError]
) -> None:
    """After the pause of a single call; without retries each caller gets the error of its own."""
    service.stage.failures["BatchWrite"].append(failure())
    async with client_of(service.target) as client:
        jobs = await together(create(client) for _ in range(5))
    assert {job.state for job in jobs} == {JobState.PENDING}
    assert batch_sizes(service) == [5]
    assert service.stage.requests["CreateJob"].qsize() >= 5  # a call that is slow is tried again
    service.stage.failures["BatchWrite"].append(failure())
    async with client_of(service.target, retry=False) as client:
        caught = await together(create(client) for _ in range(5))
    assert {type(error) for error in caught} == {failure}
    assert len({id(error) for error in caught}) == 5


async def test_a_service_that_knows_no_batch_is_asked_once(caplog: pytest.LogCaptureFixture) -> None:
    """An older one, or a proxy that lets only some calls pass: from then on writes are single calls."""
    caplog.set_level(logging.WARNING)

    async def create_job(request: pb.CreateJobRequest) -> pb.CreateJobResponse:
        return pb.CreateJobResponse(job=pending(request.job_id))

    async with stand_in(CreateJob=create_job) as target, client_of(target, retry=False) as client:
        for _ in range(3):
            jobs = await together(create(client) for _ in range(4))
            assert {job.state for job in jobs} == {JobState.PENDING}
    assert [vars(record)["event"] for record in caplog.records] == ["writes_not_merged"]


async def test_an_interceptor_that_fails_for_a_batch_costs_no_write(service: StagedService) -> None:
    """It may know only the single calls."""

    class Picky(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            if b"BatchWrite" in details.method:
                raise LookupError(details.method)
            return await continuation(details, request)

    async with client_of(service.target, retry=False, interceptors=[Picky()]) as client:
        jobs = await together(create(client) for _ in range(4))
    assert {job.state for job in jobs} == {JobState.PENDING}


async def test_each_caller_has_a_deadline_of_its_own(service: StagedService) -> None:
    """The batch goes on for those that wait longer."""
    gate = service.stage.gates["BatchWrite"] = asyncio.Event()
    async with merger_of(service.target) as merger:
        hasty = asyncio.create_task(merger.apply(creation("hasty"), limit_seconds=0.05))
        patient = [asyncio.create_task(merger.apply(creation(f"p{number}"))) for number in range(3)]
        with pytest.raises(ServiceUnreachable) as caught:
            await hasty
        assert seen(caught.value)[3] is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[index]
        gate.set()
        assert [job.job_id for job in await asyncio.gather(*patient)] == ["p0", "p1", "p2"]
    assert batch_sizes(service) == [4]


async def test_a_caller_that_is_cancelled_takes_nobody_along(service: StagedService) -> None:
    """Neither before its batch is sent nor after."""
    gate = service.stage.gates["BatchWrite"] = asyncio.Event()
    async with client_of(service.target) as client:
        early, late, *others = [asyncio.create_task(create(client, job_id=f"j{number}")) for number in range(5)]
        await asyncio.sleep(0)
        early.cancel()
        await service.stage.next_request("BatchWrite")
        late.cancel()
        await asyncio.wait((early, late))
        gate.set()
        assert [job.job_id for job in await asyncio.gather(*others)] == ["j2", "j3", "j4"]
    assert early.cancelled()
    assert late.cancelled()
    with pytest.raises(errors.JobNotFound):
        await service.job("j0")


async def test_a_batch_that_hangs_holds_nobody_up(service: StagedService) -> None:
    """What comes meanwhile waits for its end, but not for long."""
    gate = service.stage.gates["BatchWrite"] = asyncio.Event()
    async with client_of(service.target) as client:
        first = [asyncio.create_task(create(client)) for _ in range(3)]
        await service.stage.next_request("BatchWrite")
        second = [asyncio.create_task(create(client)) for _ in range(3)]
        await service.stage.next_request("BatchWrite")
        gate.set()
        await asyncio.gather(*first, *second)


async def test_what_comes_while_a_batch_is_under_way_is_the_next_one(service: StagedService) -> None:
    """However many turns of the event loop it takes."""
    limits = MergeLimits(single_calls=0, wait_seconds=LIMIT_SECONDS, max_batch_writes=3)
    gate = service.stage.gates["BatchWrite"] = asyncio.Event()
    async with client_of(service.target, limits) as client:
        calls = [asyncio.create_task(create(client)) for _ in range(3)]
        await service.stage.next_request("BatchWrite")
        for _ in range(2):
            calls.append(asyncio.create_task(create(client)))
            await asyncio.sleep(0)
        assert batch_sizes(service) == []
        gate.set()
        await asyncio.gather(*calls)
    assert batch_sizes(service) == [2]


async def test_writes_of_one_job_keep_their_order(service: StagedService) -> None:
    """Although nobody waited for the one before, and other jobs' writes go between."""
    async with JobStatusClient(service.target) as client:

        def life_of(job_id: str) -> list[Awaitable[Job]]:
            return [
                create(client, job_id=job_id),
                client.start_job(job_id, worker_id="w"),
                client.heartbeat_job(job_id, attempt=1, progress=0.5),
                client.complete_job(job_id, b"{}", attempt=1),
                client.complete_job(job_id, b"{}", attempt=1),
            ]

        for outcomes in await asyncio.gather(*(together(life_of(f"j{number}")) for number in range(20))):
            assert [job.version for job in outcomes] == [1, 2, 3, 4, 4]


async def test_a_heartbeat_that_hangs_does_not_hold_back_the_outcome(service: StagedService, job_id: str) -> None:
    """A write waits for an earlier one of its job, but not for long."""
    gate = service.stage.gates["HeartbeatJob"] = asyncio.Event()
    async with client_of(service.target, MergeLimits(turn_seconds=0.01)) as client:
        await client.start_job(job_id, worker_id="w")
        beating = asyncio.create_task(client.heartbeat_job(job_id, attempt=1))
        await service.stage.next_request("HeartbeatJob")
        assert (await client.complete_job(job_id, b"{}", attempt=1)).state is JobState.COMPLETED
        gate.set()
        with pytest.raises(errors.JobTerminal):
            await beating


async def test_large_writes_are_called_alone(service: StagedService) -> None:
    """They would delay the others, and gain little."""
    limits = MergeLimits(single_calls=0, wait_seconds=0.0, max_write_bytes=500)
    async with client_of(service.target, limits) as client:
        await together(create(client, job_id=f"j{number}") for number in range(4))
        results = [b'"%s"' % (b"x" * size) for size in (1, 1, 600, 2000)]
        outcomes = await together(client.complete_job(f"j{n}", result) for n, result in enumerate(results))
    assert [type(outcome) for outcome in outcomes] == [Job, Job, Job, errors.ResultTooLarge]
    assert batch_sizes(service) == [4, 2]


async def test_what_is_held_is_bounded(service: StagedService) -> None:
    """In number and in bytes. What is beyond the bounds is overloaded, and retried as such."""
    size = create_request(creation("j0")).ByteSize()
    for bound in ({"max_held_writes": 3}, {"max_held_bytes": 3 * size}):
        gate = service.stage.gates["BatchWrite"] = asyncio.Event()
        limits = MergeLimits(single_calls=0, wait_seconds=0.0, **bound)
        async with merger_of(service.target, limits) as merger:
            held = [asyncio.create_task(merger.apply(creation(f"j{number}"))) for number in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(errors.Overloaded):
                await merger.apply(creation("j3"))
            gate.set()
            await asyncio.gather(*held)
            await together(merger.apply(creation(f"j{number}")) for number in range(3))


async def test_writes_with_other_metadata_are_in_other_batches(service: StagedService) -> None:
    """Each call carries what the caller's function returns for it; a trace's place is no reason to part."""
    values = iter("aabba")
    async with client_of(
        service.target, metadata=lambda: [("x-tenant", next(values)), ("traceparent", str(id(object())))]
    ) as client:
        await together(create(client) for _ in range(5))
    assert sorted(batch_sizes(service)) == [2, 3]


async def test_an_answer_without_a_jobs_error_is_completed(service: StagedService) -> None:
    """An answer of many failed jobs may leave errors out. The single call, which is idempotent, has them."""
    async with client_of(service.target) as client:
        names = [f"j{number}" for number in range(60)]
        await together(create(client, job_id=name) for name in names)
        await together(client.fail_job(name, "x" * 63_000) for name in names)
        again = await together(create(client, job_id=name) for name in names)
    assert {len(job.error.error.message) for job in again} == {63_000}


@pytest.mark.parametrize("merge_writes", [True, False])
async def test_calls_end_when_the_client_is_closed(service: StagedService, merge_writes: bool) -> None:
    """Those under way in a batch and those that wait for one are cancelled, as single calls are."""
    for name in ("BatchWrite", "CreateJob"):
        service.stage.gates[name] = asyncio.Event()
    limits = MergeLimits(single_calls=0, wait_seconds=LIMIT_SECONDS, max_batch_writes=3)
    async with client_of(service.target, limits, merge_writes=merge_writes) as client:
        calls = [asyncio.create_task(create(client)) for _ in range(5)]
        await service.stage.next_request("BatchWrite" if merge_writes else "CreateJob")
    await asyncio.wait(calls, timeout=LIMIT_SECONDS)
    assert all(call.cancelled() for call in calls)


async def test_threads_share_a_batch(service: StagedService) -> None:
    """Their calls run on one event loop."""
    limits = MergeLimits(single_calls=0, wait_seconds=LIMIT_SECONDS, max_batch_writes=8)
    ready = threading.Barrier(8)

    def write(client: BlockingJobStatusClient, number: int) -> Job:
        ready.wait(LIMIT_SECONDS)
        return client.create_job(request_type=RequestType.OCR, job_id=f"j{number}")

    def write_all() -> list[Job]:
        with (
            BlockingJobStatusClient(service.target, merge_limits=limits) as client,
            ThreadPoolExecutor(8) as pool,
        ):
            return list(pool.map(partial(write, client), range(8)))

    jobs = await asyncio.to_thread(write_all)
    assert [job.job_id for job in jobs] == [f"j{number}" for number in range(8)]
    assert batch_sizes(service) == [8]


async def test_heartbeats_of_many_runs_ride_together(service: StagedService) -> None:
    """Although the runs began at different times."""
    stop = asyncio.Event()

    async def work(client: JobStatusClient, job_id: str) -> None:
        async with client.run_job(job_id, lease=timedelta(seconds=2)) as run:
            await stop.wait()
            run.complete({})

    async with client_of(service.target, MergeLimits(single_calls=1)) as client:
        running = []
        for number in range(20):
            await create(client, job_id=f"j{number}")
            running.append(asyncio.create_task(work(client, f"j{number}")))
            await service.stage.next_request("StartJob")

        while count_heartbeats(await service.stage.next_request("BatchWrite")) < 2:
            pass
        stop.set()
        await asyncio.gather(*running)


def count_heartbeats(batch: pb.BatchWriteRequest) -> int:
    return sum(operation.HasField("heartbeat_job") for operation in batch.operation)


async def test_batches_keep_within_their_bounds() -> None:
    """In writes and in bytes, in order, and by metadata."""
    limits = MergeLimits(max_batch_writes=3, max_batch_bytes=100)

    def waiting(size: int, *metadata: tuple[str, str]) -> Waiting:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        return Waiting(pb.Operation(), size, metadata, 0.0, future)

    def sizes(*each: Waiting) -> list[list[int]]:
        return [[one.size for one in batch] for batch in batches_of(each, limits)]

    assert sizes() == []
    assert sizes(*(waiting(size) for size in (1, 2, 3, 4))) == [[1, 2, 3], [4]]
    assert sizes(*(waiting(size) for size in (60, 40, 1, 100, 1))) == [[60, 40], [1], [100], [1]]
    assert sizes(waiting(1, ("a", "1")), waiting(2, ("a", "2")), waiting(3, ("a", "1"))) == [[1, 3], [2]]
    assert sizes(waiting(1, ("traceparent", "1")), waiting(2, ("traceparent", "2")), waiting(3)) == [[1, 2, 3]]


def creation(job_id: str) -> CreateJob:
    return CreateJob(job_id=job_id, request_type=RequestType.OCR)


def pending(job_id: str) -> pb.Job:
    job = pb.Job(job_id=job_id, request_type=pb.REQUEST_TYPE_OCR, state=pb.JOB_STATE_PENDING, version=1, max_attempts=1)
    job.created_at.seconds = job.result_ttl.seconds = 1
    return job
