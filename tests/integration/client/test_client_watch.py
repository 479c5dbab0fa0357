"""Watches of the client, which outlive the service's absence."""

import asyncio
from datetime import timedelta

import pytest
from harness.staged_service import LIMIT_SECONDS, StagedService
from jobstatus.client import JobState, JobStatusClient
from jobstatus.core import errors


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
    client: JobStatusClient, service: StagedService, job_id: str
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
    client: JobStatusClient, service: StagedService, job_id: str
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
    client: JobStatusClient, service: StagedService, job_id: str
) -> None:
    """An unknown job is said to be one at once, a service that stays away after the patience."""
    with pytest.raises(errors.JobNotFound):
        await anext(client.watch_job("none"))
    service.stage.failures["WatchJob"].extend([errors.ShuttingDown()] * 100)
    with pytest.raises(errors.ShuttingDown):
        await anext(client.watch_job(job_id, patience=timedelta(seconds=0.2)))
