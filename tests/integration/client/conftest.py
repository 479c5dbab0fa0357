"""A staged service and a client of it."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from harness.staged_service import LIMIT_SECONDS, StagedService
from jobstatus.client import JobStatusClient, RequestType


@pytest.fixture
async def service() -> AsyncIterator[StagedService]:
    service = StagedService()
    await service.start()
    yield service
    await service.tracker.close()
    await service.server.stop(0)


@pytest.fixture
async def client(service: StagedService) -> AsyncIterator[JobStatusClient]:
    async with JobStatusClient(service.target, timeout=timedelta(seconds=LIMIT_SECONDS)) as client:
        yield client


@pytest.fixture
async def job_id(client: JobStatusClient) -> str:
    return (await client.create_job(request_type=RequestType.TRANSCRIPTION)).job_id
