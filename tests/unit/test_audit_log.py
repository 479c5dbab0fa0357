"""The file of the audit log: whole lines, whatever becomes of the file, and a service that goes on without it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from harness.logged import events_logged
from harness.waiting import until
from jobstatus.telemetry.audit import AuditLog

NOON: Final = 1_800_000_000.25


class Losses:
    """Counts the lines that are lost."""

    def __init__(self) -> None:
        self.count = 0

    def lose(self, lines: int) -> None:
        self.count += lines


@contextmanager
def audit_log(path: Path, losses: Losses | None = None, max_lines: int = 100) -> Iterator[AuditLog]:
    on_lost = Losses().lose if losses is None else losses.lose
    with AuditLog(path, clock=lambda: NOON, on_lost=on_lost, max_lines=max_lines) as audit:
        yield audit


def lines_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def numbers_in(path: Path) -> list[int]:
    return [line["number"] for line in lines_in(path)]


def test_a_line_has_the_time_the_action_and_the_facts(tmp_path: Path) -> None:
    """What was there stays; all lines are written by the end; only its owner and group may read the file."""
    path = tmp_path / "audit.log"
    for number in range(2):
        with audit_log(path) as audit:
            audit.record("DeleteJob", job_id="job-1", number=number, text="ü\n")
    timestamp = "2027-01-15T08:00:00.250Z"
    assert lines_in(path) == [
        {"timestamp": timestamp, "action": "DeleteJob", "job_id": "job-1", "number": number, "text": "ü\n"}
        for number in range(2)
    ]
    assert path.stat().st_mode & 0o007 == 0


async def test_a_file_that_is_rotated_is_made_anew(tmp_path: Path) -> None:
    """No signal is needed, whether it was renamed or removed; and one that is emptied is written from its start."""
    path, old = tmp_path / "audit.log", tmp_path / "audit.log.1"
    with audit_log(path) as audit:
        audit.record("A", number=1)
        await until(lambda: numbers_in(path) == [1])
        path.rename(old)
        audit.record("A", number=2)
        await until(lambda: numbers_in(path) == [2])
        path.unlink()
        audit.record("A", number=3)
        await until(lambda: numbers_in(path) == [3])
        os.truncate(path, 0)
        audit.record("A", number=4)
    assert (numbers_in(path), numbers_in(old)) == ([4], [1])


def test_several_processes_append_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with audit_log(path, max_lines=1000) as one, audit_log(path, max_lines=1000) as other:
        for number in range(500):
            one.record("A", number=number, text="x" * 500)
            other.record("B", number=number, text="y" * 500)
    lines = lines_in(path)
    for action in ("A", "B"):
        assert [line["number"] for line in lines if line["action"] == action] == list(range(500))


async def test_a_full_disk_loses_lines_and_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are counted; the log has one line when it begins and one when it is over."""
    path, losses = tmp_path / "audit.log", Losses()
    path.symlink_to("/dev/full")
    with audit_log(path, losses) as audit:
        for number in range(5):
            audit.record("A", number=number)
        await until(lambda: losses.count == 5)
        path.unlink()
        audit.record("A", number=5)
        audit.record("A", number=6)
    assert numbers_in(path) == [5, 6]
    assert events_logged(caplog) == ["audit_log_failed", "audit_log_recovered"]
    assert [vars(record).get("lines") for record in caplog.records] == [None, 5]


async def test_a_reader_who_stalls_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Lines wait for it as far as there is room; the others are counted, and said once."""
    path, losses = tmp_path / "audit.log", Losses()
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    longer_than_a_pipe = "x" * 100_000
    with audit_log(path, losses, max_lines=10) as audit:
        for _ in range(50):
            audit.record("A", text=longer_than_a_pipe)
        lost = losses.count
        assert 30 <= lost < 50
        assert events_logged(caplog) == ["audit_log_failed"]
        with os.fdopen(reader, encoding="utf-8") as lines:
            for _ in range(50 - lost):
                assert json.loads(next(lines))["text"] == longer_than_a_pipe
            await until(lambda: events_logged(caplog) == ["audit_log_failed", "audit_log_recovered"])


@pytest.mark.parametrize("kind", ["no folder", "a folder", "a pipe that nobody reads"])
def test_a_file_that_cannot_be_written_ends_the_start(tmp_path: Path, kind: str) -> None:
    """Before anything is served, with a sentence that names the file and the setting."""
    path = tmp_path / "audit.log"
    if kind == "no folder":
        path = path / "audit.log"
    elif kind == "a folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(OSError, match=r"cannot write the audit log .*/audit.log \(JOBSTATUS_AUDIT_LOG\): \w+"):
        AuditLog(path, clock=lambda: NOON).__enter__()
