"""The service is killed under load and keeps its word. What judges that has tests of its own in `unit`."""

from pathlib import Path

from rich.console import Console
from soak.torture import Options, Torture, table_of

OPTIONS = Options(writers=40, jobs=400, kills=3, seed=20, limit_seconds=180)


async def test_a_service_that_is_killed_keeps_its_word(tmp_path: Path) -> None:
    """Killed three times under load: one outcome each, all that was acknowledged, nothing by halves, nothing undone."""
    report = await Torture(OPTIONS, tmp_path).run()
    Console().print(table_of(report))
    assert report.violations == []
    assert report.kills >= OPTIONS.kills
    counts = report.history.count()
    assert counts["create", "ok"] >= OPTIONS.jobs
    assert counts["complete", "ok"] + counts["fail", "ok"] >= OPTIONS.jobs
    assert counts["complete", "refused"] + counts["fail", "refused"] > 0
    assert sum(counts[kind, "unknown"] for kind, _ in counts) > 0
