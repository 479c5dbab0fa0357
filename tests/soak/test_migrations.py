"""A move through all stores, while clients poll."""

from pathlib import Path

from soak.migrations import ROUTE, run

JOBS = 2000


async def test_no_poll_notices_a_move_through_all_stores(tmp_path: Path) -> None:
    """From SQLite to PostgreSQL, to a cluster and back: every poll of every job is answered with the same bytes."""
    before, legs = await run(JOBS, 1, tmp_path, lambda _: None)
    assert len(legs) == len(ROUTE) - 1
    for leg in legs:
        assert (leg.code, leg.report["copied"], leg.report["wrong"], leg.digest) == (0, JOBS, [], before)
