"""An edge on a machine whose clock is wrong: it has the service's time, as far as the service tells it."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from google.protobuf.duration_pb2 import Duration
from harness.faults import Clock
from harness.http import request
from harness.jobs import complete, create
from harness.service import Service, edge_here, service_here
from harness.stand_in import stand_in
from harness.tokens import admin_token, bearer, virtual_key_token
from harness.waiting import until
from jobstatus.rpc.messages import timestamp_from_ms
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1 import virtual_keys_pb2 as vk_pb

FIVE_MINUTES = 300


@asynccontextmanager
async def front(ahead_seconds: int) -> AsyncIterator[tuple[Service, Service, Clock]]:
    """A service with a clock that stands still, and an edge whose machine's clock is ahead of it."""
    clock = Clock()
    skewed = Clock(ahead_seconds=ahead_seconds, follow_store=True)
    async with service_here(clock=clock) as service, edge_here(service, clock=skewed) as edge:
        yield service, edge, clock


@pytest.mark.parametrize("ahead_seconds", [FIVE_MINUTES, -FIVE_MINUTES])
async def test_an_edge_answers_as_its_service(ahead_seconds: int) -> None:
    """Jobs expire, and tokens begin and end, at the same time through both."""
    now = int(time.time())
    owner = bearer(virtual_key_token("vk-1", iat=now, nbf=now, exp=now + 30))
    async with front(ahead_seconds) as (service, edge, clock):
        await create(service, "job-1", result_ttl=Duration(seconds=60))
        await complete(service, "job-1")
        for header in (owner, bearer(admin_token())):
            inside, outside = await service.poll("job-1", header), await edge.poll("job-1", header)
            assert (outside.status, outside.body) == (inside.status, inside.body)
            assert outside.status == 200
        clock.move(seconds=61)

        async def is_over() -> bool:
            polls = [await edge.poll("job-1", header) for header in (bearer(admin_token()), owner)]
            return [poll.status for poll in polls] == [404, 401]

        await until(is_over)


async def test_the_difference_is_told() -> None:
    """In the edge's metrics, as in a service's whose store has another clock."""
    async with front(FIVE_MINUTES) as (_, edge, _):
        metrics = (await request(edge.admin_port, "/metrics")).body.decode()
    (line,) = [line for line in metrics.splitlines() if line.startswith("jobstatus_clock_offset_seconds ")]
    assert float(line.split()[1]) == pytest.approx(-FIVE_MINUTES, abs=10)


async def test_a_service_that_tells_no_time_leaves_the_edge_its_own_clock() -> None:
    """As an older one does."""
    clock = Clock(ahead_seconds=FIVE_MINUTES, follow_store=True)
    ended = pb.Job(
        job_id="job-1",
        request_type=pb.REQUEST_TYPE_TRANSCRIPTION,
        virtual_key_id="vk-1",
        state=pb.JOB_STATE_COMPLETED,
        status_code=200,
        result=b"1",
        result_ttl=Duration(seconds=60),
        created_at=timestamp_from_ms(clock.ms),
        started_at=timestamp_from_ms(clock.ms),
        completed_at=timestamp_from_ms(clock.ms),
        expires_at=timestamp_from_ms(clock.ms + 60_000),
    )

    async def batch(_: pb.BatchGetJobsRequest) -> pb.BatchGetJobsResponse:
        return pb.BatchGetJobsResponse(jobs=[ended])

    async def version(_: vk_pb.BatchGetVirtualKeysRequest) -> vk_pb.BatchGetVirtualKeysResponse:
        return vk_pb.BatchGetVirtualKeysResponse(version=1)

    async with (
        service_here() as service,
        stand_in(BatchGetJobs=batch, BatchGetVirtualKeys=version) as address,
        edge_here(service, upstream=address, clock=clock) as edge,
    ):
        assert (await edge.poll("job-1", bearer(admin_token(exp=clock.ms // 1000 + 3000)))).status == 200
        clock.move(seconds=61)
        assert (await edge.poll("job-1", bearer(admin_token(exp=clock.ms // 1000 + 3000)))).status == 404
