"""The client's calls: what they do, how they fail, and which of them are made again."""

import asyncio
import math
from datetime import UTC, date, datetime, timedelta

import grpc
import pytest
from harness.staged_service import LIMIT_SECONDS, NOW_MS, SHORTEST_LEASE, StagedService
from harness.waiting import until
from jobstatus.client import Job, JobError, JobState, JobStatusClient, RequestType, ServiceFailed, ServiceUnreachable
from jobstatus.client.channel import ServiceChannel, in_time
from jobstatus.client.errors import from_operation
from jobstatus.core import errors
from jobstatus.core.commands import CancelJob, CompleteJob, CreateJob, FailJob, HeartbeatJob, StartJob
from jobstatus.core.job import ErrorExtraFields, ErrorField
from jobstatus.core.virtual_keys import hash_key
from jobstatus.rpc.errors import CODES, operation_error
from jobstatus.v1 import job_status_pb2 as pb


async def test_a_job_is_created_started_kept_alive_and_completed(client: JobStatusClient) -> None:
    """The five writes do what their names say, and the answers are the core's values."""
    job = await client.create_job(
        request_type=RequestType.OCR,
        virtual_key_id="vk-1",
        result_ttl=timedelta(minutes=5),
        provider="acme",
        model_requested="eye-1",
        max_attempts=3,
    )
    assert (job.state, job.result_ttl_ms, job.max_attempts) == (JobState.PENDING, 300_000, 3)
    assert (job.virtual_key_id, job.provider, job.model_requested) == ("vk-1", "acme", "eye-1")
    job = await client.start_job(job.job_id, worker_id="w", lease=timedelta(seconds=30))
    assert (job.attempt, job.lease_expires_at_ms) == (1, NOW_MS + 30_000)
    job = await client.heartbeat_job(job.job_id, attempt=1, progress=0.5, message="half")
    assert (job.progress, job.message) == (0.5, "half")
    job = await client.complete_job(job.job_id, {"text": "ä"}, attempt=1, status_code=201)
    assert (job.state, job.status_code) == (JobState.COMPLETED, 201)
    assert (await client.get_job(job.job_id)).result == '{"text":"ä"}'.encode()
    assert (await client.get_job(job.job_id, omit_result=True)).result is None


async def test_a_job_fails_with_an_error_or_just_a_sentence(client: JobStatusClient) -> None:
    """A sentence becomes the message of a worker's error; a whole error is kept as it is."""
    for error, stored in (
        ("no audio", ErrorField(type="worker_error", message="no audio")),
        (JobError(error=ErrorField(code="x", message="m")), ErrorField(code="x", message="m")),
    ):
        job = await client.create_job(request_type=RequestType.SPEECH)
        failed = await client.fail_job(job.job_id, error, status_code=422)
        assert failed.error is not None
        assert (failed.state, failed.status_code, failed.error.error) == (JobState.FAILED, 422, stored)


async def test_an_error_comes_back_with_every_member(client: JobStatusClient, job_id: str) -> None:
    """Also with those that only upstream's newer errors have."""
    error = JobError(
        event_id="e-1",
        type="T",
        is_bifrost_error=True,
        status_code=418,
        error=ErrorField(message="m", type="t", code="c", param="p", event_id="e-2", error="502"),
        extra_fields=ErrorExtraFields(
            provider="p", model_requested="m", request_type="r", original_model_requested="o", resolved_model_used="u"
        ),
    )
    assert (await client.fail_job(job_id, error)).error == error
    assert (await client.get_job(job_id)).error == error


async def test_half_a_character_costs_no_write_of_a_batch(client: JobStatusClient) -> None:
    """Nor the whole batch: each text is sent with U+FFFD, as in a single call."""
    half, sent = "a \ud83d", "a \ufffd"
    error = JobError(error=ErrorField(message=half, param=half), event_id=half)
    names = ("completed", "failed", "cancelled")
    await client.batch_write(
        [CreateJob(job_id=name, request_type=RequestType.OCR, provider=half, model_requested=half) for name in names]
    )
    jobs = await client.batch_write(
        [
            HeartbeatJob(job_id="completed", message=half),
            CompleteJob(job_id="completed", result=rb'"a \ud83d"'),
            FailJob(job_id="failed", error=error),
            CancelJob(job_id="cancelled", reason=half),
        ]
    )
    assert [type(job) for job in jobs] == [errors.JobNotStarted, Job, Job, Job]
    completed, failed, cancelled = await client.get_jobs(names)
    assert (completed.provider, completed.model_requested, completed.result) == (sent, sent, rb'"a \ufffd"')
    assert failed.error is not None
    assert (failed.error.error, failed.error.event_id) == (ErrorField(message=sent, param=sent), sent)
    assert cancelled.error is not None
    assert cancelled.error.error.message == sent
    job = await client.create_job(request_type=RequestType.OCR, provider=half, model_requested=half)
    assert (job.provider, job.model_requested) == (sent, sent)


async def test_a_job_is_cancelled_once(client: JobStatusClient, job_id: str) -> None:
    """The reason is the error's message; a second cancellation changes nothing; a later write is told."""
    job = await client.cancel_job(job_id, "Not needed.")
    assert job.error is not None
    assert (job.state, job.status_code) == (JobState.FAILED, 499)
    assert job.error.error == ErrorField(type="cancelled", code="cancelled_by_client", message="Not needed.")
    assert await client.cancel_job(job_id) == job
    assert await client.batch_write([CancelJob(job_id=job_id, reason="Another.")]) == [job]
    with pytest.raises(errors.JobTerminal) as refusal:
        await client.complete_job(job_id, {})
    assert refusal.value.metadata == {"state": "failed", "code": "cancelled_by_client"}
    with pytest.raises(errors.InvalidField, match="reason"):
        await client.cancel_job(job_id, "r" * 1025)


@pytest.mark.parametrize(
    ("result", "stored"),
    [(b' {"a" : 1.0}', b' {"a" : 1.0}'), ('"text"', b'"text"'), (["é", None], '["é",null]'.encode()), (1, b"1")],
)
async def test_text_is_taken_as_json_and_anything_else_is_encoded(
    client: JobStatusClient, job_id: str, result: object, stored: bytes
) -> None:
    """Bytes and str arrive byte for byte; other values as compact JSON."""
    await client.complete_job(job_id, result)
    assert (await client.get_job(job_id)).result == stored


async def test_values_of_other_types_are_converted_as_json_dumps_does(client: JobStatusClient, job_id: str) -> None:
    """`default` of a single call does what it does there."""
    await client.complete_job(job_id, {"on": date(2026, 1, 2)}, default=str)
    assert (await client.get_job(job_id)).result == b'{"on":"2026-01-02"}'


@pytest.mark.parametrize("result", [math.nan, {1, 2}, "\udcff", b"\xff", "{"])
async def test_what_json_cannot_say_is_refused(client: JobStatusClient, job_id: str, result: object) -> None:
    """ResultNotJson, whether the client finds out or the service."""
    with pytest.raises(errors.ResultNotJson):
        await client.complete_job(job_id, result)


async def test_a_message_that_is_too_large_for_grpc_is_a_result_too_large(client: JobStatusClient, job_id: str) -> None:
    """The worker hears the same whether its result exceeds the service's bound or the transport's."""
    for size in (2000, 8 * 1024 * 1024):
        with pytest.raises(errors.ResultTooLarge):
            await client.complete_job(job_id, b'"' + b"x" * size + b'"')


async def test_a_batch_answers_each_write_on_its_own(client: JobStatusClient) -> None:
    """Jobs where writes succeeded, errors where they were refused, in the order of the writes."""
    done, refused, *others = await client.batch_write(
        [
            CreateJob(job_id="a", request_type=RequestType.RERANK),
            HeartbeatJob(job_id="a"),
            StartJob(job_id="a", worker_id="w"),
            HeartbeatJob(job_id="a", attempt=1, progress=1),
            CompleteJob(job_id="a", attempt=1, result=b"{}"),
            FailJob(job_id="a", attempt=1, error=JobError(error=ErrorField(message="late"))),
        ]
    )
    assert not isinstance(done, errors.JobStatusError)
    assert done.job_id == "a"
    assert isinstance(refused, errors.JobNotStarted)
    assert [isinstance(other, errors.JobStatusError) for other in others] == [False, False, False, True]
    assert isinstance(others[-1], errors.JobTerminal)
    assert others[-1].metadata == {"state": "completed"}


async def test_jobs_are_read_in_batches_and_listed_page_by_page(
    client: JobStatusClient, service: StagedService
) -> None:
    """Unknown jobs are left out of a batch; a listing goes through all its pages, filtered."""
    for number in range(5):
        service.now_ms = NOW_MS + 1000 * number
        await client.create_job(request_type=RequestType.SPEECH, job_id=f"job-{number}", virtual_key_id="vk")
    await client.complete_job("job-4", {})
    assert [job.job_id for job in await client.get_jobs(["job-3", "none", "job-1"])] == ["job-3", "job-1"]
    after = datetime.fromtimestamp(NOW_MS / 1000 + 1, UTC)
    listed = [
        job.job_id
        async for job in client.list_jobs(
            page_size=2,
            states=[JobState.PENDING],
            request_type=RequestType.SPEECH,
            virtual_key_id="vk",
            created_after=after,
        )
    ]
    assert listed == ["job-3", "job-2", "job-1"]
    await client.fail_job("job-3", JobError(error=ErrorField(message="m", code="too_short")), status_code=422)
    await client.start_job("job-2", worker_id="w-1")
    for found, page in (
        (["job-3"], await client.list_jobs_page(error_code="too_short")),
        (["job-3"], await client.list_jobs_page(status_code=422)),
        (["job-2"], await client.list_jobs_page(worker_id="w-1")),
    ):
        assert [job.job_id for job in page.jobs] == found
    page = await client.list_jobs_page(page_size=2, created_before=after)
    assert ([job.job_id for job in page.jobs], page.next_page_token) == (["job-0"], "")


async def test_a_time_without_a_zone_is_refused(client: JobStatusClient) -> None:
    """It would mean another moment on another machine."""
    with pytest.raises(errors.InvalidField, match="created_after"):
        await client.list_jobs_page(created_after=datetime(2026, 1, 1))  # noqa: DTZ001 (the point)


async def test_a_deleted_job_is_gone(client: JobStatusClient, job_id: str) -> None:
    """Reads and a second deletion say JobNotFound."""
    await client.delete_job(job_id)
    with pytest.raises(errors.JobNotFound):
        await client.get_job(job_id)
    with pytest.raises(errors.JobNotFound):
        await client.delete_job(job_id)


async def test_virtual_keys_are_put_read_listed_and_deleted(client: JobStatusClient) -> None:
    """What was put is what comes back, until it is deleted."""
    expires_at = datetime(2030, 1, 1, tzinfo=UTC)
    put = await client.put_virtual_key("vk", key_sha256=[hash_key("sk-bf-1")], disabled=True, expires_at=expires_at)
    assert (put.key_sha256, put.disabled) == ((hash_key("sk-bf-1"),), True)
    assert put.expires_at_ms == expires_at.timestamp() * 1000
    assert await client.get_virtual_key("vk") == put
    assert [key async for key in client.list_virtual_keys()] == [put]
    await client.delete_virtual_key("vk")
    with pytest.raises(errors.VirtualKeyNotFound):
        await client.get_virtual_key("vk")


def made(leaf: type[errors.JobStatusError]) -> errors.JobStatusError:
    if leaf is errors.InvalidField:
        return errors.InvalidField.of("job_id", "is odd")
    return errors.JobTerminal.in_state("failed") if leaf is errors.JobTerminal else leaf()


@pytest.mark.parametrize("leaf", CODES)
async def test_every_error_arrives_as_it_was_raised(
    service: StagedService, job_id: str, leaf: type[errors.JobStatusError]
) -> None:
    """Class, message and metadata survive the way, alone and in a batch; gRPC's error is the cause."""
    error = made(leaf)
    service.stage.failures["GetJob"].append(error)
    async with JobStatusClient(service.target, retry=False) as client:
        with pytest.raises(leaf) as caught:
            await client.get_job(job_id)
    assert type(caught.value) is leaf
    assert (caught.value.message, caught.value.metadata) == (error.message, error.metadata)
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
    again = from_operation(operation_error(error))
    assert (type(again), again.message, again.metadata) == (leaf, error.message, error.metadata)


async def test_a_fault_of_the_service_is_said_to_be_one(
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
    """INTERNAL is ServiceFailed and is not tried again."""
    service.stage.failures["GetJob"].append(ZeroDivisionError())
    with pytest.raises(ServiceFailed):
        await client.get_job(job_id)
    assert service.stage.requests["GetJob"].qsize() == 1


async def test_a_server_that_is_down_is_unreachable(service: StagedService) -> None:
    """Nothing listens: ServiceUnreachable, with gRPC's reason in the sentence, after the client's patience."""
    await service.server.stop(0)
    async with JobStatusClient(service.target, timeout=timedelta(seconds=0.5)) as client:
        with pytest.raises(ServiceUnreachable, match="refused"):
            await client.get_job("a")


async def test_time_that_runs_out_between_two_tries_hides_no_reason(service: StagedService) -> None:
    """A pause that lasts too long leaves no time for another try: the error tells how the last one failed."""
    await service.server.stop(0)
    pauses: list[float] = []
    now = asyncio.get_running_loop().time

    async def oversleep(seconds: float) -> None:
        pauses.append(seconds)
        ends_at = now() + 0.5
        await until(lambda: now() >= ends_at)

    async with ServiceChannel(
        service.target, credentials=None, timeout_seconds=0.5, retry=True, sleep=oversleep
    ) as channel:
        with pytest.raises(ServiceUnreachable, match="refused"):
            await channel.call(channel.jobs.GetJob, pb.GetJobRequest(job_id="a"))
    assert len(pauses) == 1


async def test_a_restart_of_the_service_is_waited_for(
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
    """Calls made meanwhile, a watch and a run all go on as if nothing had been."""

    async def watch() -> int:
        return (await anext(client.watch_job(job_id, after_version=2))).version

    watching = asyncio.create_task(watch())
    await service.stage.next_request("WatchJob")
    async with client.run_job(job_id, lease=5 * SHORTEST_LEASE) as run:
        await service.server.stop(0)
        reading = asyncio.create_task(client.get_job(job_id))
        await asyncio.wait((reading,), timeout=0.2)
        await service.start()
        assert (await reading).job_id == job_id
        run.complete({})
    assert await asyncio.wait_for(watching, LIMIT_SECONDS) > 2


@pytest.mark.parametrize("error", [errors.ShuttingDown(), errors.StoreUnavailable(), errors.Overloaded()])
async def test_what_is_unavailable_for_a_moment_is_asked_again(
    client: JobStatusClient, service: StagedService, error: errors.JobStatusError
) -> None:
    """The caller sees only the answer; the id that the client made is the same in each try."""
    service.stage.failures["CreateJob"].extend([error, error])
    job = await client.create_job(request_type=RequestType.EMBEDDING)
    asked = [(await service.stage.next_request("CreateJob")).job_id for _ in range(3)]
    assert asked == [job.job_id] * 3


async def test_a_try_that_hangs_is_given_up_and_made_again(service: StagedService, job_id: str) -> None:
    """One server that does not answer does not cost the whole patience."""
    service.stage.gates["GetJob"] = asyncio.Event()
    async with JobStatusClient(service.target, timeout=timedelta(seconds=3)) as client:
        reading = asyncio.create_task(client.get_job(job_id))
        await service.stage.next_request("GetJob")
        await service.stage.next_request("GetJob")
        service.stage.gates["GetJob"].set()
        assert (await reading).job_id == job_id


async def test_without_retry_the_first_failure_is_told(service: StagedService, job_id: str) -> None:
    """For callers that would rather know than wait."""
    service.stage.failures["GetJob"].append(errors.ShuttingDown())
    async with JobStatusClient(service.target, retry=False) as client:
        with pytest.raises(errors.ShuttingDown):
            await client.get_job(job_id)


async def test_a_call_that_grpc_does_not_end_at_its_deadline_ends_soon_after() -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await in_time(asyncio.Event().wait(), 0, overtime_seconds=0.01)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
