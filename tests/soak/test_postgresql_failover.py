"""A PostgreSQL primary is restarted, crashes and is replaced under load: the service heals, and keeps its word."""

from pathlib import Path

from rich.console import Console
from soak.postgresql_torture import FAULTS, HEALED_SECONDS, Torture, problems, table_of


async def test_faults_of_the_primary_take_no_acknowledged_write_along(tmp_path: Path) -> None:
    """Polls in the gap are 503 or answered, never 404 or 500; soon all is well; nothing is lost or undone."""
    report = await Torture(tmp_path, faults=[*FAULTS], writers=20, seed=9, on_round=lambda _: None).run()
    Console().print(table_of(report))
    assert problems(report) == []
    assert [one.fault for one in report.rounds] == [*FAULTS]
    for one in report.rounds:
        assert one.polls_answered > 0
        assert one.writes_acknowledged > 0
        assert 0 < max(one.polled_again, one.written_again) < HEALED_SECONDS, "there was no gap"
    counts = report.history.count()
    assert counts["create", "ok"] >= report.jobs
    assert counts["complete", "ok"] + counts["fail", "ok"] > 0
    assert counts["create", "unknown"] + counts["complete", "unknown"] + counts["fail", "unknown"] > 0
