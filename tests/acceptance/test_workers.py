"""`jobstatus serve --workers N`: several processes that serve as one."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import grpc
import psutil
import pytest
from harness.http import request
from harness.jobs import complete, completion, create, creation, next_job
from harness.service import START_SECONDS, Process, Service
from harness.tokens import bearer, virtual_key_token
from harness.waiting import until
from harness.workers import HANGING_SECONDS, WORKERS, children_of, log_of, suspended
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub

OWNER: Final = bearer(virtual_key_token("vk-1"))
HEARING_SECONDS: Final = 60.0
"""A watch hears of another child's change within a quarter of a second; here it may take longer on a busy machine."""
OWN_CHANNEL: Final = (("grpc.use_local_subchannel_pool", 1),)
MANY: Final = 16
"""So many connections do not all land on the same child: the chance is 1 in 32,768."""


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    """Two children and their supervisor."""
    async with Process(tmp_path, WORKERS=str(WORKERS)) as running:
        yield running


@pytest.fixture
async def service(process: Process) -> AsyncIterator[Service]:
    async with process.connected() as connected:
        yield connected


async def figure(service: Service, name: str) -> float:
    """The sum of all samples of this name in the service's metrics."""
    lines = (await request(service.admin_port, "/metrics")).body.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


async def test_connections_are_spread_and_all_see_the_same(process: Process, service: Service) -> None:
    """What one child has acknowledged every other shows at once, on whichever of many connections it is asked."""
    held: dict[int, int] = {}
    async with asyncio.timeout(60):
        for number in range(MANY):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{service.grpc_port}", options=OWN_CHANNEL) as channel:
                await JobStatusStub(channel).CreateJob(creation(f"job-{number}"))
                for child in children_of(process):
                    here = [one for one in child.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]
                    held[child.pid] = held.get(child.pid, 0) + sum(one.laddr.port == service.grpc_port for one in here)
            for _ in range(4):
                assert (await service.poll(f"job-{number}", OWNER)).status == 202
    assert len(held) == WORKERS
    assert all(held.values()), held


async def test_a_watch_of_one_child_hears_of_what_another_wrote(service: Service) -> None:
    """Streams on many connections all end with the change that was made through one of them."""
    await create(service, "job-1")
    address = f"127.0.0.1:{service.grpc_port}"
    channels = [grpc.aio.insecure_channel(address, options=OWN_CHANNEL) for _ in range(MANY)]
    try:
        streams = [JobStatusStub(channel).WatchJob(pb.WatchJobRequest(job_id="job-1")) for channel in channels]
        for stream in streams:
            assert (await next_job(stream)).state == pb.JOB_STATE_PENDING
        await complete(service, "job-1")
        async with asyncio.timeout(HEARING_SECONDS):
            ends = [(await next_job(stream)).state for stream in streams]
        assert ends == [pb.JOB_STATE_COMPLETED] * MANY
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def test_a_child_that_dies_is_replaced_and_nothing_is_lost(process: Process, service: Service) -> None:
    """The other goes on, the log and the metrics say what happened, and what was acknowledged is there."""
    written: list[str] = []
    stop = asyncio.Event()

    async def write(number: int) -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{service.grpc_port}", options=OWN_CHANNEL) as channel:
            stub = JobStatusStub(channel)
            for count in range(100_000):
                if stop.is_set():
                    return
                job_id = f"job-{number}-{count}"
                try:
                    await stub.CreateJob(creation(job_id), timeout=30, wait_for_ready=True)
                    await stub.CompleteJob(completion(job_id), timeout=30, wait_for_ready=True)
                except grpc.aio.AioRpcError as error:
                    assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)  # noqa: PT017  # a child was killed
                    continue
                written.append(job_id)

    writers = [asyncio.create_task(write(number)) for number in range(8)]
    await until(lambda: len(written) > 50)
    victim = children_of(process)[0]
    victim.kill()
    await until(lambda: [line["ended"] for line in log_of(process, "child_exited")] == ["SIGKILL"])
    await until(lambda: len(log_of(process, "child_replaced")) == 1, START_SECONDS)
    already = len(written)
    await until(lambda: len(written) > already + 50)
    stop.set()
    await asyncio.gather(*writers)
    assert len(children_of(process)) == WORKERS
    assert victim.pid not in {child.pid for child in children_of(process)}
    assert await figure(service, "jobstatus_worker_restarts_total") == 1
    assert await figure(service, "jobstatus_workers") == WORKERS
    for first in range(0, len(written), 100):
        part = written[first : first + 100]
        answers = await asyncio.gather(*(service.poll(job_id, OWNER) for job_id in part))
        assert {answer.status for answer in answers} == {200}


async def test_metrics_are_one_set(process: Process, service: Service) -> None:
    """Every poll is counted once, whichever child answered it, and stays counted when that one dies."""
    await create(service, "job-1")
    name = 'jobstatus_http_request_seconds_count{code="202",route="transcription"}'
    for _ in range(40):
        assert (await service.poll("job-1", OWNER)).status == 202
    assert await figure(service, name) == 40
    children_of(process)[0].kill()
    await until(lambda: len(log_of(process, "child_replaced")) == 1)
    assert await figure(service, name) == 40
    assert (await service.poll("job-1", OWNER)).status == 202
    assert await figure(service, name) == 41


async def test_the_service_is_ready_while_a_child_is(process: Process, service: Service) -> None:
    """Readiness is that of the children."""
    answer = await request(service.admin_port, "/readyz")
    assert (answer.status, answer.json) == (200, {"status": "ready"})
    assert (await request(service.admin_port, "/healthz")).status == 200
    with suspended(children_of(process)[0]):
        answer = await request(service.admin_port, "/readyz")
        assert (answer.status, answer.json) == (503, {"status": "worker_silent"})
        assert await figure(service, "jobstatus_health") == 2
    assert (await request(service.admin_port, "/readyz")).status == 200


async def test_a_child_that_hangs_is_replaced(process: Process, service: Service) -> None:
    """It would take its share of the connections and answer none of them."""
    with suspended(children_of(process)[0]):
        await until(lambda: len(log_of(process, "child_replaced")) == 1, HANGING_SECONDS)
    assert len(log_of(process, "child_hung")) == 1
    assert [line["ended"] for line in log_of(process, "child_exited")] == ["SIGKILL"]
    assert (await request(service.admin_port, "/readyz")).status == 200
