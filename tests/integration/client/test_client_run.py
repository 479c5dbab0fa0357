"""`run_job`: a job is started, kept alive and ended, whatever happens to the block, the worker or the service."""

import asyncio
import math
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import pytest
from harness.staged_service import LIMIT_SECONDS, SHORTEST_LEASE, StagedService
from jobstatus.client import (
    JobCancelled,
    JobError,
    JobRun,
    JobState,
    JobStatusClient,
    JobTerminal,
    RequestType,
    ServiceUnreachable,
)
from jobstatus.client.channel import Metadata
from jobstatus.client.errors import from_operation
from jobstatus.client.run import RunLimits
from jobstatus.core import errors
from jobstatus.core.commands import CancelJob, FailJob, StartJob
from jobstatus.core.job import ErrorField
from jobstatus.rpc.errors import operation_error


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


async def test_a_run_starts_and_completes_the_job(client: JobStatusClient, service: StagedService, job_id: str) -> None:
    """On entering the job is processing with a lease, on leaving it has the block's result."""
    async with client.run_job(job_id, lease=timedelta(seconds=30)) as run:
        job = await service.job(job_id)
        assert (job.state, job.attempt, job.lease_ms) == (JobState.PROCESSING, run.attempt, 30_000)
        assert run.job.worker_id == job.worker_id
        run.complete({"text": "hello"}, status_code=203)
        with pytest.raises(RuntimeError, match="outcome already"):
            run.fail("no")
        with pytest.raises(errors.ResultNotJson):
            run.complete(math.nan)
    job = await service.job(job_id)
    assert (job.state, job.result, job.status_code) == (JobState.COMPLETED, b'{"text":"hello"}', 203)


async def test_a_run_that_says_fail_fails_the_job(client: JobStatusClient, service: StagedService, job_id: str) -> None:
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
    client: JobStatusClient, service: StagedService, job_id: str
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
    client: JobStatusClient, service: StagedService, job_id: str
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
        run.complete({})
    with pytest.raises(RuntimeError, match="once"):
        await run.__aenter__()


async def test_heartbeats_survive_a_service_that_is_away_for_less_than_the_lease(
    client: JobStatusClient, service: StagedService, job_id: str
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


async def test_heartbeats_survive_what_a_caller_adds_to_them(service: StagedService, job_id: str) -> None:
    """A token that cannot be fetched for a moment costs neither the lease nor the work."""
    failures = deque([OSError("no token")] * 2)

    def metadata() -> Metadata:
        task = asyncio.current_task()
        if failures and task is not None and task.get_name().startswith("heartbeat"):
            raise failures.popleft()
        return ()

    async with (
        JobStatusClient(service.target, metadata=metadata) as client,
        client.run_job(job_id, lease=timedelta(seconds=6)) as run,
    ):
        run.report(progress=0.5)
        assert (await service.stage.next_request("HeartbeatJob")).progress == 0.5
        assert not failures
        run.complete({})


async def lose_to_another_worker(service: StagedService, job_id: str) -> None:
    service.now_ms += 60_000
    await service.tracker.apply(StartJob(job_id=job_id, worker_id="another", lease_ms=60_000))


async def lose_to_an_end(service: StagedService, job_id: str) -> None:
    await service.tracker.apply(
        FailJob(job_id=job_id, attempt=1, error=JobError(error=ErrorField(message="by the operator")))
    )


async def lose_to_a_deletion(service: StagedService, job_id: str) -> None:
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
    service: StagedService,
    lose: Callable[[StagedService, str], Awaitable[None]],
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
    service: StagedService,
    lose: Callable[[StagedService, str], Awaitable[None]],
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


async def cancel(service: StagedService, job_id: str) -> None:
    await service.tracker.apply(CancelJob(job_id=job_id))


async def test_a_cancelled_job_stops_the_block(client: JobStatusClient, service: StagedService, job_id: str) -> None:
    """The body is cancelled where it waits; JobCancelled comes out, and the task itself lives on."""
    was_told = asyncio.Event()

    async def body(run: JobRun) -> None:
        await cancel(service, job_id)
        try:
            await for_ever()
        finally:
            if run.is_lost:
                was_told.set()

    with pytest.raises(JobCancelled, match=f"{job_id} was cancelled") as caught:
        await work(client, job_id, body, lease=SHORTEST_LEASE)
    assert was_told.is_set()
    assert caught.value.metadata == {"state": "failed", "code": "cancelled_by_client"}
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert (await service.job(job_id)).status_code == 499


async def test_a_cancelled_job_cannot_be_completed_or_started(
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
    """Leaving the block and entering it anew say why, as a kind of JobTerminal."""

    async def body(run: JobRun) -> None:
        await cancel(service, job_id)
        run.complete({"text": "unwanted"})

    for _ in range(2):
        with pytest.raises(JobTerminal) as caught:
            await work(client, job_id, body)
        assert type(caught.value) is JobCancelled


def test_only_the_code_of_a_cancellation_makes_it_one() -> None:
    """In a batch as in a single call; other failed jobs are JobTerminal."""
    kinds = {
        code: type(from_operation(operation_error(errors.JobTerminal.in_state("failed", code))))
        for code in ("cancelled_by_client", "lease_expired", None)
    }
    assert kinds == {"cancelled_by_client": JobCancelled, "lease_expired": JobTerminal, None: JobTerminal}


async def test_a_last_attempt_whose_lease_has_ended_is_a_lost_lease(
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
    """The service has failed the job by then; the worker hears LeaseLost from JobTerminal."""

    async def body(run: JobRun) -> None:
        service.now_ms += 31_000
        run.complete({})

    with pytest.raises(errors.LeaseLost) as caught:
        await work(client, job_id, body)
    assert isinstance(caught.value.__cause__, errors.JobTerminal)
    assert (await service.job(job_id)).error.error.code == "lease_expired"


async def test_a_lease_that_nobody_confirms_is_lost(service: StagedService) -> None:
    """When no heartbeat is answered for a whole lease another worker may have the job: the block is stopped."""
    service.stage.gates["HeartbeatJob"] = asyncio.Event()

    async def body(_: JobRun) -> None:
        await for_ever()

    async with JobStatusClient(service.target) as client:
        job = await client.create_job(request_type=RequestType.SPEECH, max_attempts=2)
        with pytest.raises(errors.LeaseLost) as caught:
            await work(client, job.job_id, body, lease=SHORTEST_LEASE)
    assert isinstance(caught.value.__cause__, ServiceUnreachable)


async def test_an_exception_fails_the_job_and_goes_on(
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
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
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
    """The exception of the block goes on, with a note of what else went wrong."""

    async def body(_: JobRun) -> None:
        await lose_to_an_end(service, job_id)
        raise ValueError("bad audio")

    with pytest.raises(ValueError, match="bad audio") as caught:
        await work(client, job_id, body)
    assert "outcome stays" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("stop", "note"), [(lose_to_an_end, "has lost the job"), (cancel, "was cancelled")], ids=["lost", "cancelled"]
)
async def test_an_exception_of_a_block_that_is_stopped_goes_on(
    client: JobStatusClient,
    service: StagedService,
    job_id: str,
    stop: Callable[[StagedService, str], Awaitable[None]],
    note: str,
) -> None:
    """Cleaning up may fail by itself: that is what the caller sees, with a note of what stopped the block."""

    async def body(_: JobRun) -> None:
        await stop(service, job_id)
        try:
            await for_ever()
        finally:
            raise ValueError("cleaning up")

    with pytest.raises(ValueError, match="cleaning up") as caught:
        await work(client, job_id, body, lease=SHORTEST_LEASE)
    assert note in caught.value.__notes__[0]


async def test_a_block_without_an_outcome_fails_the_job(
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
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
    client: JobStatusClient, service: StagedService, job_id: str, result: object, refusal: type[Exception]
) -> None:
    """Better a failure that says why than a job that hangs until its lease ends."""
    with pytest.raises(refusal):
        async with client.run_job(job_id) as run:
            run.complete(result)
    job = await service.job(job_id)
    assert (job.state, job.error.error.code) == (JobState.FAILED, refusal.__name__)


async def test_half_a_character_costs_nothing(client: JobStatusClient, service: StagedService, job_id: str) -> None:
    """Text that was cut inside an emoji, in a report, in a result and in its names, is sent with U+FFFD."""
    async with client.run_job(job_id) as run:
        run.report(message="half of it \ud83d")
        assert (await service.stage.next_request("HeartbeatJob")).message == "half of it \ufffd"
        run.complete({"of\udc00it": ["an hour of speech \ud83d"]})
    assert (await service.job(job_id)).result == '{"of\ufffdit":["an hour of speech \ufffd"]}'.encode()


async def test_half_a_character_costs_no_error(client: JobStatusClient, service: StagedService) -> None:
    """Neither a sentence, nor a whole error, nor an exception's text."""

    async def raising(_: JobRun) -> None:
        raise ValueError("\ud83d")

    async def failing(run: JobRun) -> None:
        run.fail(JobError(error=ErrorField(message="\ud83d", param="\udc00"), event_id="\ud800"))

    async def saying(run: JobRun) -> None:
        run.fail("\ud83d")

    for body in (raising, failing, saying):
        job = await client.create_job(request_type=RequestType.SPEECH)
        with suppress(ValueError):
            await work(client, job.job_id, body)
        assert (await service.job(job.job_id)).error.error.message == "\ufffd"


@pytest.mark.parametrize(
    ("result", "refusal"),
    [
        (object(), errors.ResultNotJson),
        ({"a": [math.nan]}, errors.ResultNotJson),
        (b"{", errors.ResultNotJson),
        (["x" * 2000], errors.ResultTooLarge),
    ],
)
async def test_a_result_that_cannot_be_written_leaves_the_attempts(
    client: JobStatusClient, service: StagedService, result: object, refusal: type[Exception]
) -> None:
    """Whether the client or the service finds out: another attempt may do better. The last one fails the job."""
    job_id = (await client.create_job(request_type=RequestType.SPEECH, max_attempts=2)).job_id

    async def body(run: JobRun) -> None:
        run.complete(result)

    with pytest.raises(refusal) as caught:
        await work(client, job_id, body)
    assert "attempts left" in caught.value.__notes__[0]
    job = await service.job(job_id)
    assert (job.state, job.attempt) == (JobState.PROCESSING, 1)
    service.now_ms += 31_000
    with pytest.raises(refusal):
        await work(client, job_id, body)
    job = await service.job(job_id)
    assert (job.state, job.error.error.code) == (JobState.FAILED, refusal.__name__)


class Refused(Exception):
    """Of a worker that has errors of its own."""


async def swallow(run: JobRun) -> None:
    with suppress(errors.ResultNotJson):
        run.complete(math.nan)


async def raise_from(run: JobRun) -> None:
    try:
        run.complete(math.nan)
    except errors.ResultNotJson as error:
        raise Refused from error


async def raise_while_handling(run: JobRun) -> None:
    try:
        run.complete(math.nan)
    except errors.ResultNotJson:
        raise Refused  # noqa: B904 (as many write it)


async def raise_in_a_group(run: JobRun) -> None:
    async def work() -> None:
        run.complete(math.nan)

    async with asyncio.TaskGroup() as group:
        group.create_task(work())


@pytest.mark.parametrize(
    ("body", "raised"),
    [
        (swallow, RuntimeError),
        (raise_from, Refused),
        (raise_while_handling, Refused),
        (raise_in_a_group, ExceptionGroup),
    ],
)
async def test_attempts_are_left_however_the_block_leaves_with_a_refused_result(
    client: JobStatusClient, service: StagedService, body: Callable[[JobRun], Awaitable[None]], raised: type[Exception]
) -> None:
    """The error's traceback shows the refusal, and the last attempt fails the job."""
    job_id = (await client.create_job(request_type=RequestType.SPEECH, max_attempts=2)).job_id
    with pytest.raises(raised) as caught:
        await work(client, job_id, body)
    assert type(caught.value.__cause__) is errors.ResultNotJson or body in (raise_while_handling, raise_in_a_group)
    job = await service.job(job_id)
    assert (job.state, job.attempt) == (JobState.PROCESSING, 1)
    service.now_ms += 31_000
    with pytest.raises(raised):
        await work(client, job_id, body)
    assert (await service.job(job_id)).state is JobState.FAILED


async def test_an_error_that_has_nothing_to_do_with_a_refused_result_fails_the_job(
    client: JobStatusClient, service: StagedService
) -> None:
    """As ever, although the block had such a result and caught its error, or names another cause."""

    async def fall_through(run: JobRun) -> None:
        await swallow(run)
        raise Refused

    async def from_nothing(run: JobRun) -> None:
        try:
            run.complete(math.nan)
        except errors.ResultNotJson:
            raise Refused from None

    for body in (fall_through, from_nothing):
        job_id = (await client.create_job(request_type=RequestType.SPEECH, max_attempts=2)).job_id
        with pytest.raises(Refused):
            await work(client, job_id, body)
        assert (await service.job(job_id)).error.error.code == "Refused"


async def test_a_result_in_place_of_one_that_cannot_be_written_counts(
    client: JobStatusClient, service: StagedService
) -> None:
    """The block may catch the error and end the job otherwise; what it raises later fails the job as ever."""
    job_id = (await client.create_job(request_type=RequestType.SPEECH, max_attempts=2)).job_id

    async def body(run: JobRun) -> None:
        with pytest.raises(errors.ResultNotJson):
            run.complete({"at": {1}})
        run.complete({"at": {1}}, default=sorted)
        raise ValueError("bad audio")

    with pytest.raises(ValueError, match="bad audio"):
        await work(client, job_id, body)
    assert (await service.job(job_id)).error.error.code == "ValueError"


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
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
    """A worker that is stopped says so before it goes, and is cancelled in the end."""
    worker = Worker(client, job_id)
    await until(worker.is_inside)
    worker.task.cancel()
    assert (await ended(worker.task)).cancelled()
    job = await service.job(job_id)
    assert (job.state, job.error.error.code) == (JobState.FAILED, "worker_stopped")


async def test_a_cancellation_from_outside_is_not_taken_for_a_lost_lease(
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
    """Both at the same time: the task is cancelled, as whoever cancelled it expects."""
    worker = Worker(client, job_id)
    await until(worker.is_inside)
    await lose_to_an_end(service, job_id)
    await until(worker.is_lost)
    worker.task.cancel()
    assert (await ended(worker.task)).cancelled()


async def test_a_result_is_still_delivered_when_the_worker_is_stopped(service: StagedService, job_id: str) -> None:
    """A cancellation that arrives while the result is on its way does not take it back."""
    service.stage.gates["CompleteJob"] = asyncio.Event()
    async with JobStatusClient(service.target, run_limits=RunLimits(last_words_seconds=LIMIT_SECONDS)) as client:
        worker = Worker(client, job_id, result={"text": "x"})
        await service.stage.next_request("CompleteJob")
        worker.task.cancel()
        for _ in range(2):  # until the service would have heard of it
            await service.stage.next_request("HeartbeatJob")
        service.stage.gates["CompleteJob"].set()
        assert (await ended(worker.task)).cancelled()
    assert (await service.job(job_id)).state is JobState.COMPLETED


async def test_a_lease_that_is_lost_while_the_result_is_on_its_way_is_no_cancellation(
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
    """The block is over by then: the refusal of the result says what there is to say."""
    service.stage.gates["CompleteJob"] = asyncio.Event()
    worker = Worker(client, job_id, result={"text": "x"})
    await service.stage.next_request("CompleteJob")
    await lose_to_an_end(service, job_id)
    await asyncio.wait((worker.run._beating,), timeout=LIMIT_SECONDS)
    service.stage.gates["CompleteJob"].set()
    assert isinstance((await ended(worker.task)).exception(), errors.LeaseLost)


async def test_a_second_cancellation_ends_the_worker_at_once(service: StagedService, job_id: str) -> None:
    """However the service hangs and however long the first one leaves, whoever insists is obeyed."""
    service.stage.gates["FailJob"] = asyncio.Event()
    limits = RunLimits(last_words_seconds=10 * LIMIT_SECONDS)
    async with JobStatusClient(service.target, timeout=timedelta(hours=1), run_limits=limits) as client:
        worker = Worker(client, job_id)
        await until(worker.is_inside)
        worker.task.cancel()
        await service.stage.next_request("FailJob")
        worker.task.cancel()
        assert (await ended(worker.task)).cancelled()
    service.stage.gates["FailJob"].set()


async def test_heartbeats_go_on_while_the_result_is_on_its_way(
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
    """A large result on a slow line must not cost the lease."""
    service.stage.gates["CompleteJob"] = asyncio.Event()
    worker = Worker(client, job_id, result={"text": "x"})
    await service.stage.next_request("CompleteJob")
    await service.stage.next_request("HeartbeatJob")
    service.stage.gates["CompleteJob"].set()
    assert (await ended(worker.task)).exception() is None
