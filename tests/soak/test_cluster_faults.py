"""A cluster loses a primary under load: the service keeps its word, and most of its clients do not even notice."""

from pathlib import Path

from rich.console import Console
from soak.cluster_torture import HEALED_SECONDS, Torture, problems, table_of


async def test_a_primary_that_is_killed_takes_no_acknowledged_write_along(tmp_path: Path) -> None:
    """Polls of other primaries go on; its own are 503, never 404, and soon served again; nothing is lost or undone."""
    report = await Torture(tmp_path, runs=2, writers=20, seed=7, on_run=lambda _: None).run()
    Console().print(table_of(report))
    assert problems(report) == []
    assert len(report.runs) == 2
    for run in report.runs:
        assert run.others_answered > 50
        assert run.own_refused > 0
        assert run.own_answered > 0
        assert run.served_again < HEALED_SECONDS
    counts = report.history.count()
    assert counts["create", "ok"] >= sum(run.jobs for run in report.runs)
    assert counts["complete", "ok"] + counts["fail", "ok"] > 0
    assert counts["create", "unknown"] + counts["complete", "unknown"] + counts["fail", "unknown"] > 0
