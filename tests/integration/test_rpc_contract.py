"""The gRPC contract: every RPC field by field, every refusal of the table, and what no client may be able to do."""

import asyncio
import base64
import inspect
import itertools
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode as Code
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from harness.certificates import Authorities
from harness.faults import Clock, meddle
from harness.hostile_requests import INVALID, NO_JSON
from harness.http import LIMIT_SECONDS
from harness.jobs import (
    RESULT,
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
from harness.service import Service, service_here
from harness.tokens import admin_token, bearer
from harness.waiting import until
from harness.wire import Refusal, call_raw, channel_to, refusal_of, refused
from jobstatus.app import serving
from jobstatus.core.errors import StoreFull, StoreUnavailable
from jobstatus.core.job import JobState
from jobstatus.core.tracker import JobTracker
from jobstatus.rpc.job_status import JobStatusServicer
from jobstatus.rpc.server import DESCRIPTORS
from jobstatus.rpc.virtual_keys import VirtualKeysServicer
from jobstatus.settings import Settings
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1 import virtual_keys_pb2 as vk_pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub

HOUR: Final = Duration(seconds=3600)
SERVICES: Final = ("jobstatus.v1.JobStatus", "jobstatus.v1.VirtualKeys")
SECRET_TEXT: Final = "postgresql://user:hunter2@db/jobs"
MALFORMED: Final = invalid("request")
WATCH_SECONDS: Final = 30
BACKGROUND: Final = ("due", "purge", "virtual_keys_version", "probe", "count_jobs")
"""The store's operations that the service asks for by itself, at any time."""


# --- helpers ---


async def call(service: Service, request: Message) -> Any:
    """The RPC whose request this is; of a stream all answers."""
    name = type(request).DESCRIPTOR.name.removesuffix("Request")
    answer = getattr(service.jobs if hasattr(service.jobs, name) else service.virtual_keys, name)(request)
    return [each async for each in answer] if name == "WatchJob" else await answer


def at(ms: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(ms)
    return stamp


def url_of(store: str, folder: Path) -> str:
    return "memory://" if store == "memory" else f"sqlite:///{folder / 'jobs.db'}"


async def furnish(service: Service) -> None:
    """A job in each state, called like it, and `leased`: attempt 1 of worker-1, whose lease runs for an hour."""
    for state in JobState:
        await job_in(service, state, state.value)
    await create(service, "leased")
    await start(service, "leased", lease=HOUR)


@pytest.fixture(params=["memory", "sqlite"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    """The service with those jobs, on each of the stores that need no server."""
    async with service_here(url_of(request.param, tmp_path)) as running:
        await furnish(running)
        yield running


@pytest.fixture
async def empty() -> AsyncIterator[Service]:
    """The service without a job."""
    async with service_here() as running:
        yield running


# --- what each RPC answers ---


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_life_of_a_job_field_by_field(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: str) -> None:
    """From creation to end every RPC answers the whole job, with exactly the fields that belong to its state."""
    clock = Clock(monkeypatch)
    async with service_here(url_of(store, tmp_path)) as service:
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
        error=pb.ErrorField(type="t", code="c", message="m", param="file", event_id="e-2"),
        extra_fields=pb.ErrorExtraFields(provider="azure"),
    )
    job = await fail(service, "j1", error, status_code=400)
    error.extra_fields.MergeFrom(pb.ErrorExtraFields(model_requested="whisper-1", request_type="transcription"))
    assert job.error == error
    assert (job.state, job.status_code, job.HasField("result")) == (pb.JOB_STATE_FAILED, 400, False)
    assert (await service.jobs.GetJob(pb.GetJobRequest(job_id="j1"))).job == job


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
    assert {state: await get(service, state.value) for state in JobState} == before


async def get(service: Service, job_id: str) -> pb.Job:
    return (await service.jobs.GetJob(pb.GetJobRequest(job_id=job_id))).job


def without_result(job: pb.Job) -> pb.Job:
    kept = pb.Job()
    kept.CopyFrom(job)
    kept.ClearField("result")
    return kept


async def test_second_start_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unleased job may always be taken over, a leased one when its lease has ended; the first worker is fenced."""
    clock = Clock(monkeypatch)
    async with service_here() as service:
        for job_id, lease in (("unleased", None), ("leased", Duration(seconds=10))):
            await create(service, job_id, max_attempts=2)
            await start(service, job_id, "worker-1", lease=lease)
            clock.move(seconds=11)
            job = await start(service, job_id, "worker-2", lease=lease)
            assert (job.attempt, job.worker_id) == (2, "worker-2")
            late = complete(service, job_id, b"1", attempt=1)
            assert await refused(late) == LOST
            assert (await complete(service, job_id, b"2", attempt=2)).state == pb.JOB_STATE_COMPLETED


async def test_lost_worker_fails_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the last attempt's lease ends the job fails with 504 by itself; the worker that wakes up is told (G22)."""
    clock = Clock(monkeypatch)
    async with service_here(sweep_interval_seconds=0.05) as service:
        await create(service, "j1")
        await start(service, "j1", lease=Duration(seconds=10))
        stream = watch(service, "j1")
        assert (await stream.read()).job.state == pb.JOB_STATE_PROCESSING
        clock.move(seconds=11)
        job = (await stream.read()).job
        assert (job.state, job.status_code) == (pb.JOB_STATE_FAILED, 504)
        assert (job.error.error.type, job.error.error.code) == ("worker_lost", "lease_expired")
        late = complete(service, "j1", attempt=1)
        assert await refused(late) == terminal("failed")
        assert await get(service, "j1") == job


@pytest.mark.parametrize(
    ("setting", "state", "code"),
    [
        ("pending_timeout_seconds", JobState.PENDING, "never_started"),
        ("processing_timeout_seconds", JobState.PROCESSING, "timed_out"),
    ],
)
async def test_timeouts_fail_the_job(monkeypatch: pytest.MonkeyPatch, setting: str, state: JobState, code: str) -> None:
    """A job that is not started, or does not end, in time fails with 504 by itself."""
    clock = Clock(monkeypatch)
    settings: dict[str, Any] = {"sweep_interval_seconds": 0.05, setting: 60}
    async with service_here(**settings) as service:
        await job_in(service, state, "j1")
        stream = watch(service, "j1")
        await stream.read()
        clock.move(seconds=61)
        job = (await stream.read()).job
        assert (job.status_code, job.error.error.type, job.error.error.code) == (504, "timeout", code)


# --- refusals ---


async def test_every_refusal_has_its_code_and_reason(service: Service) -> None:
    """Each row of the error table is answered with its code, reason and metadata, and changes no job."""
    before = await service.jobs.ListJobs(pb.ListJobsRequest())
    for request, expected in REFUSED_WRITES + REFUSED_OTHERS:
        refusal = await refused(call(service, request))
        assert refusal == expected, request
        assert refusal.message
    assert await service.jobs.ListJobs(pb.ListJobsRequest()) == before


@pytest.mark.parametrize("rpc", sorted({name.split(" ")[1] for name in INVALID}))
async def test_fields_out_of_bounds_are_named(service: Service, rpc: str) -> None:
    """A field outside its bounds is INVALID_FIELD, which names the field (G4, G5, G15)."""
    rows = {name: row for name, row in INVALID.items() if name.split(" ")[1] == rpc}
    outcomes = {name: await refused(call(service, request)) for name, (_, request) in rows.items()}
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


@pytest.mark.parametrize("result", NO_JSON.values(), ids=NO_JSON.keys())
async def test_result_that_is_not_json_is_refused(empty: Service, result: bytes) -> None:
    """What is not one JSON value in UTF-8 is RESULT_NOT_JSON, and the job stays as it was (G6 to G9)."""
    job = await create(empty, "j1")
    assert await refused(complete(empty, "j1", result)) == NOT_JSON
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
async def test_store_that_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Exception, expected: Refusal
) -> None:
    """Every RPC says what is the matter with the store, or that there is a fault of ours without a word of it (G31)."""
    store = meddle(monkeypatch)
    async with service_here() as service:
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


# --- bytes that are no requests, and calls that are no calls ---


@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x10abc", b"\x0a", b"\x0b\x0a", b"\x00"])
async def test_bytes_that_are_no_message(empty: Service, data: bytes) -> None:
    """Garbage and a truncated field are INVALID_ARGUMENT for every method, not UNKNOWN with a traceback's text (G1)."""
    async with channel_to(empty.grpc_port) as channel:
        for service in DESCRIPTORS:
            for method in service.methods:
                path = f"/{service.full_name}/{method.name}"
                if method.server_streaming:
                    stream: Any = channel.unary_stream(path)
                    assert await refused(stream(data).read()) == MALFORMED
                else:
                    assert await refused(call_raw(channel, path, data)) == MALFORMED


async def test_text_that_is_not_utf8(empty: Service) -> None:
    """A string that is not UTF-8 is INVALID_ARGUMENT, like any other message that is none (G1)."""
    async with channel_to(empty.grpc_port) as channel:
        for path in ("JobStatus/CreateJob", "JobStatus/GetJob", "JobStatus/CompleteJob", "VirtualKeys/PutVirtualKey"):
            assert await refused(call_raw(channel, f"/jobstatus.v1.{path}", b"\x0a\x02\xff\xfe")) == MALFORMED


async def test_odd_encodings_are_read_as_protobuf_says(empty: Service) -> None:
    """Unknown fields are ignored and not stored, of a repeated singular field the last counts (G3)."""
    async with channel_to(empty.grpc_port) as channel:
        plain = creation("j1").SerializeToString()
        unknown = b"\xfa\x3f\x06secret" + b"\x98\x40\x01"
        answer = await call_raw(
            channel, "/jobstatus.v1.JobStatus/CreateJob", unknown + creation("j0").SerializeToString() + plain
        )
        assert pb.CreateJobResponse.FromString(answer).job.job_id == "j1"
        assert b"secret" not in answer
        stored = await call_raw(
            channel, "/jobstatus.v1.JobStatus/GetJob", pb.GetJobRequest(job_id="j1").SerializeToString()
        )
        assert b"secret" not in stored
        wrong_type = call_raw(channel, "/jobstatus.v1.JobStatus/GetJob", b"\x08\x01")
        assert await refused(wrong_type) == invalid("job_id")


@pytest.mark.parametrize(
    "path",
    ["/jobstatus.v1.JobStatus/Nope", "/jobstatus.v1.Nope/GetJob", "/x/y", "/grpc.channelz.v1.Channelz/GetServers"],
)
async def test_unknown_methods_are_unimplemented(empty: Service, path: str) -> None:
    """What is not served is UNIMPLEMENTED (G30)."""
    async with channel_to(empty.grpc_port) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_raw(channel, path, b"")
    assert caught.value.code() is Code.UNIMPLEMENTED


async def test_metadata_has_a_bound(service: Service) -> None:
    """Metadata of 7 kB passes, of 20 kB does not, and the connection serves the next call (G14)."""
    request = pb.GetJobRequest(job_id="pending")
    await service.jobs.GetJob(request, metadata=[("x-long", "x" * 7000)])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.jobs.GetJob(request, metadata=[("x-long", "x" * 20_000)])
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    await service.jobs.GetJob(request)


async def test_deadlines(service: Service) -> None:
    """A deadline in the past ends the call, one of ten years or none at all does not (G27)."""
    request = pb.GetJobRequest(job_id="pending")
    for seconds in (None, 10 * 365 * 24 * 3600):
        assert (await service.jobs.GetJob(request, timeout=seconds)).job.job_id == "pending"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.jobs.GetJob(request, timeout=-1)
    assert caught.value.code() is Code.DEADLINE_EXCEEDED


async def test_calls_over_the_limit_are_shed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit of concurrent calls one is RESOURCE_EXHAUSTED; when one has ended there is room again (G34)."""
    monkeypatch.setattr("jobstatus.rpc.server._MAX_RPCS", 2)
    async with service_here() as service:
        await create(service, "j1")
        watches = [watch(service, "j1") for _ in range(2)]
        for stream in watches:
            await stream.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await get(service, "j1")
        assert caught.value.code() is Code.RESOURCE_EXHAUSTED
        watches[0].cancel()

        async def is_served() -> bool:
            try:
                return (await get(service, "j1")).job_id == "j1"
            except grpc.aio.AioRpcError:
                return False

        await until(is_served)


async def test_flood_of_pings_is_sent_away(service: Service) -> None:
    """A connection that only pings gets GOAWAY with ENHANCE_YOUR_CALM; others are served meanwhile (G34)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.grpc_port)
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + ping * 50)
    async with asyncio.timeout(LIMIT_SECONDS):
        received = await reader.read()
    writer.close()
    assert b"too_many_pings" in received
    assert (await get(service, "pending")).version == 1


# --- idempotency and races ---


async def test_create_is_idempotent_alone_and_together(service: Service) -> None:
    """The same creation serially and fifty times at once makes one job, and every call is OK (G23)."""
    first = await create(service, "once", provider="p")
    assert [await create(service, "once", provider="p") for _ in range(5)] == [first] * 5
    jobs = await asyncio.gather(*(create(service, "together", provider="p") for _ in range(50)))
    assert all(job == jobs[0] for job in jobs)
    assert jobs[0].version == 1


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


# --- BatchWrite ---


OPERATIONS: Final = {
    "CreateJobRequest": "create_job",
    "StartJobRequest": "start_job",
    "HeartbeatJobRequest": "heartbeat_job",
    "CompleteJobRequest": "complete_job",
    "FailJobRequest": "fail_job",
}


def operation(request: Message) -> pb.Operation:
    """The write as one of a batch."""
    writes: dict[str, Any] = {OPERATIONS[request.DESCRIPTOR.name]: request}
    return pb.Operation(**writes)


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


async def in_batch(service: Service, *requests: Message) -> list[pb.OperationResult]:
    return list((await service.jobs.BatchWrite(pb.BatchWriteRequest(operation=map(operation, requests)))).result)


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_batch_says_what_the_single_calls_would(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: str
) -> None:
    """Operations of every outcome, mixed in one batch, end as the same calls do one after the other, in their order."""
    Clock(monkeypatch)  # stands still, so that both have the same times
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
    requests += [starting("pending", lease=HOUR), starting("pending", "worker-3"), completion("pending", attempt=1)]
    async with service_here(url_of(store, tmp_path)) as one, service_here() as other:
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


# --- BatchGetJobs, ListJobs ---


async def test_batch_get(service: Service) -> None:
    """Jobs come in the order asked for, as often as asked for, unknown ones left out, with results unless omitted."""
    ids = ["failed", "unknown", "completed", "pending", "completed"]
    jobs = (await service.jobs.BatchGetJobs(pb.BatchGetJobsRequest(job_ids=ids))).jobs
    assert [job.job_id for job in jobs] == ["failed", "completed", "pending", "completed"]
    assert list(jobs) == [await get(service, job_id) for job_id in ids if job_id != "unknown"]
    jobs = (await service.jobs.BatchGetJobs(pb.BatchGetJobsRequest(job_ids=ids, omit_result=True))).jobs
    assert not any(job.HasField("result") for job in jobs)
    nobody = pb.BatchGetJobsRequest(job_ids=["unknown"] * 1000)
    assert (await service.jobs.BatchGetJobs(nobody)).jobs == []


@asynccontextmanager
async def listed(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Service, list[pb.Job], Clock]]:
    """The service with 64 jobs of all sorts, four at each moment, and the jobs as the listing ought to show them."""
    clock = Clock(monkeypatch)
    types = (pb.REQUEST_TYPE_TRANSCRIPTION, pb.REQUEST_TYPE_OCR)
    sorts = itertools.product(JobState, types, ("vk-1", "vk-2"), range(4))
    async with service_here(url, sweep_interval_seconds=60) as service:
        jobs = []
        for number, (state, request_type, virtual_key_id, _) in enumerate(sorts):
            if number % 4 == 0:
                clock.move(seconds=1)
            fields = {"request_type": request_type, "virtual_key_id": virtual_key_id}
            jobs.append(without_result(await job_in(service, state, f"j{number * 37 % 64:02}", **fields)))
        await job_in(service, JobState.COMPLETED, "expired", result_ttl={"seconds": 1})
        clock.move(seconds=1)
        yield service, sorted(jobs, key=lambda job: (job.created_at.ToMilliseconds(), job.job_id), reverse=True), clock


Sieve = tuple[dict[str, Any], Callable[[pb.Job], bool]]
"""A filter of a listing, and which jobs it lets through."""
EVERY_JOB: Final[Sieve] = ({}, lambda _: True)
FILTERS: Final[list[Sieve]] = [
    ({"states": [pb.JOB_STATE_PENDING]}, lambda job: job.state == pb.JOB_STATE_PENDING),
    ({"states": [3, 4, 3]}, lambda job: job.state in (3, 4)),
    ({"request_type": pb.REQUEST_TYPE_OCR}, lambda job: job.request_type == pb.REQUEST_TYPE_OCR),
    ({"virtual_key_id": "vk-2"}, lambda job: job.virtual_key_id == "vk-2"),
    ({"virtual_key_id": "vk-3"}, lambda _: False),
]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_list_filters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: str) -> None:
    """Every filter, alone and with every other, lists exactly the jobs for which all hold, newest first."""
    async with listed(url_of(store, tmp_path), monkeypatch) as (service, jobs, _):
        late, early = jobs[10].created_at, jobs[50].created_at
        times: list[Sieve] = [
            ({"created_after": early}, lambda job: job.created_at.ToNanoseconds() >= early.ToNanoseconds()),
            ({"created_before": late}, lambda job: job.created_at.ToNanoseconds() < late.ToNanoseconds()),
        ]
        filters = FILTERS + times
        combined = [EVERY_JOB, *filters, *(both(*pair) for pair in itertools.combinations(filters, 2))]
        for fields, is_wanted in combined:
            answer = await service.jobs.ListJobs(pb.ListJobsRequest(page_size=1000, **fields))
            assert list(answer.jobs) == [job for job in jobs if is_wanted(job)], fields
            assert answer.next_page_token == ""


def both(one: Sieve, other: Sieve) -> Sieve:
    """Both filters; of a field that both give the second counts."""
    if one[0].keys() == other[0].keys():
        return other
    return {**one[0], **other[0]}, lambda job: one[1](job) and other[1](job)


@pytest.mark.parametrize("page_size", [1, 3, 4, 63, 64])
@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_pages_walk_every_job_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: str, page_size: int
) -> None:
    """Page by page, while new jobs come in, each job of the start is seen exactly once, newest first."""
    async with listed(url_of(store, tmp_path), monkeypatch) as (service, jobs, clock):
        seen: list[pb.Job] = []
        request = pb.ListJobsRequest(page_size=page_size)
        for number in range(len(jobs)):
            page = await service.jobs.ListJobs(request)
            assert len(page.jobs) == page_size or not page.next_page_token
            seen += page.jobs
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
            clock.move(ms=1)
            await create(service, f"later-{number}")
        assert seen == jobs


async def test_page_sizes(empty: Service) -> None:
    """Zero stands for fifty, and more than a thousand for a thousand."""
    for first in (0, 1000):
        await in_batch(empty, *(creation(f"j{number}") for number in range(first, first + 1000 - first // 2)))
    for asked, expected in ((0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)):
        page = await empty.jobs.ListJobs(pb.ListJobsRequest(page_size=asked))
        assert (len(page.jobs), bool(page.next_page_token)) == (expected, True)


def forged(*parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


async def test_page_tokens_of_others_are_refused(service: Service) -> None:
    """A page token that was forged, damaged or made for other filters is INVALID_FIELD, whatever is in it (G32)."""
    expected = invalid("page_token")
    token = (await service.jobs.ListJobs(pb.ListJobsRequest(page_size=1))).next_page_token
    created_at_ms, job_id, digest = json.loads(base64.urlsafe_b64decode(token))
    tokens = ["x", "====", "é", "\0", token[:-4], token + "AAAA", token[1:], token * 2, "A" * 100_000, "null", "e30="]
    tokens += [forged(), forged(1, 2, 3), forged(created_at_ms, job_id), forged(created_at_ms, job_id, digest, 1)]
    tokens += [forged(created_at_ms, job_id, "0" * 16), forged(str(created_at_ms), job_id, digest)]
    tokens += [forged(True, job_id, digest), forged(1.5, job_id, digest), forged(10**40, job_id, digest)]
    tokens += [forged(created_at_ms, None, digest), forged(created_at_ms, [job_id], digest)]
    tokens += [forged(created_at_ms, bad, digest) for bad in ("\ud800", "\0", "' OR 1=1--", "")]
    outcomes = {token: await outcome_of(service, pb.ListJobsRequest(page_token=token)) for token in tokens}
    assert {token: outcome for token, outcome in outcomes.items() if outcome != expected} == {}
    for other in ({"states": [1]}, {"virtual_key_id": "vk-1"}, {"request_type": 1}, {"created_after": at(0)}):
        assert await outcome_of(service, pb.ListJobsRequest(page_token=token, **other)) == expected


async def outcome_of(service: Service, request: Message) -> Any:
    """The answer or the refusal."""
    try:
        return await call(service, request)
    except grpc.aio.AioRpcError as error:
        return refusal_of(error)


# --- WatchJob ---


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Service, JobTracker]]:
    """The service, at most three watches at a time, with the jobs; and the tracker behind it."""
    trackers: list[JobTracker] = []

    def kept(*parts: Any, **named: Any) -> JobTracker:
        trackers.append(JobTracker(*parts, **named))
        return trackers[0]

    monkeypatch.setattr("jobstatus.app.JobTracker", kept)
    async with service_here(max_watchers=3) as running:
        await furnish(running)
        yield running, trackers[0]


def watch(service: Service, job_id: str, **fields: Any) -> Any:
    """A watch that fails, rather than waits for ever, when an answer that is due does not come."""
    return service.jobs.WatchJob(pb.WatchJobRequest(job_id=job_id, **fields), timeout=WATCH_SECONDS)


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
    await until(lambda: tracker._watchers._count == 2)
    assert (await watch(service, "completed").read()).job.state == pb.JOB_STATE_COMPLETED
    async with channel_to(service.grpc_port) as channel:
        await JobStatusStub(channel).WatchJob(pb.WatchJobRequest(job_id="leased")).read()
    await until(lambda: tracker._watchers._count == 2)  # that client has gone without a word
    await complete(service, "pending")
    for stream in streams[1:]:
        assert (await stream.read()).job.state == pb.JOB_STATE_COMPLETED
    assert await refused(watch(service, "unknown").read()) == NOT_FOUND
    await until(lambda: tracker._watchers._count == 0)
    assert tracker._watchers._waiting == {}


async def test_stop_ends_watches() -> None:
    """When the service stops a watch ends with SHUTTING_DOWN at once, so that its client asks again elsewhere."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(service_here())
        await create(service, "j1")
        async with channel_to(service.grpc_port) as channel:
            stream: Any = JobStatusStub(channel).WatchJob(pb.WatchJobRequest(job_id="j1"))
            await stream.read()
            async with asyncio.timeout(LIMIT_SECONDS):
                await stack.aclose()
            assert await refused(stream.read()) == Refusal(Code.UNAVAILABLE, "SHUTTING_DOWN")


# --- VirtualKeys ---


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_virtual_key_field_by_field(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: str) -> None:
    """A virtual key is kept as put, in place of what was there; only its created_at stays."""
    clock = Clock(monkeypatch)
    async with service_here(url_of(store, tmp_path)) as service:
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


# --- health, reflection, transport ---


async def test_health_follows_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Health is SERVING for the server and both services, NOT_SERVING while the store cannot write."""
    store = meddle(monkeypatch)
    async with service_here() as service, channel_to(service.grpc_port) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)

        async def are_all(status: int) -> bool:
            checks = [await health.Check(health_pb2.HealthCheckRequest(service=name)) for name in ("", *SERVICES)]
            return [check.status for check in checks] == [status] * 3

        await until(lambda: are_all(health_pb2.HealthCheckResponse.SERVING))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="unknown"))
        assert caught.value.code() is Code.NOT_FOUND
        store.failures["probe"] = StoreUnavailable()
        await until(lambda: are_all(health_pb2.HealthCheckResponse.NOT_SERVING))
        del store.failures["probe"]
        await until(lambda: are_all(health_pb2.HealthCheckResponse.SERVING))


@pytest.mark.parametrize("is_on", [True, False])
async def test_reflection_is_a_setting(is_on: bool) -> None:
    """Reflection names the services where it is switched on, and is UNIMPLEMENTED where it is not (G30)."""
    free: Any = {"http": "127.0.0.1:0", "grpc": "127.0.0.1:0", "admin": "127.0.0.1:0", "store": "memory://"}
    async with (
        serving(Settings(**free), (), with_reflection=is_on) as listening,
        channel_to(listening.grpc.port) as channel,
    ):
        make_stub: Any = reflection_pb2_grpc.ServerReflectionStub
        stream = make_stub(channel).ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        if not is_on:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            assert caught.value.code() is Code.UNIMPLEMENTED
        else:
            names = {service.name for service in (await stream.read()).list_services_response.service}
            assert names >= {*SERVICES, "grpc.health.v1.Health"}


def test_every_method_is_a_coroutine() -> None:
    """Each RPC has a handler, and none is a plain function, which gRPC would send to a thread without a word."""
    for descriptor, servicer in zip(DESCRIPTORS, (JobStatusServicer, VirtualKeysServicer), strict=True):
        for method in descriptor.methods:
            is_right = inspect.isasyncgenfunction if method.server_streaming else inspect.iscoroutinefunction
            assert is_right(getattr(servicer, method.name)), method.full_name


@pytest.fixture(scope="module")
def authorities() -> Authorities:
    """Two CAs: ours and a stranger's."""
    return Authorities()


@asynccontextmanager
async def calling(service: Service, credentials: grpc.ChannelCredentials | None) -> AsyncIterator[JobStatusStub]:
    """A stub with these credentials; None: without TLS."""
    target = f"127.0.0.1:{service.grpc_port}"
    async with (
        grpc.aio.secure_channel(target, credentials) if credentials else grpc.aio.insecure_channel(target)
    ) as channel:
        yield JobStatusStub(channel)


async def test_strangers_do_not_get_through_tls(authorities: Authorities, tmp_path: Path) -> None:
    """No certificate, one of another CA, an expired one, and no TLS are UNAVAILABLE before any handler runs (G28)."""
    strangers = {
        "nobody": authorities.nobody(),
        "another CA": authorities.client("gateway.test", of_stranger=True),
        "expired": authorities.client("gateway.test", has_expired=True),
        "plaintext": None,
    }
    async with service_here(**authorities.settings(tmp_path)) as service:
        for name, credentials in strangers.items():
            async with calling(service, credentials) as stub:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.CreateJob(creation("j1"), timeout=LIMIT_SECONDS)
                assert caught.value.code() is Code.UNAVAILABLE, name
        async with calling(service, authorities.client("anybody.test")) as stub:
            assert (await stub.ListJobs(pb.ListJobsRequest())).jobs == []


async def test_only_allowed_names_may_call(authorities: Authorities, tmp_path: Path) -> None:
    """With allowed names a certificate of our CA must have one of them, before anything of a request is read (G28)."""
    settings = authorities.settings(tmp_path)
    not_allowed = Refusal(Code.PERMISSION_DENIED, "CLIENT_NOT_ALLOWED")
    async with service_here(**settings, grpc_allowed_clients="gateway.test, worker.test") as service:
        for name in ("other.test", "sub.gateway.test", "gateway.test.evil"):
            async with calling(service, authorities.client(name)) as stub:
                assert await refused(stub.CreateJob(creation("j1"))) == not_allowed
                assert await refused(stub.CreateJob(creation(""))) == not_allowed
                assert await refused(stub.WatchJob(pb.WatchJobRequest(job_id="j1")).read()) == not_allowed
        for names in (("gateway.test",), ("worker.test",), ("other.test", "worker.test")):
            async with calling(service, authorities.client(*names)) as stub:
                assert (await stub.CreateJob(creation("j1"))).job.version == 1


@pytest.mark.parametrize("allowed", ["", "gateway.test"])
async def test_nameless_client_is_not_identified(authorities: Authorities, tmp_path: Path, allowed: str) -> None:
    """A certificate of our CA without any name identifies nobody, whether or not names are asked for."""
    async with (
        service_here(**authorities.settings(tmp_path), grpc_allowed_clients=allowed) as service,
        calling(service, authorities.nameless_client()) as stub,
    ):
        refusal = await refused(stub.CreateJob(creation("j1")))
        assert refusal == Refusal(Code.UNAUTHENTICATED, "CLIENT_NOT_IDENTIFIED")
