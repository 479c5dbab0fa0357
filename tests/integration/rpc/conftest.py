"""The services that the tests of the gRPC contract call."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from harness.rpc import furnish, url_of
from harness.service import Service, service_here


@pytest.fixture(params=["memory", "sqlite"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    """The service with the jobs of `furnish`, on each of the stores that need no server."""
    async with service_here(url_of(request.param, tmp_path)) as running:
        await furnish(running)
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["memory", "sqlite"])
async def furnished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """The same, one for all tests whose calls are refused."""
    async with service_here(url_of(request.param, tmp_path_factory.mktemp("furnished"))) as running:
        await furnish(running)
        yield running


@pytest.fixture
async def empty() -> AsyncIterator[Service]:
    """The service without a job."""
    async with service_here() as running:
        yield running
