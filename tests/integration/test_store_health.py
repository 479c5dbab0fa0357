"""What balancers and probes are told while the store is full, takes no writes, or is away."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from harness.faults import MeddledStore
from harness.http import request
from harness.jobs import create
from harness.service import Service, service_here
from harness.tokens import admin_token, bearer
from harness.waiting import until
from harness.wire import channel_to
from jobstatus.core.errors import JobStatusError, StoreFull, StoreUnavailable

WRITES = ("probe", "commit", "purge")
WELL = (200, {"status": "ready"}, ["SERVING", "SERVING", "SERVING"])


@pytest.fixture
def store() -> MeddledStore:
    return MeddledStore()


@pytest.fixture
async def service(store: MeddledStore) -> AsyncIterator[Service]:
    async with service_here(store) as running:
        yield running


async def told(service: Service) -> tuple[int, Any, list[str]]:
    """Status and body of readiness, and what gRPC's health says of all, of writes and of virtual keys."""
    ready = await request(service.admin_port, "/readyz")
    async with channel_to(service.grpc_port) as channel:
        health: Any = HealthStub(channel)
        names = ("", "jobstatus.v1.JobStatus", "jobstatus.v1.VirtualKeys")
        checks = [await health.Check(health_pb2.HealthCheckRequest(service=name)) for name in names]
    statuses = [health_pb2.HealthCheckResponse.ServingStatus.Name(check.status) for check in checks]
    return ready.status, ready.json, statuses


@pytest.mark.parametrize(
    ("failure", "reason"), [(StoreFull(), "store_full"), (StoreUnavailable(), "store_takes_no_writes")]
)
async def test_a_store_without_writes_still_serves_polls(
    store: MeddledStore, service: Service, failure: JobStatusError, reason: str
) -> None:
    """Balancers of polls keep the replica, those of writes look elsewhere; both come back."""
    await create(service, "job-1")
    for name in WRITES:
        store.failures[name] = failure
    degraded = (200, {"status": "degraded", "reason": reason}, ["SERVING", "NOT_SERVING", "SERVING"])

    async def is_degraded() -> bool:
        return await told(service) == degraded

    async def is_well() -> bool:
        return await told(service) == WELL

    await until(is_degraded)
    assert (await service.poll("job-1", bearer(admin_token()))).status == 202
    store.failures.clear()
    await until(is_well)


async def test_a_store_that_is_away_takes_the_replica_out(store: MeddledStore, service: Service) -> None:
    """Whoever still reaches it gets a 503 in the contract's form; it lives, and has started."""
    await create(service, "job-1")
    store.fail_all(StoreUnavailable())

    async def is_out() -> bool:
        return await told(service) == (503, {"status": "store_unavailable"}, ["NOT_SERVING"] * 3)

    await until(is_out)
    poll = await service.poll("job-1", bearer(admin_token()))
    assert (poll.status, poll.json["error"]["code"]) == (503, "store_unavailable")
    for path, status in (("/livez", "ok"), ("/healthz", "ok"), ("/startupz", "started")):
        answer = await request(service.admin_port, path)
        assert (answer.status, answer.json) == (200, {"status": status})
