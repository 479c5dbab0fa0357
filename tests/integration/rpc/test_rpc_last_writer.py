"""Who wrote a job last, and which trace submitted it: what a call carries besides its message is kept with the job."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from harness.certificates import Authorities
from harness.jobs import cancellation, completion, creation, failure, heartbeat, starting
from harness.service import service_here
from harness.wire import refused
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub

TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"
OTHER = f"00-{'c' * 32}-{'d' * 16}-00"


@asynccontextmanager
async def stub(port: int, credentials: grpc.ChannelCredentials) -> AsyncIterator[JobStatusStub]:
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        yield JobStatusStub(channel)


async def last_writer(jobs: JobStatusStub, job_id: str = "job-1") -> str | None:
    job = (await jobs.GetJob(pb.GetJobRequest(job_id=job_id))).job
    return job.last_writer if job.HasField("last_writer") else None


async def test_the_last_writer_is_the_name_in_the_clients_certificate(tmp_path: Path) -> None:
    """Of the client whose call changed the job, not of one that was refused, changed nothing or only read."""
    authorities = Authorities()
    async with (
        service_here(**authorities.settings(tmp_path)) as service,
        stub(service.grpc_port, authorities.client("gateway.test")) as gateway,
        stub(service.grpc_port, authorities.client("worker.test", "gpu.test")) as worker,
    ):
        created = (await gateway.CreateJob(creation("job-1"))).job
        assert created.last_writer == "gateway.test"
        assert await last_writer(worker) == "gateway.test"
        await refused(worker.HeartbeatJob(heartbeat("job-1")))
        assert await last_writer(worker) == "gateway.test"
        assert (await worker.StartJob(starting("job-1"))).job.last_writer == "gpu.test, worker.test"
        assert (await gateway.CreateJob(creation("job-1"))).job.last_writer == "gpu.test, worker.test"
        await worker.CompleteJob(completion("job-1"))
        await refused(gateway.CancelJob(cancellation("job-1")))
        assert await last_writer(gateway) == "gpu.test, worker.test"
        await gateway.CreateJob(creation("job-2"))
        operations = [
            pb.Operation(create_job=creation("job-3")),
            pb.Operation(fail_job=failure("job-2")),
        ]
        await worker.BatchWrite(pb.BatchWriteRequest(operation=operations))
        assert [await last_writer(gateway, name) for name in ("job-2", "job-3")] == ["gpu.test, worker.test"] * 2
        listed = (await gateway.ListJobs(pb.ListJobsRequest())).jobs
        assert len(listed) == 3


async def test_calls_at_the_same_time_have_their_own_writers(tmp_path: Path) -> None:
    """They are in one batch, whose commit is one."""
    authorities = Authorities()
    async with (
        service_here(**authorities.settings(tmp_path)) as service,
        stub(service.grpc_port, authorities.client("one.test")) as one,
        stub(service.grpc_port, authorities.client("two.test")) as two,
    ):
        clients = {"one": one, "two": two}
        ids = [(name, f"{name}-{number}") for number in range(20) for name in clients]
        await asyncio.gather(*(clients[name].CreateJob(creation(job_id)) for name, job_id in ids))
        for name, job_id in ids:
            assert await last_writer(one, job_id) == f"{name}.test"


async def test_without_tls_there_is_no_last_writer() -> None:
    async with service_here() as service:
        await service.jobs.CreateJob(creation("job-1"))
        assert await last_writer(service.jobs) is None


@pytest.mark.parametrize(
    ("metadata", "field", "kept"),
    [
        ((("traceparent", TRACEPARENT),), None, TRACEPARENT),
        ((), TRACEPARENT, TRACEPARENT),
        ((("traceparent", TRACEPARENT),), OTHER, OTHER),
        ((("traceparent", "00-zz"),), None, ""),
        ((("traceparent", "x" * 5000),), None, ""),
        ((("traceparent", TRACEPARENT),), "not one", ""),
        ((), None, ""),
    ],
)
async def test_the_traceparent_of_the_submission_is_kept(
    metadata: tuple[tuple[str, str], ...], field: str | None, kept: str
) -> None:
    """From the request, else from the call; what is not one is ignored. Later calls change nothing about it."""
    later = (("traceparent", OTHER),)
    async with service_here() as service:
        await service.jobs.CreateJob(creation("job-1", traceparent=field), metadata=metadata)
        operation = pb.Operation(create_job=creation("job-2", traceparent=field))
        await service.jobs.BatchWrite(pb.BatchWriteRequest(operation=[operation]), metadata=metadata)
        for name in ("job-1", "job-2"):
            await service.jobs.StartJob(starting(name), metadata=later)
            ended = (await service.jobs.CompleteJob(completion(name, attempt=1), metadata=later)).job
            assert (ended.traceparent, ended.HasField("traceparent")) == (kept, bool(kept))
