"""The double of the service: it behaves as the service does, and fails, ends leases and stops when it is told to."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from harness.service import Service
from harness.waiting import until
from jobstatus.client import (
    BlockingJobStatusClient,
    ClientNotAllowed,
    CompleteJob,
    CreateJob,
    HeartbeatJob,
    Job,
    JobNotFound,
    JobState,
    JobStatusClient,
    JobStatusError,
    JobTerminal,
    LeaseLost,
    RequestType,
    ResultTooLarge,
    ServiceUnreachable,
    StartJob,
    StoreUnavailable,
    hash_key,
)
from jobstatus.testing import BlockingServiceDouble, ServiceDouble

HOUR = timedelta(hours=1)
LEASE = timedelta(seconds=30)


@pytest.fixture
async def double() -> AsyncIterator[ServiceDouble]:
    async with ServiceDouble() as service:
        yield service


@pytest.fixture
async def client(double: ServiceDouble) -> AsyncIterator[JobStatusClient]:
    async with JobStatusClient(double.target) as client:
        yield client


@pytest.fixture
async def job_id(client: JobStatusClient) -> str:
    return (await client.create_job(request_type=RequestType.TRANSCRIPTION, max_attempts=2)).job_id


@pytest.fixture
def blocking() -> Iterator[BlockingServiceDouble]:
    with BlockingServiceDouble() as service:
        yield service


def error_code(job: Job) -> str | None:
    assert job.error is not None
    return job.error.error.code


class Script:
    """What a gateway, a worker and an observer do, with all outcomes and none of the times."""

    def __init__(self, client: JobStatusClient) -> None:
        self._client = client
        self.outcomes: list[Any] = []

    async def _note(self, call: Any) -> None:
        try:
            self.outcomes.append(_timeless(await call))
        except JobStatusError as error:
            self.outcomes.append((type(error), error.message, error.metadata))

    async def run(self) -> list[Any]:
        client, note = self._client, self._note
        await note(client.create_job(request_type=RequestType.OCR, job_id="a", virtual_key_id="vk", max_attempts=2))
        await note(client.create_job(request_type=RequestType.SPEECH, job_id="a"))
        await note(client.create_job(request_type=RequestType.SPEECH, job_id="not an id"))
        await note(client.heartbeat_job("a"))
        await note(client.start_job("a", worker_id="w-1", lease=LEASE))
        await note(client.start_job("a", worker_id="w-2", lease=LEASE))
        await note(client.heartbeat_job("a", attempt=1, progress=0.5, message="half"))
        await note(client.heartbeat_job("a", attempt=2))
        await note(client.complete_job("a", b"{", attempt=1))
        await note(client.complete_job("a", b"1" + b" " * 17 * 1024 * 1024, attempt=1))
        await note(client.complete_job("a", b"1" + b" " * 21 * 1024 * 1024, attempt=1))
        await note(client.complete_job("a", {"text": "ä"}, attempt=1))
        await note(client.fail_job("a", "too late", attempt=1))
        await note(client.get_job("a"))
        await note(client.get_jobs(["none", "a"], omit_result=True))
        await note(
            client.batch_write(
                [
                    CreateJob(job_id="b", request_type=RequestType.OCR),
                    StartJob(job_id="b", worker_id="w"),
                    HeartbeatJob(job_id="b", attempt=7),
                    CompleteJob(job_id="c", result=b"1"),
                ]
            )
        )
        await note(client.fail_job("b", "no audio", status_code=422))
        await note(client.wait_for_job("b"))
        await note(client.get_job("none"))
        await note(_all(client.watch_job("a")))
        await note(_all(client.list_jobs(states=[JobState.COMPLETED])))
        await note(client.list_jobs_page(page_token="x"))
        await note(client.put_virtual_key("vk", key_sha256=[hash_key("sk-bf-1")]))
        await note(client.put_virtual_key("other", key_sha256=[hash_key("sk-bf-1")]))
        await note(_all(client.list_virtual_keys()))
        await note(client.delete_virtual_key("none"))
        await note(client.delete_job("a"))
        await note(client.delete_job("a"))
        return self.outcomes


async def _all(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def _timeless(outcome: Any) -> Any:
    match outcome:
        case list():
            return [_timeless(each) for each in outcome]
        case Job():
            return {
                name: value is None if name.endswith("_at_ms") else value for name, value in outcome._asdict().items()
            }
        case JobStatusError():
            return type(outcome), outcome.message, outcome.metadata
        case _ if hasattr(outcome, "created_at_ms"):
            return replace(outcome, created_at_ms=0, updated_at_ms=0)
    return outcome


async def test_a_script_has_the_outcomes_that_it_has_with_the_service(
    service: Service, client: JobStatusClient
) -> None:
    """Jobs, results and errors, with their messages and metadata."""
    async with JobStatusClient(f"127.0.0.1:{service.grpc_port}") as real:
        expected, found = await asyncio.gather(Script(real).run(), Script(client).run())
    assert found == expected


async def test_time_stands_still_until_it_is_moved(double: ServiceDouble, client: JobStatusClient, job_id: str) -> None:
    """Then leases and timeouts end, watches hear of it, and ended jobs expire."""
    watch = client.watch_job(job_id)
    created = await anext(watch)
    started = await client.start_job(job_id, worker_id="w", lease=LEASE)
    assert created.created_at_ms == started.started_at_ms
    assert (await anext(watch)).version == started.version
    await double.advance(LEASE)
    again = await client.start_job(job_id, worker_id="another", lease=LEASE)
    assert (again.attempt, (await anext(watch)).attempt) == (2, 2)
    await double.advance(LEASE)
    failed = await anext(watch)
    assert (failed.state, error_code(failed)) == (JobState.FAILED, "lease_expired")
    await double.advance(2 * HOUR)
    with pytest.raises(JobNotFound):
        await client.get_job(job_id)
    unstarted = await client.create_job(request_type=RequestType.OCR)
    await double.advance(24 * HOUR)
    assert error_code(await client.get_job(unstarted.job_id)) == "never_started"


@pytest.mark.parametrize(("attempts", "cause"), [(2, LeaseLost), (1, JobTerminal)])
async def test_a_worker_can_be_made_to_lose_its_lease(
    double: ServiceDouble, client: JobStatusClient, attempts: int, cause: type[JobStatusError]
) -> None:
    """To another worker, or for good; the run ends as in production."""
    job = await client.create_job(request_type=RequestType.OCR, max_attempts=attempts)

    async def work() -> None:
        async with client.run_job(job.job_id) as run:
            await double.lose_lease(job.job_id)
            run.report(progress=0.5)
            await asyncio.wait_for(asyncio.Event().wait(), 10)

    with pytest.raises(LeaseLost) as caught:
        await work()
    assert type(caught.value.__cause__) is cause
    lost = await client.get_job(job.job_id)
    assert (lost.attempt, lost.state) == ((2, JobState.PROCESSING) if attempts == 2 else (1, JobState.FAILED))
    other = await client.create_job(request_type=RequestType.OCR)
    with pytest.raises(ValueError, match="no lease"):
        await double.lose_lease(other.job_id)


async def test_a_lease_that_has_ended_is_lost_without_another_step(
    double: ServiceDouble, client: JobStatusClient
) -> None:
    """Time never goes back, and each loss is a new attempt, until the last one fails the job."""
    job = await client.create_job(request_type=RequestType.OCR, max_attempts=3)
    await client.start_job(job.job_id, worker_id="w", lease=LEASE)
    await double.advance(HOUR)
    await double.lose_lease(job.job_id)
    later = await client.create_job(request_type=RequestType.OCR)
    assert later.created_at_ms - job.created_at_ms == HOUR // timedelta(milliseconds=1)
    await double.lose_lease(job.job_id)
    assert (await client.get_job(job.job_id)).attempt == 3
    await double.lose_lease(job.job_id)
    assert error_code(await client.get_job(job.job_id)) == "lease_expired"


@pytest.mark.parametrize("attempts", [1, 2])
async def test_a_lease_can_be_lost_after_a_restart(
    double: ServiceDouble, client: JobStatusClient, attempts: int
) -> None:
    """It runs once more in full from the restart on, and time passes until then."""
    job = await client.create_job(request_type=RequestType.OCR, max_attempts=attempts)
    await client.start_job(job.job_id, worker_id="w", lease=LEASE)
    await double.advance(LEASE * 2 / 3)
    await double.stop()
    await double.start()
    await double.lose_lease(job.job_id)
    lost = await client.get_job(job.job_id)
    assert (lost.attempt, lost.state) == ((2, JobState.PROCESSING) if attempts == 2 else (1, JobState.FAILED))


async def test_the_next_calls_fail_as_told(double: ServiceDouble, client: JobStatusClient, job_id: str) -> None:
    """One call for each error: a passing one is met by the client's retries, another one is raised."""
    double.fail_next("CompleteJob", StoreUnavailable(), StoreUnavailable())
    double.fail_next("WatchJob", ClientNotAllowed())
    await client.complete_job(job_id, {})
    assert [code for method, code in double.answered if method == "CompleteJob"] == ["UNAVAILABLE"] * 2 + ["OK"]
    with pytest.raises(ClientNotAllowed):
        await anext(client.watch_job(job_id))
    assert (await anext(client.watch_job(job_id))).state is JobState.COMPLETED
    with pytest.raises(ValueError, match="CompleteJob, CreateJob"):
        double.fail_next("complete_job", StoreUnavailable())
    with pytest.raises(ValueError, match="stop"):
        double.fail_next("CompleteJob", ServiceUnreachable())


async def test_a_restart_keeps_jobs_and_address(double: ServiceDouble, client: JobStatusClient, job_id: str) -> None:
    """Meanwhile nobody answers; afterwards calls and watches go on, and a lease counts anew."""
    watch = client.watch_job(job_id)
    await anext(watch)
    await client.start_job(job_id, worker_id="w", lease=LEASE)
    await double.stop()
    async with JobStatusClient(double.target, retry=False) as hasty:
        with pytest.raises(ServiceUnreachable):
            await hasty.get_job(job_id)
    await double.advance(2 * LEASE)
    with pytest.raises(RuntimeError, match="stopped"):
        await double.stop()
    await double.start()
    with pytest.raises(RuntimeError, match="running"):
        await double.start()
    assert (await anext(watch)).state is JobState.PROCESSING
    assert (await client.complete_job(job_id, {}, attempt=1)).state is JobState.COMPLETED
    assert (await anext(watch)).state is JobState.COMPLETED
    await double.advance(2 * HOUR)
    with pytest.raises(JobNotFound):
        await client.get_job(job_id)


async def test_a_stop_refuses_no_write(double: ServiceDouble) -> None:
    """Clients are told that it goes before its core takes no more, as in a stop of the service."""
    async with JobStatusClient(double.target, retry=False) as client:
        await client.get_jobs(["connected"])
        calls = [asyncio.ensure_future(client.create_job(request_type=RequestType.OCR)) for _ in range(50)]
        await until(lambda: len(double.answered) > 1)
        await double.stop()
        await asyncio.gather(*calls, return_exceptions=True)
    assert ("CreateJob", "UNAVAILABLE") not in double.answered


async def test_a_service_that_is_stopped_can_be_left(double: ServiceDouble) -> None:
    """A test may end while it is down, and a smaller bound of results is kept."""
    async with ServiceDouble(max_result_bytes=4) as service:
        async with JobStatusClient(service.target) as client:
            job = await client.create_job(request_type=RequestType.OCR)
            with pytest.raises(ResultTooLarge):
                await client.complete_job(job.job_id, b"12345")
        await service.stop()
    assert service.target != double.target


def test_the_double_for_threads_does_the_same(blocking: BlockingServiceDouble) -> None:
    """Each of its calls blocks until it is done."""
    with BlockingJobStatusClient(blocking.target) as client:
        job = client.create_job(request_type=RequestType.OCR)
        client.start_job(job.job_id, worker_id="w", lease=LEASE)
        blocking.lose_lease(job.job_id)
        blocking.fail_next("GetJob", StoreUnavailable())
        assert error_code(client.get_job(job.job_id)) == "lease_expired"
        assert blocking.answered[-2:] == [("GetJob", "UNAVAILABLE"), ("GetJob", "OK")]
        blocking.stop()
        blocking.start()
        blocking.advance(2 * HOUR)
        with pytest.raises(JobNotFound):
            client.get_job(job.job_id)


async def test_a_worker_that_hears_of_a_loss_only_by_heartbeat_can_be_waited_for(
    double: ServiceDouble, client: JobStatusClient, job_id: str
) -> None:
    """`answered` tells a test what its worker has sent so far."""
    async with client.run_job(job_id) as run:
        run.report(progress=0.5)
        await until(lambda: ("HeartbeatJob", "OK") in double.answered)
        run.complete({})
    assert double.answered[-1] == ("CompleteJob", "OK")
