"""The writes of `make bench`: a run says what a write costs and syncs."""

import asyncio
import sys
from pathlib import Path

from benchmarks import syncs
from benchmarks.report import from_json
from benchmarks.servers import ROOT
from benchmarks.write_load import KINDS
from benchmarks.writes import CPU, EMPTY, FOR_EACH_CPU_SECOND, RATE, SYNCS

LIMIT_SECONDS = 120


async def test_writes_are_measured_beside_an_empty_handler(tmp_path: Path) -> None:
    """A whole quick run on SQLite: each kind has cost something, is compared, and single writes share their syncs."""
    words = ("-m", "benchmarks", "--quick", "--only", "writes", "--stores", "sqlite", "--out", str(tmp_path))
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, *words, cwd=ROOT, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(LIMIT_SECONDS):
        _, errors = await child.communicate()
    assert (child.returncode, errors) == (0, b""), errors.decode()
    report = from_json((tmp_path / "report.json").read_text())
    found = {(series.measure, series.subject): series for series in report.series}
    for kind in KINDS:
        assert found[CPU, f"{kind}, {EMPTY}"].values[0] > 0
        assert report.times(found[CPU, f"{kind}, SQLite"])
        assert found[RATE, f"{kind}, SQLite"].values[0] > 0
    assert (FOR_EACH_CPU_SECOND, "BatchWrite of CreateJob, SQLite") in found
    if syncs.why_not("sqlite") is None:
        assert 0 < found[SYNCS, "CreateJob, SQLite"].values[0] < 0.5
        assert 0 < found[SYNCS, "BatchWrite of CreateJob, SQLite"].values[0] < 0.02
