"""`jobstatus migrate` as a person runs it."""

import asyncio
import json
import os
import select
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest
from harness import forking
from harness.command import BARE, run
from harness.stores import STORES
from harness.waiting import until
from jobstatus.core.migration import MigrationLimits
from jobstatus.stores import open_store
from soak.migrations import fill, poll_all

LIMIT_SECONDS = 60
PAGE = MigrationLimits().page


async def migrate(*arguments: str) -> tuple[int, str, str]:
    """The command's exit code and what it printed on standard output and error."""
    ended = await forking.run("migrate", *arguments, env=BARE, cwd=Path.cwd())
    return ended.code, ended.out, ended.err


async def start_migrating(source: str, target: str, output: "UnreadPipe") -> forking.Forked:
    pipe = output.writing
    return await forking.start("migrate", source, target, env=BARE, cwd=Path.cwd(), stdout=pipe, stderr=pipe)


async def test_a_person_is_told_what_was_copied(tmp_path: Path) -> None:
    """Progress on standard error, unless it is not wanted, and one line on standard output."""
    source, target = (f"sqlite:///{tmp_path / name}.db" for name in ("from", "to"))
    await fill(source, 2500, 2)
    code, output, progress = await migrate(source, target)
    assert (code, progress.splitlines()[-1]) == (0, "2500 of 2500 jobs")
    assert output.startswith("2500 jobs in ")
    assert "2500 copied, 0 brought up to date, 0 there already, 0 newer in the target; 0 virtual keys" in output
    code, output, progress = await migrate(source, target, "--quiet")
    assert (code, progress) == (0, "")
    assert "0 copied, 0 brought up to date, 2500 there already" in output
    code, output, _ = await migrate(source, target, "--json")
    assert json.loads(output)["unchanged"] == 2500


class UnreadPipe:
    """A pipe for a command's output that is full, so that the command stops where it says how far it has come."""

    def __init__(self) -> None:
        reading, writing = os.pipe()
        self.reading, self.writing = os.fdopen(reading, "rb"), os.fdopen(writing, "wb", 0)
        os.set_blocking(writing, False)
        while self.writing.write(bytes(select.PIPE_BUF)):
            pass
        os.set_blocking(writing, True)

    async def read(self) -> str:
        """What the command writes, from now until it ends."""
        self.writing.close()
        with self.reading:
            return (await asyncio.to_thread(self.reading.read)).strip(b"\0").decode()


def jobs_in(path: Path) -> int:
    """How many jobs are committed in this file."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as file:
        return int(file.execute("SELECT count(*) FROM jobs").fetchone()[0])
    return 0


async def test_a_run_that_is_interrupted_is_finished_by_the_next(tmp_path: Path) -> None:
    """Ctrl-C in the middle ends the command; what is in the target is whole, and another run brings the rest."""
    source, target = (f"sqlite:///{tmp_path / name}.db" for name in ("from", "to"))
    stored = await fill(source, 2 * PAGE + 1, 3)
    output = UnreadPipe()
    child = await start_migrating(source, target, output)
    await until(lambda: jobs_in(tmp_path / "to.db") == PAGE)
    child.send_signal(signal.SIGINT)
    await output.read()
    async with asyncio.timeout(LIMIT_SECONDS):
        assert await child.wait() == 130
    code, printed, _ = await migrate(source, target, "--json")
    report = json.loads(printed)
    assert (code, report["copied"] + report["unchanged"]) == (0, len(stored))
    assert report["unchanged"] > 0
    assert await poll_all(target, stored) == await poll_all(source, stored)


async def test_a_store_that_goes_away_is_named_as_the_reason(tmp_path: Path) -> None:
    """A target that fails in the middle ends the command with the code for what is unavailable."""
    source, target = f"sqlite:///{tmp_path / 'from.db'}", STORES["sqlite"](tmp_path)
    await fill(source, 2 * PAGE + 1, 4)
    output = UnreadPipe()
    async with open_store(target):
        child = await start_migrating(source, target, output)
        await until(lambda: jobs_in(tmp_path / "jobs.db") == PAGE)
        (tmp_path / "jobs.db").rename(tmp_path / "elsewhere.db")
        said = await output.read()
        async with asyncio.timeout(LIMIT_SECONDS):
            assert await child.wait() == 3
    assert said.splitlines()[-1] == "jobstatus: The store does not answer; try again later"


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("sqlite:///a.db", "sqlite:///a.db", "the same store"),
        ("sqlite:///misspelt.db", "memory://", "there is no file misspelt.db"),
        ("sqlite:///a.db", "mysql://somebody:secret@host/db", "must be one of"),
        ("sqlite:///a.db", "postgresql://somebody:secret@127.0.0.1:1/db", "PostgreSQL"),
        ("redis://somebody:secret@127.0.0.1:1", "sqlite:///a.db", "127.0.0.1"),
    ],
)
def test_what_cannot_be_copied_is_one_sentence(tmp_path: Path, source: str, target: str, said: str) -> None:
    """Wrong usage ends with code 2, names what is wrong, and repeats no password."""
    asyncio.run(fill(f"sqlite:///{tmp_path / 'a.db'}", 1, 5))
    ended = run("migrate", source, target, cwd=tmp_path)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err.splitlines()[-1]
    assert "secret" not in ended.err
