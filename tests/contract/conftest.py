"""One suite over every store."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness.stores import STORES, store_in
from jobstatus.core.store import Store
from jobstatus.stores.redis.cluster import connection, durability, node
from jobstatus.stores.redis.cluster import router as commands

PATIENT_SECONDS = 10.0
_LIMITS = (
    (commands, "LIMIT_SECONDS"),
    (connection, "CONNECT_SECONDS"),
    (node, "SILENCE_SECONDS"),
    (node, "HEALTH_CHECK_SECONDS"),
)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """How soon a server counts as gone is for the tests of faults; here it may be slow."""
    for module, name in _LIMITS:
        monkeypatch.setattr(module, name, PATIENT_SECONDS)
    monkeypatch.setattr(durability, "PATIENCE_MS", int(1000 * PATIENT_SECONDS))


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An open, empty store of each kind."""
    async with store_in(request.param, tmp_path) as opened:
        yield opened
