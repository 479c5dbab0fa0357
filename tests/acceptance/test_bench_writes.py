"""The writes of `make bench`: its client of HTTP/2 can be trusted, and a run says what a write costs and syncs."""

import asyncio
import sys
from pathlib import Path

import pytest
from harness.service import service_here
from jobstatus.v1 import job_status_pb2 as pb

from benchmarks import syncs
from benchmarks.report import from_json
from benchmarks.servers import ROOT
from benchmarks.write_load import BATCH, KINDS, RESULT, call_single, generate, requests_of
from benchmarks.writes import CPU, EMPTY, FOR_EACH_CPU_SECOND, RATE, SYNCS

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


async def test_writes_are_measured_beside_an_empty_handler(tmp_path: Path) -> None:
    """A whole quick run on SQLite: each kind has cost something, is compared, and single writes share their syncs."""
    words = ("-m", "benchmarks", "--quick", "--only", "writes", "--stores", "sqlite", "--out", str(tmp_path))
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, *words, cwd=ROOT, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(LIMIT_SECONDS):
        _, errors = await child.communicate()
    assert (child.returncode, errors) == (0, b""), errors.decode()
    report = from_json((tmp_path / "report.json").read_text())
    found = {(series.measure, series.subject): series for series in report.series}
    for kind in KINDS:
        assert found[CPU, f"{kind}, {EMPTY}"].values[0] > 0
        assert report.times(found[CPU, f"{kind}, SQLite"])
        assert found[RATE, f"{kind}, SQLite"].values[0] > 0
    assert (FOR_EACH_CPU_SECOND, "BatchWrite of CreateJob, SQLite") in found
    if syncs.why_not("sqlite") is None:
        assert 0 < found[SYNCS, "CreateJob, SQLite"].values[0] < 0.5
        assert 0 < found[SYNCS, "BatchWrite of CreateJob, SQLite"].values[0] < 0.02
