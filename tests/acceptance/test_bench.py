"""`make bench`: a report that says what was measured, and a run that leaves nothing behind."""

import asyncio
import json
import os
import signal
import sys
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree as ET

import psutil
import pytest
from harness.waiting import until
from rich.console import Console

from benchmarks.__main__ import STOPPED, write
from benchmarks.compared import BARE, FASTAPI
from benchmarks.figures import CPU, RATE, Collected, Options, Series, ratios, spread
from benchmarks.report import Report, from_json, tables
from benchmarks.servers import ROOT

LIMIT_SECONDS = 120
PNG = b"\x89PNG\r\n\x1a\n"
QUICK = ("--quick", "--only", "polls", "--stores", "sqlite", "--jobs", "200")


@pytest.fixture
def report() -> Report:
    """Two sections, one of which compares nothing."""
    reference = Series("polls", "bare", CPU, "µs", (30.0, 50.0, 40.0))
    series = Series("polls", "SQLite", CPU, "µs", (45.0, 50.0, 50.0), "bare")
    alone = Series("growth", "1,000,000 jobs", "memory", "MB", (123.4,), "not measured")
    return Report({"Python": "3.14"}, {"polls": "Polls", "growth": "Growth"}, (reference, series, alone))


async def started(folder: Path, programs: str = "") -> asyncio.subprocess.Process:
    """The command, on few jobs. `programs` is where it looks for other programs first."""
    pipe = asyncio.subprocess.PIPE
    words = ("-m", "benchmarks", *QUICK, "--out", str(folder))
    path = os.pathsep.join(filter(None, (programs, os.environ["PATH"])))
    return await asyncio.create_subprocess_exec(
        sys.executable, *words, cwd=ROOT, env=os.environ | {"PATH": path}, stdout=pipe, stderr=pipe
    )


def test_ratios_are_taken_round_by_round(report: Report) -> None:
    """Each value is divided by the reference's of the same round; the median of that is not the medians' ratio."""
    reference, series, alone = report.series
    assert spread(report.times(series)) == (1.25, 1.0, 1.5)
    assert spread(series.values).median / spread(reference.values).median == 1.25
    assert report.times(reference) == report.times(alone) == ()
    assert ratios(series, Series("polls", "bare", CPU, "µs", (0.0, 1.0, 1.0))) == ()


def test_rounds_are_gathered_in_order() -> None:
    """By subject and measure, and nothing is compared that makes no sense to compare."""
    collected = Collected("polls")
    for value in (1.0, 2.0):
        collected.add("SQLite", CPU, "µs", value)
        collected.add("SQLite", "busy", "%", value, is_compared=False)
    assert collected.series({"SQLite": "bare"}) == [
        Series("polls", "SQLite", CPU, "µs", (1.0, 2.0), "bare"),
        Series("polls", "SQLite", "busy", "%", (1.0, 2.0)),
    ]


def test_one_round_more_than_asked_warms_up(tmp_path: Path) -> None:
    """Round 0 comes first and is told apart by its number."""
    assert list(Options(folder=tmp_path, rounds=3, stores=()).each_round("asking")) == [0, 1, 2, 3]


def test_report_is_written_for_people_and_programs(report: Report, tmp_path: Path) -> None:
    """The JSON has everything, the pictures are pictures, and the table names each subject with its figures."""
    write(report, tmp_path)
    assert from_json((tmp_path / "report.json").read_text()) == report
    assert json.loads((tmp_path / "report.json").read_text())["series"][1]["times_reference"]["median"] == 1.25
    assert (tmp_path / "report.png").read_bytes().startswith(PNG)
    assert ET.parse(tmp_path / "report.svg").getroot().tag.endswith("svg")
    console = Console(file=StringIO(), width=100)
    console.print(tables(report))
    lines = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]  # a StringIO
    assert ["SQLite", "50.0", "45.0", "50.0", "1.25", "1.00", "1.50"] in lines
    assert ["1,000,000", "jobs", "123", "123", "123"] in lines


async def test_polls_are_measured_beside_both_references(tmp_path: Path) -> None:
    """A whole run on few jobs: each has cost something, answered something, and is compared."""
    child = await started(tmp_path)
    async with asyncio.timeout(LIMIT_SECONDS):
        output, errors = await child.communicate()
    assert (child.returncode, errors) == (0, b""), errors.decode()
    assert b"CPU time a request" in output
    found = from_json((tmp_path / "report.json").read_text())
    assert {"date", "commit", "Python", "load generator of polls", "aiohttp", "SQLite", "Valkey"} <= found.facts.keys()
    for measure in (CPU, RATE):
        named = {series.subject: series for series in found.series if series.measure == measure}
        assert {BARE, FASTAPI, "SQLite"} <= named.keys()
        assert all(series.values[0] > 0 for series in named.values())
        assert found.times(named["SQLite"])


async def test_failure_of_a_section_is_told(tmp_path: Path) -> None:
    """A load generator that does not work is named, with what it said, and the command fails."""
    program = tmp_path / "wrk"
    program.write_text("#!/bin/sh\necho it is too hot today\nexit 3\n")
    program.chmod(0o755)
    child = await started(tmp_path, programs=str(tmp_path))
    async with asyncio.timeout(LIMIT_SECONDS):
        output, errors = await child.communicate()
    assert (child.returncode, errors) == (1, b""), errors.decode()
    assert b"it is too hot today" in output
    assert output.rstrip().endswith(b"failed, see above: polls")
    assert not (tmp_path / "report.json").exists()


async def test_ctrl_c_ends_the_run_and_all_servers(tmp_path: Path) -> None:
    """The exit code says so, and no process is left."""
    child = await started(tmp_path)
    run = psutil.Process(child.pid)
    await until(lambda: len(run.children()) > 2, LIMIT_SECONDS)
    servers = run.children(recursive=True)
    child.send_signal(signal.SIGINT)
    async with asyncio.timeout(LIMIT_SECONDS):
        output, errors = await child.communicate()
    assert (child.returncode, errors) == (STOPPED, b""), errors.decode()
    assert output.rstrip().endswith(b"stopped")
    await until(lambda: not any(server.is_running() for server in servers))
    assert not (tmp_path / "report.json").exists()
