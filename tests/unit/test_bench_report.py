"""`make bench`: its report says what was measured."""

import json
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from benchmarks.__main__ import write
from benchmarks.figures import CPU, Collected, Options, Series, ratios, spread
from benchmarks.report import Report, from_json, tables

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
