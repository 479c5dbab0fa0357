"""BatchWrite: what each operation of it answers is what the single call would."""

import itertools
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from harness.faults import Clock
from harness.jobs import RESULT, cancellation, completion, create, creation, failure, heartbeat, starting
from harness.refusals import NOT_FOUND, REFUSED_WRITES, invalid
from harness.rpc import HOUR, call, furnish, get, in_batch, operation, url_of
from harness.service import Service, service_here
from harness.wire import refusal_of, refused
from jobstatus.v1 import job_status_pb2 as pb


async def alone(service: Service, request: Message) -> pb.OperationResult:
    """What the single call says, in the words of a batch."""
    try:
        return pb.OperationResult(job=(await call(service, request)).job)
    except grpc.aio.AioRpcError as error:
        refusal = refusal_of(error)
        code = refusal.code.value[0]
        return pb.OperationResult(
            error=pb.OperationError(
                code=code, reason=refusal.reason, message=refusal.message, metadata=refusal.metadata
            )
        )


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_batch_says_what_the_single_calls_would(tmp_path: Path, store: str) -> None:
    """Operations of every outcome, mixed in one batch, end as the same calls do one after the other, in their order."""
    clock = Clock()  # stands still, so that both have the same times
    requests = [request for request, _ in REFUSED_WRITES]
    requests += [
        creation("new"),
        starting("new"),
        heartbeat("new", progress=0.5),
        starting("new", "worker-3"),
        completion("new"),
    ]
    requests += [
        completion("new"),
        failure("new"),
        creation("new"),
        failure("processing"),
        completion("leased", attempt=1),
    ]
    requests += [creation("tired"), cancellation("tired", reason="r"), cancellation("tired"), completion("tired")]
    requests += [starting("pending", lease=HOUR), starting("pending", "worker-3"), completion("pending", attempt=1)]
    async with service_here(url_of(store, tmp_path), clock=clock) as one, service_here(clock=clock) as other:
        await furnish(one)
        await furnish(other)
        assert await in_batch(one, *requests) == [await alone(other, request) for request in requests]
        assert await one.jobs.ListJobs(pb.ListJobsRequest()) == await other.jobs.ListJobs(pb.ListJobsRequest())


async def test_one_job_several_times_in_a_batch(empty: Service) -> None:
    """Each operation of a batch sees its job as those before it left it."""
    results = await in_batch(
        empty,
        creation("j1"),
        starting("j1"),
        heartbeat("j1", attempt=1),
        completion("j1"),
        completion("j1"),
        failure("j1"),
    )
    assert [result.job.version for result in results[:5]] == [1, 2, 2, 3, 3]
    assert results[5].error.reason == "JOB_TERMINAL"
    assert dict(results[5].error.metadata) == {"state": "completed"}
    assert not any(result.job.HasField("result") for result in results)
    assert (await get(empty, "j1")).result == RESULT


async def test_batch_takes_a_thousand(service: Service) -> None:
    """A batch of a thousand is one commit's worth, a result for each in order; one more is refused whole."""
    requests = [creation(f"b{number}") for number in range(1000)]
    assert [result.job.job_id for result in await in_batch(service, *requests)] == [
        request.job_id for request in requests
    ]
    too_many = await refused(in_batch(service, *(creation(f"c{number}") for number in range(1001))))
    assert too_many == invalid("operation")
    assert await refused(get(service, "c0")) == NOT_FOUND


async def test_operation_that_is_none(empty: Service) -> None:
    """An operation without a write is INVALID_FIELD by itself; its neighbours happen."""
    batch = pb.BatchWriteRequest(operation=[operation(creation("j1")), pb.Operation(), operation(creation("j2"))])
    results = (await empty.jobs.BatchWrite(batch)).result
    assert [result.WhichOneof("outcome") for result in results] == ["job", "error", "job"]
    assert (results[1].error.code, dict(results[1].error.metadata)) == (3, {"field": "operation"})


async def test_answers_about_many_jobs_fit_an_ordinary_client(empty: Service) -> None:
    """Of 450 jobs with errors of 10 kB each, some come without; the writes are answered, and so is a read of them.

    A client that got no answer would send the writes again for ever.
    """
    error = pb.JobError(error=pb.ErrorField(message="x" * 10_000))
    job_ids = [f"j{number}" for number in range(450)]
    pairs = [(creation(job_id), pb.FailJobRequest(job_id=job_id, error=error)) for job_id in job_ids]
    results = await in_batch(empty, *itertools.chain.from_iterable(pairs))
    read = await empty.jobs.BatchGetJobs(pb.BatchGetJobsRequest(job_ids=job_ids, omit_result=True))
    for jobs in ([result.job for result in results[1::2]], list(read.jobs)):
        assert [job.job_id for job in jobs] == job_ids
        assert {job.state for job in jobs} == {pb.JOB_STATE_FAILED}
        assert 300 < sum(job.HasField("error") for job in jobs) < 450
    assert (await get(empty, "j0")).error.error == error.error


async def test_errors_count_towards_the_bound_of_a_read_with_results(empty: Service) -> None:
    """As results do: beyond 32 MiB together the call is refused. A job that is asked for twice counts twice."""
    await create(empty, "j1")
    error = pb.JobError(error=pb.ErrorField(message="x" * 60_000))
    await empty.jobs.FailJob(pb.FailJobRequest(job_id="j1", error=error))
    within, beyond = [pb.BatchGetJobsRequest(job_ids=["j1"] * count) for count in (60, 600)]
    assert len((await empty.jobs.BatchGetJobs(within)).jobs) == 60
    assert await refused(empty.jobs.BatchGetJobs(beyond)) == invalid("job_ids")
