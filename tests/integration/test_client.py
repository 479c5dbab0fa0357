"""The client against the real gRPC server over a store in memory; faults are put in front of the real servicer."""

import asyncio
import math
import threading
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import grpc
import pytest
from jobstatus.client import JobError, JobRun, JobState, JobStatusClient, RequestType, ServiceFailed, ServiceUnreachable
from jobstatus.client.errors import from_operation
from jobstatus.core import errors
from jobstatus.core.commands import CompleteJob, CreateJob, FailJob, HeartbeatJob, StartJob
from jobstatus.core.job import ErrorField
from jobstatus.core.rules import Policy
from jobstatus.core.tracker import JobTracker
from jobstatus.core.virtual_keys import hash_key
from jobstatus.metrics import Metrics
from jobstatus.rpc.errors import CODES, operation_error
from jobstatus.rpc.job_status import JobStatusServicer
from jobstatus.rpc.server import RpcServer
from jobstatus.rpc.virtual_keys import VirtualKeysServicer
from jobstatus.stores.memory import MemoryJobStore

LIMIT_SECONDS = 10
SHORTEST_LEASE = timedelta(seconds=1)
NOW_MS = 1_800_000_000_000


class Stage:
    """The real servicer, which remembers what it was asked, and fails or waits when it is told to."""

    def __init__(self, servicer: JobStatusServicer) -> None:
        self._servicer = servicer
        self.requests: defaultdict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)
        self.failures: defaultdict[str, deque[Exception]] = defaultdict(deque)
        self.gates: dict[str, asyncio.Event] = {}
        self.answers_before_break = math.inf

    def __getattr__(self, name: str) -> Callable[[Any], Awaitable[Any]]:
        async def serve(request: Any) -> Any:
            await self._meet(name, request)
            return await getattr(self._servicer, name)(request)

        return serve

    async def WatchJob(self, request: Any) -> AsyncGenerator[Any, None]:  # noqa: N802 (gRPC's name)
        await self._meet("WatchJob", request)
        async with aclosing(self._servicer.WatchJob(request)) as answers:
            async for answer in answers:
                if self.answers_before_break <= 0:
                    self.answers_before_break = math.inf
                    raise errors.ShuttingDown
                self.answers_before_break -= 1
                yield answer

    async def _meet(self, name: str, request: Any) -> None:
        self.requests[name].put_nowait(request)
        if name in self.gates:
            await self.gates[name].wait()
        if self.failures[name]:
            raise self.failures[name].popleft()

    async def next_request(self, name: str) -> Any:
        return await asyncio.wait_for(self.requests[name].get(), LIMIT_SECONDS)


class Service:
    """A running server, its clock and its stage."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS
        self.store, self.metrics = MemoryJobStore(), Metrics()
        self.tracker = JobTracker(self.store, clock=self.clock, policy=Policy(), observer=self.metrics)
        self.stage = Stage(JobStatusServicer(self.tracker, max_result_bytes=1024))
        self.target = "127.0.0.1:0"

    async def start(self) -> None:
        """Serve, on the port that it was the last time."""
        self.server = RpcServer(
            job_status=cast("JobStatusServicer", self.stage),
            virtual_keys=VirtualKeysServicer(store=self.store, clock=self.clock, on_change=lambda: None),
            metrics=self.metrics,
            max_result_bytes=1024,
            tls=None,
            with_reflection=False,
        )
        self.target = f"127.0.0.1:{await self.server.start(self.target)}"

    def clock(self) -> int:
        return self.now_ms

    async def job(self, job_id: str) -> Any:
        return await self.tracker.get(job_id)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    await service.start()
    yield service
    await service.tracker.close()
    await service.server.stop(0)


@pytest.fixture
async def client(service: Service) -> AsyncIterator[JobStatusClient]:
    async with JobStatusClient(service.target, timeout=timedelta(seconds=LIMIT_SECONDS)) as client:
        yield client


async def work(
    client: JobStatusClient,
    job_id: str,
    body: Callable[[JobRun], Awaitable[None]],
    *,
    lease: timedelta = timedelta(seconds=30),
) -> None:
    async with client.run_job(job_id, lease=lease) as run:
        await body(run)


async def for_ever() -> None:
    await asyncio.wait_for(asyncio.Event().wait(), LIMIT_SECONDS)


@pytest.fixture
async def job_id(client: JobStatusClient) -> str:
    return (await client.create_job(request_type=RequestType.TRANSCRIPTION)).job_id


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


async def test_jobs_are_read_in_batches_and_listed_page_by_page(client: JobStatusClient, service: Service) -> None:
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
        return errors.InvalidField("job_id", "is odd")
    return errors.JobTerminal("failed") if leaf is errors.JobTerminal else leaf()


@pytest.mark.parametrize("leaf", CODES)
async def test_every_error_arrives_as_it_was_raised(
    service: Service, job_id: str, leaf: type[errors.JobStatusError]
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


async def test_a_fault_of_the_service_is_said_to_be_one(client: JobStatusClient, service: Service, job_id: str) -> None:
    """INTERNAL is ServiceFailed and is not tried again."""
    service.stage.failures["GetJob"].append(ZeroDivisionError())
    with pytest.raises(ServiceFailed):
        await client.get_job(job_id)
    assert service.stage.requests["GetJob"].qsize() == 1


async def test_a_server_that_is_down_is_unreachable(service: Service) -> None:
    """Nothing listens: ServiceUnreachable, with gRPC's reason in the sentence, after the client's patience."""
    await service.server.stop(0)
    async with JobStatusClient(service.target, timeout=timedelta(seconds=0.5)) as client:
        with pytest.raises(ServiceUnreachable, match="refused"):
            await client.get_job("a")


async def test_time_that_runs_out_between_two_tries_hides_no_reason(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause that takes longer than it should leaves no time to ask again: what is told is how the last try failed."""
    await service.server.stop(0)
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: sleep(seconds + 0.5))
    async with JobStatusClient(service.target, timeout=timedelta(seconds=0.5)) as client:
        with pytest.raises(ServiceUnreachable, match="refused"):
            await client.get_job("a")


async def test_a_restart_of_the_service_is_waited_for(client: JobStatusClient, service: Service, job_id: str) -> None:
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
    client: JobStatusClient, service: Service, error: errors.JobStatusError
) -> None:
    """The caller sees only the answer; the id that the client made is the same in each try."""
    service.stage.failures["CreateJob"].extend([error, error])
    job = await client.create_job(request_type=RequestType.EMBEDDING)
    asked = [(await service.stage.next_request("CreateJob")).job_id for _ in range(3)]
    assert asked == [job.job_id] * 3


async def test_a_try_that_hangs_is_given_up_and_made_again(service: Service, job_id: str) -> None:
    """One server that does not answer does not cost the whole patience."""
    service.stage.gates["GetJob"] = asyncio.Event()
    async with JobStatusClient(service.target, timeout=timedelta(seconds=3)) as client:
        reading = asyncio.create_task(client.get_job(job_id))
        await service.stage.next_request("GetJob")
        await service.stage.next_request("GetJob")
        service.stage.gates["GetJob"].set()
        assert (await reading).job_id == job_id


async def test_without_retry_the_first_failure_is_told(service: Service, job_id: str) -> None:
    """For callers that would rather know than wait."""
    service.stage.failures["GetJob"].append(errors.ShuttingDown())
    async with JobStatusClient(service.target, retry=False) as client:
        with pytest.raises(errors.ShuttingDown):
            await client.get_job(job_id)


async def test_a_watch_follows_the_job_to_its_end(client: JobStatusClient, job_id: str) -> None:
    """The job as it is now, then each newer version, ending after the terminal one, its result included."""
    states = []
    async for job in client.watch_job(job_id):
        states.append(job.state)
        if job.state is JobState.PENDING:
            await client.complete_job(job_id, {"text": "x"})
    assert states == [JobState.PENDING, JobState.COMPLETED]
    assert job.result == b'{"text":"x"}'


async def test_a_watch_that_breaks_goes_on_after_the_last_version(
    client: JobStatusClient, service: Service, job_id: str
) -> None:
    """No version is seen twice, and the end is not missed."""
    service.stage.answers_before_break = 1
    versions = []
    async for job in client.watch_job(job_id):
        versions.append(job.version)
        if not job.is_terminal:
            service.stage.failures["WatchJob"].append(errors.ShuttingDown())
            await client.complete_job(job_id, {})
    assert versions == [1, 2]
    asked = [(await service.stage.next_request("WatchJob")).after_version for _ in range(3)]
    assert asked == [0, 1, 1]


async def test_a_watch_that_was_quiet_for_long_is_taken_up_again(
    client: JobStatusClient, service: Service, job_id: str
) -> None:
    """Patience counts from when the service goes away, not from its last answer."""
    watch = client.watch_job(job_id, patience=timedelta(seconds=3))
    assert (await anext(watch)).version == 1
    following = asyncio.create_task(anext(watch))
    await asyncio.wait((following,), timeout=3.2)
    await service.server.stop(0)
    await service.start()
    await client.complete_job(job_id, {})
    assert (await asyncio.wait_for(following, LIMIT_SECONDS)).state is JobState.COMPLETED


async def test_a_watch_ends_when_the_job_or_the_patience_does(
    client: JobStatusClient, service: Service, job_id: str
) -> None:
    """An unknown job is said to be one at once, a service that stays away after the patience."""
    with pytest.raises(errors.JobNotFound):
        await anext(client.watch_job("none"))
    service.stage.failures["WatchJob"].extend([errors.ShuttingDown()] * 100)
    with pytest.raises(errors.ShuttingDown):
        await anext(client.watch_job(job_id, patience=timedelta(seconds=0.2)))


async def test_a_run_starts_and_completes_the_job(client: JobStatusClient, service: Service, job_id: str) -> None:
    """On entering the job is processing with a lease, on leaving it has the block's result."""
    async with client.run_job(job_id, lease=timedelta(seconds=30)) as run:
        job = await service.job(job_id)
        assert (job.state, job.attempt, job.lease_ms) == (JobState.PROCESSING, run.attempt, 30_000)
        assert run.job.worker_id == job.worker_id
        run.complete({"text": "hello"}, status_code=203)
        with pytest.raises(RuntimeError, match="outcome already"):
            run.fail("no")
    job = await service.job(job_id)
    assert (job.state, job.result, job.status_code) == (JobState.COMPLETED, b'{"text":"hello"}', 203)


async def test_a_run_that_says_fail_fails_the_job(client: JobStatusClient, service: Service, job_id: str) -> None:
    """run.fail is an outcome, not an exception."""
    async with client.run_job(job_id) as run:
        run.fail("no audio", status_code=422)
    job = await service.job(job_id)
    assert (job.state, job.status_code, job.error.error.message) == (JobState.FAILED, 422, "no audio")


async def test_a_job_that_cannot_be_started_is_not_run(client: JobStatusClient, job_id: str) -> None:
    """The body is never entered when another worker holds the lease: two runs never share an attempt."""
    async with client.run_job(job_id) as run:
        with pytest.raises(errors.LeaseHeld):
            async with client.run_job(job_id):
                pytest.fail("entered")
        run.complete({})


async def test_heartbeats_go_out_by_themselves_and_carry_what_was_reported(
    client: JobStatusClient, service: Service, job_id: str
) -> None:
    """The lease is renewed without a report; what was reported stays in every later heartbeat."""
    async with client.run_job(job_id, lease=SHORTEST_LEASE) as run:
        first = await service.stage.next_request("HeartbeatJob")
        assert (first.attempt, first.HasField("progress"), first.HasField("message")) == (run.attempt, False, False)
        run.report(progress=0.25)
        run.report(message="decoding")
        for _ in range(2):
            beat = await service.stage.next_request("HeartbeatJob")
            assert (beat.progress, beat.message) == (0.25, "decoding")
        run.complete({})
    job = await service.job(job_id)
    assert (job.state, job.progress) == (JobState.COMPLETED, 0.25)


async def test_a_report_hastens_the_heartbeat_but_a_flood_is_one(
    client: JobStatusClient, service: Service, job_id: str
) -> None:
    """With a lease of an hour news goes out at once, and a thousand reports from a thread are a few heartbeats."""

    def flood(run: JobRun) -> None:
        for number in range(1001):
            run.report(progress=number / 1000)

    async with client.run_job(job_id, lease=timedelta(hours=1)) as run:
        thread = threading.Thread(target=flood, args=(run,))
        thread.start()
        beats = 1
        while (await service.stage.next_request("HeartbeatJob")).progress < 1:
            beats += 1
        thread.join()
        assert beats <= 20
        run.complete({})


async def test_a_report_out_of_bounds_is_refused_where_it_is_made(client: JobStatusClient, job_id: str) -> None:
    """The mistake is an exception in the worker, not a lost lease later."""
    async with client.run_job(job_id) as run:
        with pytest.raises(errors.InvalidField):
            run.report(progress=1.5)
        with pytest.raises(errors.InvalidField):
            run.report(message="x" * 2000)
        with pytest.raises(errors.InvalidField):
            run.report(message="\udcff")
        run.complete({})
    with pytest.raises(RuntimeError, match="once"):
        await run.__aenter__()


async def test_heartbeats_survive_a_service_that_is_away_for_less_than_the_lease(
    client: JobStatusClient, service: Service, job_id: str
) -> None:
    """Neither a restart nor a fault of the service stops the worker."""
    service.stage.failures["HeartbeatJob"].extend([errors.ShuttingDown(), ZeroDivisionError()])
    async with client.run_job(job_id, lease=timedelta(seconds=3)) as run:
        for _ in range(4):
            run.report(progress=0.5)
            await service.stage.next_request("HeartbeatJob")
        assert not run.is_lost
        run.complete({})
    assert (await service.job(job_id)).state is JobState.COMPLETED


async def lose_to_another_worker(service: Service, job_id: str) -> None:
    service.now_ms += 60_000
    await service.tracker.apply(StartJob(job_id=job_id, worker_id="another", lease_ms=60_000))


async def lose_to_an_end(service: Service, job_id: str) -> None:
    await service.tracker.apply(
        FailJob(job_id=job_id, attempt=1, error=JobError(error=ErrorField(message="by the operator")))
    )


async def lose_to_a_deletion(service: Service, job_id: str) -> None:
    async with JobStatusClient(service.target) as client:
        await client.delete_job(job_id)


LOSSES = [
    (lose_to_another_worker, errors.LeaseLost),
    (lose_to_an_end, errors.JobTerminal),
    (lose_to_a_deletion, errors.JobNotFound),
]


@pytest.mark.parametrize(("lose", "cause"), LOSSES)
async def test_a_lost_lease_stops_the_block(
    client: JobStatusClient,
    service: Service,
    lose: Callable[[Service, str], Awaitable[None]],
    cause: type[errors.JobStatusError],
) -> None:
    """The body is cancelled where it waits, LeaseLost comes out with its cause, and the task itself lives on."""
    job = await client.create_job(request_type=RequestType.SPEECH, max_attempts=2)
    was_told = asyncio.Event()

    async def body(run: JobRun) -> None:
        await lose(service, job.job_id)
        try:
            await for_ever()
        except asyncio.CancelledError:
            if run.is_lost:
                was_told.set()
            raise

    with pytest.raises(errors.LeaseLost) as caught:
        await work(client, job.job_id, body, lease=SHORTEST_LEASE)
    assert was_told.is_set()
    assert type(caught.value.__cause__) is cause
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize(("lose", "cause"), LOSSES)
async def test_a_worker_that_slept_through_its_lease_cannot_complete(
    client: JobStatusClient,
    service: Service,
    lose: Callable[[Service, str], Awaitable[None]],
    cause: type[errors.JobStatusError],
) -> None:
    """It learns so on leaving, and what became of the job meanwhile stays."""
    job = await client.create_job(request_type=RequestType.SPEECH, max_attempts=2)

    async def body(run: JobRun) -> None:
        await lose(service, job.job_id)
        run.complete({"text": "too late"})

    with pytest.raises(errors.LeaseLost) as caught:
        await work(client, job.job_id, body)
    assert type(caught.value.__cause__) is cause
    if cause is not errors.JobNotFound:
        assert (await service.job(job.job_id)).state is not JobState.COMPLETED


async def test_a_last_attempt_whose_lease_has_ended_is_a_lost_lease(
    client: JobStatusClient, service: Service, job_id: str
) -> None:
    """The service has failed the job by then; the worker hears LeaseLost from JobTerminal."""

    async def body(run: JobRun) -> None:
        service.now_ms += 31_000
        run.complete({})

    with pytest.raises(errors.LeaseLost) as caught:
        await work(client, job_id, body)
    assert isinstance(caught.value.__cause__, errors.JobTerminal)
    assert (await service.job(job_id)).error.error.code == "lease_expired"


async def test_a_lease_that_nobody_confirms_is_lost(service: Service, job_id: str) -> None:
    """When no heartbeat is answered for a whole lease another worker may have the job: the block is stopped."""
    service.stage.gates["HeartbeatJob"] = asyncio.Event()

    async def body(_: JobRun) -> None:
        await for_ever()

    async with JobStatusClient(service.target) as client:
        with pytest.raises(errors.LeaseLost) as caught:
            await work(client, job_id, body, lease=SHORTEST_LEASE)
    assert isinstance(caught.value.__cause__, ServiceUnreachable)


async def test_an_exception_fails_the_job_and_goes_on(client: JobStatusClient, service: Service, job_id: str) -> None:
    """Its class is the code, its text the message; an outcome that was set before does not count."""

    async def body(run: JobRun) -> None:
        run.complete({})
        raise ValueError("bad audio\0" + "x" * 5000)

    with pytest.raises(ValueError, match="bad audio"):
        await work(client, job_id, body)
    job = await service.job(job_id)
    assert (job.state, job.status_code) == (JobState.FAILED, 500)
    assert (job.error.error.type, job.error.error.code) == ("worker_error", "ValueError")
    assert job.error.error.message.startswith("bad audioxxx")
    assert len(job.error.error.message) <= 2000


async def test_an_exception_is_not_hidden_by_a_job_that_cannot_be_failed(
    client: JobStatusClient, service: Service, job_id: str
) -> None:
    """The exception of the block goes on, with a note of what else went wrong."""

    async def body(_: JobRun) -> None:
        await lose_to_an_end(service, job_id)
        raise ValueError("bad audio")

    with pytest.raises(ValueError, match="bad audio") as caught:
        await work(client, job_id, body)
    assert "outcome stays" in caught.value.__notes__[0]


async def test_an_exception_of_a_block_that_is_stopped_goes_on(
    client: JobStatusClient, service: Service, job_id: str
) -> None:
    """Cleaning up after a lost lease may fail by itself: that is what the caller sees, with a note of the loss."""

    async def body(_: JobRun) -> None:
        await lose_to_an_end(service, job_id)
        try:
            await for_ever()
        finally:
            raise ValueError("cleaning up")

    with pytest.raises(ValueError, match="cleaning up") as caught:
        await work(client, job_id, body, lease=SHORTEST_LEASE)
    assert "has lost the job" in caught.value.__notes__[0]


async def test_a_block_without_an_outcome_fails_the_job(client: JobStatusClient, service: Service, job_id: str) -> None:
    """Forgetting run.complete is an error, for the worker's author and for whoever polls."""
    with pytest.raises(RuntimeError, match="without run"):
        async with client.run_job(job_id):
            pass
    job = await service.job(job_id)
    assert (job.state, job.error.error.code) == (JobState.FAILED, "no_result")


@pytest.mark.parametrize(
    ("result", "refusal"), [(b"{", errors.ResultNotJson), ('"' + "x" * 2000 + '"', errors.ResultTooLarge)]
)
async def test_a_result_that_is_refused_fails_the_job(
    client: JobStatusClient, service: Service, job_id: str, result: object, refusal: type[Exception]
) -> None:
    """Better a failure that says why than a job that hangs until its lease ends."""
    with pytest.raises(refusal):
        async with client.run_job(job_id) as run:
            run.complete(result)
    job = await service.job(job_id)
    assert (job.state, job.error.error.code) == (JobState.FAILED, refusal.__name__)


class Worker:
    """A run in a task of its own, for cancelling it from outside."""

    def __init__(self, client: JobStatusClient, job_id: str, *, result: object = None) -> None:
        self.is_inside = asyncio.Event()
        self.is_lost = asyncio.Event()
        self._client, self._job_id, self._result = client, job_id, result
        self.task = asyncio.create_task(self._work())

    async def _work(self) -> None:
        async with self._client.run_job(self._job_id, lease=SHORTEST_LEASE) as run:
            self.run = run
            self.is_inside.set()
            if self._result is not None:
                run.complete(self._result)
                return
            try:
                await asyncio.Event().wait()
            finally:
                if run.is_lost:
                    self.is_lost.set()
                    await asyncio.Event().wait()


async def until(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), LIMIT_SECONDS)


async def ended(task: asyncio.Task[None]) -> asyncio.Task[None]:
    await asyncio.wait((task,), timeout=LIMIT_SECONDS)
    assert task.done()
    return task


async def test_a_cancellation_from_outside_fails_the_job_and_goes_on(
    client: JobStatusClient, service: Service, job_id: str
) -> None:
    """A worker that is stopped says so before it goes, and is cancelled in the end."""
    worker = Worker(client, job_id)
    await until(worker.is_inside)
    worker.task.cancel()
    assert (await ended(worker.task)).cancelled()
    job = await service.job(job_id)
    assert (job.state, job.error.error.code) == (JobState.FAILED, "worker_stopped")


async def test_a_cancellation_from_outside_is_not_taken_for_a_lost_lease(
    client: JobStatusClient, service: Service, job_id: str
) -> None:
    """Both at the same time: the task is cancelled, as whoever cancelled it expects."""
    worker = Worker(client, job_id)
    await until(worker.is_inside)
    await lose_to_an_end(service, job_id)
    await until(worker.is_lost)
    worker.task.cancel()
    assert (await ended(worker.task)).cancelled()


async def test_a_result_is_still_delivered_when_the_worker_is_stopped(
    client: JobStatusClient, service: Service, job_id: str
) -> None:
    """A cancellation that arrives while the result is on its way does not take it back."""
    service.stage.gates["CompleteJob"] = asyncio.Event()
    worker = Worker(client, job_id, result={"text": "x"})
    await service.stage.next_request("CompleteJob")
    worker.task.cancel()
    for _ in range(2):  # until the service would have heard of it
        await service.stage.next_request("HeartbeatJob")
    service.stage.gates["CompleteJob"].set()
    assert (await ended(worker.task)).cancelled()
    assert (await service.job(job_id)).state is JobState.COMPLETED


async def test_a_lease_that_is_lost_while_the_result_is_on_its_way_is_no_cancellation(
    client: JobStatusClient, service: Service, job_id: str
) -> None:
    """The block is over by then: the refusal of the result says what there is to say."""
    service.stage.gates["CompleteJob"] = asyncio.Event()
    worker = Worker(client, job_id, result={"text": "x"})
    await service.stage.next_request("CompleteJob")
    await lose_to_an_end(service, job_id)
    await asyncio.wait((worker.run._beating,), timeout=LIMIT_SECONDS)
    service.stage.gates["CompleteJob"].set()
    assert isinstance((await ended(worker.task)).exception(), errors.LeaseLost)


async def test_a_second_cancellation_ends_the_worker_at_once(
    client: JobStatusClient, service: Service, job_id: str
) -> None:
    """However the service hangs, whoever insists is obeyed."""
    service.stage.gates["FailJob"] = asyncio.Event()
    worker = Worker(client, job_id)
    await until(worker.is_inside)
    worker.task.cancel()
    await service.stage.next_request("FailJob")
    worker.task.cancel()
    async with asyncio.timeout(1):  # less than the time that the first one leaves
        assert (await ended(worker.task)).cancelled()
    service.stage.gates["FailJob"].set()


async def test_heartbeats_go_on_while_the_result_is_on_its_way(
    client: JobStatusClient, service: Service, job_id: str
) -> None:
    """A large result on a slow line must not cost the lease."""
    service.stage.gates["CompleteJob"] = asyncio.Event()
    worker = Worker(client, job_id, result={"text": "x"})
    await service.stage.next_request("CompleteJob")
    await service.stage.next_request("HeartbeatJob")
    service.stage.gates["CompleteJob"].set()
    assert (await ended(worker.task)).exception() is None
