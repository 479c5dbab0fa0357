"""The gRPC contract: every RPC field by field, every refusal of the table, idempotency and races."""

import asyncio
import uuid
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from grpc import StatusCode as Code
from harness import http
from harness.faults import Clock, MeddledStore
from harness.hostile_requests import INVALID, NO_JSON
from harness.jobs import (
    RESULT,
    cancel,
    cancellation,
    complete,
    completion,
    create,
    creation,
    fail,
    failure,
    heartbeat,
    job_error,
    job_in,
    put_virtual_key,
    start,
    starting,
)
from harness.logged import everything_logged
from harness.refusals import (
    CANCELLED,
    LOST,
    NO_VIRTUAL_KEY,
    NOT_FOUND,
    NOT_JSON,
    REFUSED_OTHERS,
    REFUSED_WRITES,
    TOO_LARGE,
    invalid,
    terminal,
)
from harness.rpc import HOUR, at, call, furnish, get, in_batch, url_of, watch, without_result
from harness.service import Service, service_here
from harness.tokens import admin_token, bearer
from harness.waiting import until
from harness.wire import Refusal, refusal_of, refused
from jobstatus.core.errors import StoreFull, StoreUnavailable
from jobstatus.core.job import JobState
from jobstatus.core.json_slices import SLICE_BYTES
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1 import virtual_keys_pb2 as vk_pb

SECRET_TEXT: Final = "postgresql://user:hunter2@db/jobs"
BACKGROUND: Final = ("due", "purge", "virtual_keys_version", "probe", "count_jobs")
"""The store's operations that the service asks for by itself, at any time."""


# --- what each RPC answers ---


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_life_of_a_job_field_by_field(tmp_path: Path, store: str) -> None:
    """From creation to end every RPC answers the whole job, with exactly the fields that belong to its state."""
    clock = Clock()
    async with service_here(url_of(store, tmp_path), clock=clock) as service:
        request = creation("j1", result_ttl={"seconds": 90, "nanos": 500_000_000}, provider="p", model_requested="m")
        request.max_attempts = 3
        job = (await service.jobs.CreateJob(request)).job
        expected = pb.Job(
            job_id="j1",
            request_type=pb.REQUEST_TYPE_TRANSCRIPTION,
            state=pb.JOB_STATE_PENDING,
            version=1,
            virtual_key_id="vk-1",
            provider="p",
            model_requested="m",
            created_at=at(clock.ms),
            result_ttl=Duration(seconds=90, nanos=500_000_000),
            max_attempts=3,
        )
        assert job == expected
        clock.move(ms=1234)
        job = await start(service, "j1", "worker-1", lease={"seconds": 60})
        expected.MergeFrom(
            pb.Job(
                state=pb.JOB_STATE_PROCESSING,
                version=2,
                started_at=at(clock.ms),
                attempt=1,
                worker_id="worker-1",
                lease_expires_at=at(clock.ms + 60_000),
            )
        )
        assert job == expected
        clock.move(seconds=5)
        beat = pb.HeartbeatJobRequest(job_id="j1", attempt=1, progress=0.25, message="half way to half")
        job = (await service.jobs.HeartbeatJob(beat)).job
        expected.MergeFrom(
            pb.Job(version=3, lease_expires_at=at(clock.ms + 60_000), progress=0.25, message=beat.message)
        )
        assert job == expected
        clock.move(seconds=5)
        job = await complete(service, "j1", RESULT, attempt=1, status_code=201)
        expected.ClearField("lease_expires_at")
        end: dict[str, Any] = {"completed_at": at(clock.ms), "expires_at": at(clock.ms + 90_500), "status_code": 201}
        expected.MergeFrom(pb.Job(state=pb.JOB_STATE_COMPLETED, version=4, **end))
        assert job == expected
        expected.result = RESULT
        assert (await service.jobs.GetJob(pb.GetJobRequest(job_id="j1"))).job == expected
        expected.ClearField("result")
        assert (await service.jobs.GetJob(pb.GetJobRequest(job_id="j1", omit_result=True))).job == expected
        assert list((await service.jobs.ListJobs(pb.ListJobsRequest())).jobs) == [expected]


async def test_least_job_has_the_defaults(empty: Service) -> None:
    """A job created with its type alone gets a UUIDv4, an hour of result_ttl, one attempt, and no more."""
    job = (await empty.jobs.CreateJob(pb.CreateJobRequest(request_type=pb.REQUEST_TYPE_OCR))).job
    assert str(uuid.UUID(job.job_id, version=4)) == job.job_id
    assert {field.name for field, _ in job.ListFields()} == {
        "job_id", "request_type", "state", "version", "created_at", "result_ttl", "max_attempts"
    }  # fmt: skip
    assert (job.result_ttl, job.max_attempts, job.version) == (HOUR, 1, 1)


async def test_failure_field_by_field(service: Service) -> None:
    """A failed job shows its error field by field, extra_fields completed from the job, and no result."""
    await create(service, "j1", provider="openai", model_requested="whisper-1")
    error = pb.JobError(
        event_id="e-1",
        type="T",
        is_bifrost_error=True,
        status_code=418,
        error=pb.ErrorField(type="t", code="c", message="m", param="file", event_id="e-2", error="502"),
        extra_fields=pb.ErrorExtraFields(provider="azure", original_model_requested="o", resolved_model_used="u"),
    )
    job = await fail(service, "j1", error, status_code=400)
    error.extra_fields.MergeFrom(pb.ErrorExtraFields(model_requested="whisper-1", request_type="transcription"))
    assert job.error == error
    assert (job.state, job.status_code, job.HasField("result")) == (pb.JOB_STATE_FAILED, 400, False)
    assert (await service.jobs.GetJob(pb.GetJobRequest(job_id="j1"))).job == job


@pytest.mark.parametrize("job_id", ["pending", "processing", "leased"])
async def test_cancellation_field_by_field(service: Service, job_id: str) -> None:
    """A cancelled job has failed with 499, for the reason given; its poller and its watcher hear of it at once."""
    before = await get(service, job_id)
    stream = watch(service, job_id)
    assert (await stream.read()).job == before
    polling = asyncio.create_task(service.poll(job_id, bearer(admin_token()), "Prefer: wait=30"))

    async def waits() -> bool:
        return b"\njobstatus_waiting_polls 1.0\n" in (await http.request(service.admin_port, "/metrics")).body

    await until(waits)
    job = await cancel(service, job_id, reason="The caller hung up. 🎧")
    assert (await stream.read()).job == job
    assert await stream.read() is grpc.aio.EOF
    error = pb.JobError(
        status_code=499,
        error=pb.ErrorField(type="cancelled", code="cancelled_by_client", message="The caller hung up. 🎧"),
        extra_fields=pb.ErrorExtraFields(request_type="transcription"),
    )
    expected = pb.Job()
    expected.CopyFrom(before)
    expected.ClearField("lease_expires_at")
    expected.MergeFrom(pb.Job(state=pb.JOB_STATE_FAILED, version=before.version + 1, status_code=499, error=error))
    expected.completed_at.CopyFrom(job.completed_at)
    expected.expires_at.FromMilliseconds(job.completed_at.ToMilliseconds() + 3_600_000)
    assert job == expected
    assert await get(service, job_id) == job
    answer = await polling
    assert (answer.status, answer.json["status"], answer.json["status_code"]) == (200, "failed", 499)
    assert answer.json["error"] == {
        "is_bifrost_error": False,
        "status_code": 499,
        "error": {"type": "cancelled", "code": "cancelled_by_client", "message": "The caller hung up. 🎧"},
        "extra_fields": {"request_type": "transcription"},
    }
    metrics = (await http.request(service.admin_port, "/metrics")).body
    assert b'\njobstatus_rpcs_total{code="OK",method="CancelJob"} 1.0\n' in metrics


@pytest.mark.parametrize("job_id", ["pending", "processing", "leased"])
async def test_the_worker_of_a_cancelled_job_is_told(service: Service, job_id: str) -> None:
    """Whatever it writes next is JOB_TERMINAL with the code of the cancellation, and changes nothing."""
    job = await cancel(service, job_id)
    assert job.error.error.message == "The job was cancelled."
    for request in (starting(job_id, "worker-1"), starting(job_id, "worker-2")):
        assert await refused(call(service, request)) == CANCELLED
    for write in (heartbeat, completion, failure):
        assert await refused(call(service, write(job_id, attempt=job.attempt))) == CANCELLED
        (result,) = await in_batch(service, write(job_id, attempt=job.attempt))
        assert (result.error.reason, dict(result.error.metadata)) == (CANCELLED.reason, CANCELLED.metadata)
    assert await get(service, job_id) == job


async def test_code_that_is_too_long_for_trailers_is_left_out(empty: Service) -> None:
    """A refusal arrives although the worker's code has 60 KiB, of which trailers have no room."""
    await create(empty, "j1")
    await fail(empty, "j1", pb.JobError(error=pb.ErrorField(message="m", code="c" * 60_000)))
    for request in (heartbeat("j1"), cancellation("j1"), starting("j1")):
        assert await refused(call(empty, request)) == terminal("failed")
    await create(empty, "j2")
    await fail(empty, "j2", pb.JobError(error=pb.ErrorField(message="m", code="ü" * 256)))
    assert await refused(call(empty, cancellation("j2"))) == terminal("failed", code="ü" * 256)


async def test_deleted_job_is_gone_for_every_reader(service: Service) -> None:
    """After DeleteJob the job is found by nobody, whatever its state was, and its id may be used anew."""
    for job_id in (*(state.value for state in JobState), "leased"):
        request = pb.DeleteJobRequest(job_id=job_id)
        assert await service.jobs.DeleteJob(request) == pb.DeleteJobResponse()
        for reader in (request, pb.GetJobRequest(job_id=job_id), pb.WatchJobRequest(job_id=job_id)):
            assert await refused(call(service, reader)) == NOT_FOUND
        assert (await service.poll(job_id, bearer(admin_token()))).status == 404
        assert (await create(service, job_id)).version == 1
    assert (await service.jobs.ListJobs(pb.ListJobsRequest(states=pb.JobState.values()[2:]))).jobs == []


async def test_repeated_writes_change_nothing(service: Service) -> None:
    """A write that repeats what is stored is OK with the stored job: same version, same times (G16, G20)."""
    before = {state: await get(service, state.value) for state in JobState}
    assert await create(service, "completed") == without_result(before[JobState.COMPLETED])
    assert await create(service, "pending") == before[JobState.PENDING]
    assert await start(service, "processing") == before[JobState.PROCESSING]
    assert await complete(service, "completed") == without_result(before[JobState.COMPLETED])
    assert await fail(service, "failed") == before[JobState.FAILED]
    cancelled = await cancel(service, "leased", reason="The first reason.")
    assert await cancel(service, "leased", reason="Another reason.") == cancelled
    assert await cancel(service, "leased") == cancelled == await get(service, "leased")
    assert {state: await get(service, state.value) for state in JobState} == before


async def test_second_start_takes_over() -> None:
    """An unleased job may always be taken over, a leased one when its lease has ended; the first worker is fenced."""
    clock = Clock()
    async with service_here(clock=clock) as service:
        for job_id, lease in (("unleased", None), ("leased", Duration(seconds=10))):
            await create(service, job_id, max_attempts=2)
            await start(service, job_id, "worker-1", lease=lease)
            clock.move(seconds=11)
            job = await start(service, job_id, "worker-2", lease=lease)
            assert (job.attempt, job.worker_id) == (2, "worker-2")
            late = complete(service, job_id, b"1", attempt=1)
            assert await refused(late) == LOST
            assert (await complete(service, job_id, b"2", attempt=2)).state == pb.JOB_STATE_COMPLETED


async def test_lost_worker_fails_the_job() -> None:
    """When the last attempt's lease ends the job fails with 504 by itself; the worker that wakes up is told (G22)."""
    clock = Clock()
    async with service_here(sweep_interval_seconds=0.05, clock=clock) as service:
        await create(service, "j1")
        await start(service, "j1", lease=Duration(seconds=10))
        stream = watch(service, "j1")
        assert (await stream.read()).job.state == pb.JOB_STATE_PROCESSING
        clock.move(seconds=11)
        job = (await stream.read()).job
        assert (job.state, job.status_code) == (pb.JOB_STATE_FAILED, 504)
        assert (job.error.error.type, job.error.error.code) == ("worker_lost", "lease_expired")
        late = complete(service, "j1", attempt=1)
        assert await refused(late) == terminal("failed", code="lease_expired")
        assert await get(service, "j1") == job


@pytest.mark.parametrize(
    ("setting", "state", "code"),
    [
        ("pending_timeout_seconds", JobState.PENDING, "never_started"),
        ("processing_timeout_seconds", JobState.PROCESSING, "timed_out"),
    ],
)
async def test_timeouts_fail_the_job(setting: str, state: JobState, code: str) -> None:
    """A job that is not started, or does not end, in time fails with 504 by itself."""
    clock = Clock()
    settings: dict[str, Any] = {"sweep_interval_seconds": 0.05, setting: 60}
    async with service_here(**settings, clock=clock) as service:
        await job_in(service, state, "j1")
        stream = watch(service, "j1")
        await stream.read()
        clock.move(seconds=61)
        job = (await stream.read()).job
        assert (job.status_code, job.error.error.type, job.error.error.code) == (504, "timeout", code)


# --- VirtualKeys ---


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_virtual_key_field_by_field(tmp_path: Path, store: str) -> None:
    """A virtual key is kept as put, in place of what was there; only its created_at stays."""
    clock = Clock()
    async with service_here(url_of(store, tmp_path), clock=clock) as service:
        hashes = [bytes([number]) * 32 for number in (2, 1, 3)]
        first = vk_pb.VirtualKey(virtual_key_id="vk-1", created_at=at(clock.ms), updated_at=at(clock.ms))
        assert await put_virtual_key(service) == first
        clock.move(seconds=1)
        given: dict[str, Any] = {"key_sha256": hashes, "disabled": True, "expires_at": at(clock.ms + 1)}
        second = vk_pb.VirtualKey(virtual_key_id="vk-1", created_at=first.created_at, updated_at=at(clock.ms), **given)
        assert await put_virtual_key(service, **given) == second
        request = vk_pb.GetVirtualKeyRequest(virtual_key_id="vk-1")
        assert (await service.virtual_keys.GetVirtualKey(request)).virtual_key == second
        assert (await service.virtual_keys.ListVirtualKeys(vk_pb.ListVirtualKeysRequest())).virtual_keys == [second]
        deletion = vk_pb.DeleteVirtualKeyRequest(virtual_key_id="vk-1")
        assert await service.virtual_keys.DeleteVirtualKey(deletion) == vk_pb.DeleteVirtualKeyResponse()
        for gone in (request, deletion):
            assert await refused(call(service, gone)) == NO_VIRTUAL_KEY
        await put_virtual_key(service, "vk-2", key_sha256=hashes)


async def test_hash_belongs_to_one_virtual_key(service: Service) -> None:
    """A hash that is registered for another virtual key is INVALID_FIELD, and nothing of the call is stored."""
    taken, free = bytes(32), bytes([1]) * 32
    await put_virtual_key(service, "vk-1", key_sha256=[taken])
    again = await refused(put_virtual_key(service, "vk-2", key_sha256=[free, taken], disabled=True))
    assert again == invalid("key_sha256")
    request = vk_pb.GetVirtualKeyRequest(virtual_key_id="vk-2")
    assert await refused(call(service, request)) == NO_VIRTUAL_KEY
    await put_virtual_key(service, "vk-1", key_sha256=[free])
    await put_virtual_key(service, "vk-2", key_sha256=[taken])


async def test_virtual_keys_are_listed_by_id(service: Service) -> None:
    """Pages walk all virtual keys in the order of their ids."""
    ids = ["-", "0", "A", "Z", "_", "a", "b", "vk-1", "vk-10", "vk-2"]
    for virtual_key_id in reversed(ids):
        await put_virtual_key(service, virtual_key_id)
    seen: list[str] = []
    request = vk_pb.ListVirtualKeysRequest(page_size=3)
    for _ in range(4):
        page = await service.virtual_keys.ListVirtualKeys(request)
        seen += [virtual_key.virtual_key_id for virtual_key in page.virtual_keys]
        request.page_token = page.next_page_token
    assert seen == sorted(ids) == ids
    assert request.page_token == ""


# --- refusals ---


async def test_every_refusal_has_its_code_and_reason(service: Service) -> None:
    """Each row of the error table is answered with its code, reason and metadata, and changes no job."""
    before = await service.jobs.ListJobs(pb.ListJobsRequest())
    for request, expected in REFUSED_WRITES + REFUSED_OTHERS:
        refusal = await refused(call(service, request))
        assert refusal == expected, request
        assert refusal.message
    assert await service.jobs.ListJobs(pb.ListJobsRequest()) == before


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("rpc", sorted({name.split(" ")[1] for name in INVALID}))
async def test_fields_out_of_bounds_are_named(furnished: Service, rpc: str) -> None:
    """A field outside its bounds is INVALID_FIELD, which names the field (G4, G5, G15)."""
    rows = {name: row for name, row in INVALID.items() if name.split(" ")[1] == rpc}
    outcomes = {name: await refused(call(furnished, request)) for name, (_, request) in rows.items()}
    assert outcomes == {name: invalid(field) for name, (field, _) in rows.items()}


async def test_bounds_themselves_are_inside(empty: Service) -> None:
    """The least and the most that the contract allows of each field are accepted."""
    text, note, error = "x" * 256, "x" * 1024, "x" * 65_536
    for number, span in enumerate((Duration(seconds=1), Duration(seconds=30 * 24 * 3600))):
        job_id = f"{number}" * 128
        fields = {"result_ttl": span, "provider": text, "model_requested": text, "max_attempts": (1, 1000)[number]}
        job = await create(empty, job_id, virtual_key_id=job_id, **fields)
        assert (job.job_id, job.result_ttl, job.provider) == (job_id, span, text)
        await start(empty, job_id, job_id, lease=(Duration(seconds=1), Duration(seconds=24 * 3600))[number])
        beat = await empty.jobs.HeartbeatJob(heartbeat(job_id, attempt=1, progress=float(number), message=note))
        assert (beat.job.progress, beat.job.message) == (number, note)
        end = failure(job_id, job_error(error), attempt=1, status_code=(100, 599)[number])
        assert (await empty.jobs.FailJob(end)).job.error.error.message == error
    await create(empty, "j1")
    assert (await cancel(empty, "j1", reason=note)).error.error.message == note


@pytest.mark.parametrize("result", NO_JSON.values(), ids=NO_JSON.keys())
async def test_result_that_is_not_json_is_refused(empty: Service, result: bytes) -> None:
    """What some parser could not read is RESULT_NOT_JSON alone and in a batch, and the job stays as it was (G6 to G9).

    A result so large that it is checked in slices is no exception.
    """
    job = await create(empty, "j1")
    large = b" " * SLICE_BYTES + result
    for each in (result, large):
        assert await refused(complete(empty, "j1", each)) == NOT_JSON
        operation = pb.Operation(complete_job=completion("j1", each))
        (outcome,) = (await empty.jobs.BatchWrite(pb.BatchWriteRequest(operation=[operation]))).result
        assert (outcome.error.reason, "Byte" in outcome.error.message) == (NOT_JSON.reason, True)
    assert await get(empty, "j1") == job


async def test_results_have_a_bound() -> None:
    """A result of max_result_bytes is stored, a larger one RESULT_TOO_LARGE, a message far beyond never read (G13)."""
    async with service_here(max_result_bytes=1024) as service:
        await create(service, "j1")
        for size in (1025, 4 * 1024 * 1024):
            too_large = refused(complete(service, "j1", b'"' + b"x" * (size - 2) + b'"'))
            assert await too_large == TOO_LARGE
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await service.jobs.CompleteJob(completion("j1", bytes(8 * 1024 * 1024)), compression=compression)
            assert caught.value.code() is Code.RESOURCE_EXHAUSTED
        await complete(service, "j1", b'"' + b"x" * 1022 + b'"')
        assert len((await get(service, "j1")).result) == 1024


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (StoreUnavailable(), Refusal(Code.UNAVAILABLE, "STORE_UNAVAILABLE")),
        (StoreFull(), Refusal(Code.RESOURCE_EXHAUSTED, "STORE_FULL")),
        (RuntimeError(SECRET_TEXT), Refusal(Code.INTERNAL, "INTERNAL")),
    ],
    ids=["unavailable", "full", "fault of ours"],
)
async def test_store_that_fails(caplog: pytest.LogCaptureFixture, fault: Exception, expected: Refusal) -> None:
    """Every RPC says what is the matter with the store, or that there is a fault of ours without a word of it (G31)."""
    store = MeddledStore()
    async with service_here(store) as service:
        await furnish(service)
        store.fail_all(fault)
        store.failures.update(dict.fromkeys(BACKGROUND))
        for request in everything():
            refusal = await refused(call(service, request))
            assert refusal == expected, request
            assert "hunter2" not in refusal.message
        batch = pb.BatchWriteRequest(operation=[pb.Operation(start_job=starting("pending"))])
        if expected.code is Code.INTERNAL:
            assert await refused(service.jobs.BatchWrite(batch)) == expected
            assert refusal.message == "internal error"
            assert SECRET_TEXT in everything_logged(caplog)
        else:
            ((result,), code) = (await service.jobs.BatchWrite(batch)).result, expected.code.value[0]
            assert (result.error.code, result.error.reason) == (code, expected.reason)
        store.fail_all(None)
        assert (await get(service, "pending")).version == 1


def everything() -> list[Message]:
    """A good request of each RPC that asks the store for something and is all or nothing."""
    return [
        creation("new"),
        starting("pending"),
        heartbeat("processing"),
        completion("processing"),
        failure("processing"),
        cancellation("processing"),
        pb.GetJobRequest(job_id="pending"),
        pb.BatchGetJobsRequest(job_ids=["pending"]),
        pb.ListJobsRequest(),
        pb.WatchJobRequest(job_id="completed"),
        pb.DeleteJobRequest(job_id="pending"),
        vk_pb.PutVirtualKeyRequest(virtual_key_id="vk-1"),
        vk_pb.GetVirtualKeyRequest(virtual_key_id="vk-1"),
        vk_pb.ListVirtualKeysRequest(),
        vk_pb.DeleteVirtualKeyRequest(virtual_key_id="vk-1"),
    ]


# --- idempotency and races ---


async def test_create_is_idempotent_alone_and_together(service: Service) -> None:
    """The same creation serially and fifty times at once makes one job, and every call is OK (G23)."""
    first = await create(service, "once", provider="p")
    assert [await create(service, "once", provider="p") for _ in range(5)] == [first] * 5
    jobs = await asyncio.gather(*(create(service, "together", provider="p") for _ in range(50)))
    assert all(job == jobs[0] for job in jobs)
    assert jobs[0].version == 1


async def test_cancellation_and_completion_at_once(service: Service) -> None:
    """One of them wins and is OK for all who want it; the others learn which."""
    for number in range(10):
        job_id = f"race-{number}"
        await create(service, job_id)
        writes = [cancel(service, job_id), complete(service, job_id), complete(service, job_id)]
        writes.insert(number % 4, cancel(service, job_id))
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        winners = [outcome for outcome in outcomes if isinstance(outcome, pb.Job)]
        losers = [refusal_of(outcome) for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
        assert winners == [without_result(await get(service, job_id))] * 2
        is_completed = winners[0].state == pb.JOB_STATE_COMPLETED
        assert losers == [terminal("completed") if is_completed else CANCELLED] * 2


async def test_one_outcome_wins(service: Service) -> None:
    """Of many different ends reported at once exactly one is OK and stored, all others are JOB_TERMINAL (G21)."""
    for round_number in range(10):
        job_id = f"race-{round_number}"
        await create(service, job_id)
        ends = [complete(service, job_id, b"%d" % number) for number in range(10)]
        ends += [fail(service, job_id, job_error(f"{number}")) for number in range(10)]
        outcomes = await asyncio.gather(*ends, return_exceptions=True)
        (winner,) = [outcome for outcome in outcomes if isinstance(outcome, pb.Job)]
        losers = [refusal_of(outcome) for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
        assert losers == [terminal("completed" if winner.state == pb.JOB_STATE_COMPLETED else "failed")] * 19
        assert without_result(await get(service, job_id)) == winner
