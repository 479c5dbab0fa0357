"""`make bench`: a run measures what it says, tells what failed, and leaves nothing behind."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import psutil
from harness.waiting import until

from benchmarks.__main__ import STOPPED
from benchmarks.compared import BARE, FASTAPI
from benchmarks.figures import CPU, RATE
from benchmarks.report import from_json
from benchmarks.servers import ROOT

LIMIT_SECONDS = 120
QUICK = ("--quick", "--only", "polls", "--stores", "sqlite", "--jobs", "200")


async def started(folder: Path, programs: str = "") -> asyncio.subprocess.Process:
    """The command, on few jobs. `programs` is where it looks for other programs first."""
    pipe = asyncio.subprocess.PIPE
    words = ("-m", "benchmarks", *QUICK, "--out", str(folder))
    path = os.pathsep.join(filter(None, (programs, os.environ["PATH"])))
    return await asyncio.create_subprocess_exec(
        sys.executable, *words, cwd=ROOT, env=os.environ | {"PATH": path}, stdout=pipe, stderr=pipe
    )


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


async def test_a_checkout_is_compared_with_another_one(tmp_path: Path) -> None:
    """Here with itself: each row of each build has a figure, and the ratio to the other build's."""
    options = ("--quick", "--jobs", "200", "--out", str(tmp_path))
    words = ("-m", "benchmarks", *options, "--against", str(ROOT), "--rows", "large", "callers", "commands", "starts")
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, *words, cwd=ROOT, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(5 * LIMIT_SECONDS):
        _, errors = await child.communicate()
    assert (child.returncode, errors) == (0, b""), errors.decode()
    found = from_json((tmp_path / "report.json").read_text())
    mine = [series for series in found.series if series.subject.endswith(", this checkout")]
    assert len(found.series) == 2 * len(mine)
    assert all(len(found.times(series)) == 1 for series in mine)
    subjects = " ".join(series.subject for series in mine)
    for expected in ("1 MB", "128 callers", "jobs get", "serve"):
        assert expected in subjects


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
