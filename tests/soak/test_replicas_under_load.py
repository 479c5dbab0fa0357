"""Several services upon one store are to their clients as one."""

from pathlib import Path

import pytest
from harness.stores import SHARED
from soak.replicas import run


@pytest.mark.parametrize("store", SHARED)
async def test_nobody_reads_what_is_older_than_what_was_acknowledged(store: str, tmp_path: Path) -> None:
    """Whoever was told something by one service is told no less by the other, and all agree how each job ended."""
    report = await run(store, tmp_path, writers=40, jobs=400, seed=5)
    assert report.violations == []
    counts = report.history.count()
    assert counts["create", "ok"] == 400
    assert counts["poll", "ok"] > 100
    assert counts["complete", "refused"] + counts["fail", "refused"] > 100
