"""A service whose process stands still for longer than leases last, as by SIGSTOP or on a frozen machine."""

import logging

import pytest
from google.protobuf.duration_pb2 import Duration
from harness.faults import Clock
from harness.http import request
from harness.jobs import create, start
from harness.rpc import get
from harness.service import Service, service_here
from harness.waiting import until
from jobstatus.v1 import job_status_pb2 as pb

LEASE_SECONDS = 5


async def sweeps(service: Service) -> float:
    """How often jobs were looked for whose lease has ended."""
    metrics = (await request(service.admin_port, "/metrics")).body.decode()
    lines = [line for line in metrics.splitlines() if line.startswith('jobstatus_store_seconds_count{operation="due"}')]
    return float(lines[0].split()[1]) if lines else 0.0


async def swept_twice(service: Service) -> None:
    """Return when a sweep has begun and ended."""
    before = await sweeps(service)

    async def are_over() -> bool:
        return await sweeps(service) >= before + 2

    await until(are_over)


async def test_no_lease_ends_in_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody could be heard, so each lease runs once more in full; after that a worker that is silent is lost."""
    caplog.set_level(logging.WARNING)
    clock = Clock()
    async with service_here(clock=clock, sweep_interval_seconds=0.1) as service:
        for name in ("lives", "dies"):
            await create(service, name)
            await start(service, name, lease=Duration(seconds=LEASE_SECONDS))
        clock.pause(12)
        await swept_twice(service)
        await service.jobs.HeartbeatJob(pb.HeartbeatJobRequest(job_id="lives", attempt=1))
        clock.move(seconds=LEASE_SECONDS - 1)
        await swept_twice(service)
        assert [(await get(service, name)).state for name in ("lives", "dies")] == [pb.JOB_STATE_PROCESSING] * 2
        await service.jobs.HeartbeatJob(pb.HeartbeatJobRequest(job_id="lives", attempt=1))
        clock.move(seconds=1)

        async def is_lost() -> bool:
            return (await get(service, "dies")).state == pb.JOB_STATE_FAILED

        await until(is_lost)
        assert (await get(service, "lives")).state == pb.JOB_STATE_PROCESSING
    assert [vars(record)["event"] for record in caplog.records] == ["process_paused"]
