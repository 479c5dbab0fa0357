"""One suite over every store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness.stores import STORES, store_in
from jobstatus.core.store import Store


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An open, empty store of each kind."""
    async with store_in(request.param, tmp_path) as opened:
        yield opened
