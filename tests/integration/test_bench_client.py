"""The HTTP/2 client of `make bench`: it makes every call, and notices a refusal."""

import asyncio

import pytest
from harness.service import service_here
from jobstatus.v1 import job_status_pb2 as pb

from benchmarks.write_load import BATCH, RESULT, call_single, generate, requests_of

LIMIT_SECONDS = 120


async def test_every_single_write_is_made_and_answered() -> None:
    """As many calls as requests, on several connections, though far more bytes than one window has room for."""
    job_ids = [f"job-{number}" for number in range(1000)]
    async with service_here() as service, asyncio.timeout(LIMIT_SECONDS):
        for kind in ("CreateJob", "CompleteJob"):
            requests = requests_of(kind, job_ids)
            assert len(await call_single(service.grpc_port, kind, requests, 64)) == len(requests)
        found = await service.jobs.BatchGetJobs(pb.BatchGetJobsRequest(job_ids=job_ids))
    assert {(job.state, job.result) for job in found.jobs} == {(pb.JOB_STATE_COMPLETED, RESULT)}
    assert [job.job_id for job in found.jobs] == job_ids


@pytest.mark.parametrize("kind", ["CompleteJob", "BatchWrite of CompleteJob"])
async def test_a_write_that_is_refused_ends_the_round(kind: str) -> None:
    """Nobody takes a refusal for a fast write."""
    requests = requests_of(kind, [f"unknown-{number}" for number in range(BATCH)])
    async with service_here() as service, asyncio.timeout(LIMIT_SECONDS):
        with pytest.raises(RuntimeError, match=r"a call failed|writes were refused"):
            await generate(service.grpc_port, kind, requests, 4)
