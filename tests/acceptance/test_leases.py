"""A worker that dies, or seems to: the client sees a failure, no job hangs, and a late end changes nothing."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from harness.http import Answer
from harness.jobs import create
from harness.service import Process, Service
from harness.tokens import bearer, virtual_key_token
from harness.waiting import LIMIT_SECONDS, until
from jobstatus.v1 import job_status_pb2 as pb

WORKER = Path(__file__).with_name("leased_worker.py")
LEASE_SECONDS, HEARTBEAT_SECONDS = 2, 0.5
LOST_WITHIN_SECONDS = 60.0
POLLER = bearer(virtual_key_token("vk-1"))


class Worker:
    """The worker as a process of its own."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child

    async def says(self, line: str) -> None:
        """Return when it says this; whatever it says before is passed over."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while (said := await self._line()) != line:
                assert said, f"the worker ended before it said: {line}"

    async def ends_with(self, what: str) -> str:
        """What it says of this at last."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while not (said := await self._line()).startswith(what):
                assert said, f"the worker ended without a word of: {what}"
            return said

    async def _line(self) -> str:
        assert self.child.stdout is not None
        return (await self.child.stdout.readline()).decode().strip()

    def tell(self, result: bytes) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(result + b"\n")


@asynccontextmanager
async def working(service: Service, job_id: str, lease_seconds: int = LEASE_SECONDS) -> AsyncIterator[Worker]:
    """A worker that has started the job and been heard once more; gone when the context is left."""
    await create(service, job_id)
    address, pipe = f"127.0.0.1:{service.grpc_port}", asyncio.subprocess.PIPE
    times = (str(lease_seconds), str(HEARTBEAT_SECONDS))
    child = await asyncio.create_subprocess_exec(
        sys.executable, WORKER, address, job_id, *times, stdin=pipe, stdout=pipe
    )
    try:
        worker = Worker(child)
        await worker.says("start OK")
        await worker.says("heartbeat OK")
        yield worker
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """The installed command, on SQLite."""
    async with Process(tmp_path) as process, process.connected() as running:
        yield running


async def lost(service: Service, job_id: str) -> Answer:
    """The first answer that is not a 202."""
    answers: list[Answer] = []

    async def has_ended() -> bool:
        answers.append(await service.poll(job_id, POLLER))
        return answers[-1].status != 202

    await until(has_ended, seconds=LOST_WITHIN_SECONDS)
    return answers[-1]


def assert_worker_lost(answer: Answer) -> None:
    """The client is told, in the contract's words, that the job failed because its worker was lost."""
    document = answer.json
    assert answer.status == 200
    assert (document["status"], document["status_code"]) == ("failed", 504)
    assert document["error"]["status_code"] == 504
    assert (document["error"]["error"]["type"], document["error"]["error"]["code"]) == ("worker_lost", "lease_expired")
    assert "result" not in document


async def test_a_worker_that_lives_keeps_its_job(service: Service) -> None:
    """For longer than the lease, by heartbeats alone, until it completes the job."""
    lease_seconds = 2 * LEASE_SECONDS  # or else a machine that stands still for a moment would lose it
    async with working(service, "job-1", lease_seconds) as worker:
        for _ in range(int(1.5 * lease_seconds / HEARTBEAT_SECONDS)):
            await worker.says("heartbeat OK")
            assert (await service.poll("job-1", POLLER)).status == 202
        worker.tell(b'{"text": "done"}')
        assert await worker.ends_with("complete") == "complete OK"
    assert (await service.poll("job-1", POLLER)).json["result"] == {"text": "done"}


async def test_a_worker_that_is_killed_is_a_failure_that_the_client_sees(service: Service) -> None:
    """After its lease a poll is answered 200 with a failed job that says so."""
    async with working(service, "job-1") as worker:
        worker.child.kill()
        assert_worker_lost(await lost(service, "job-1"))


async def test_a_worker_that_was_only_slow_cannot_change_the_end(service: Service) -> None:
    """Stopped for longer than its lease and continued, it is refused, and the end stays what it was, byte for byte."""
    async with working(service, "job-1") as worker:
        worker.child.send_signal(signal.SIGSTOP)
        before = await lost(service, "job-1")
        assert_worker_lost(before)
        stored = await service.jobs.GetJob(pb.GetJobRequest(job_id="job-1"))
        worker.tell(b'{"text": "late"}')
        worker.child.send_signal(signal.SIGCONT)
        assert await worker.ends_with("complete") in (
            "complete FAILED_PRECONDITION JOB_TERMINAL",
            "complete ABORTED LEASE_LOST",
        )
        assert (await service.poll("job-1", POLLER)).body == before.body
        assert await service.jobs.GetJob(pb.GetJobRequest(job_id="job-1")) == stored
