"""`jobstatus migrate` as a person runs it."""

import asyncio
import json
import signal
from pathlib import Path

import pytest
from harness.command import run
from harness.service import COMMAND
from harness.stores import STORES
from harness.waiting import until
from jobstatus.stores import open_store
from soak.migrations import fill, poll_all

LIMIT_SECONDS = 60


async def migrate(*arguments: str) -> tuple[int, str, str]:
    """The command's exit code and what it printed on standard output and error."""
    child = await asyncio.create_subprocess_exec(
        *(COMMAND, "migrate", *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(LIMIT_SECONDS):
        output, errors = await child.communicate()
    assert child.returncode is not None
    return child.returncode, output.decode(), errors.decode()


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


async def test_a_run_that_is_interrupted_is_finished_by_the_next(tmp_path: Path) -> None:
    """Ctrl-C in the middle ends the command; what is in the target is whole, and another run brings the rest."""
    source, target = (f"sqlite:///{tmp_path / name}.db" for name in ("from", "to"))
    stored = await fill(source, 20_000, 3)
    child = await asyncio.create_subprocess_exec(COMMAND, "migrate", "--quiet", source, target)
    log = tmp_path / "to.db-wal"
    await until(lambda: log.exists() and log.stat().st_size > 1_000_000)
    child.send_signal(signal.SIGINT)
    async with asyncio.timeout(LIMIT_SECONDS):
        assert await child.wait() == 130
    code, output, _ = await migrate(source, target, "--json")
    report = json.loads(output)
    assert (code, report["copied"] + report["unchanged"]) == (0, len(stored))
    assert report["unchanged"] > 0
    assert await poll_all(target, stored) == await poll_all(source, stored)


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


async def test_a_store_that_goes_away_is_named_as_the_reason(tmp_path: Path) -> None:
    """A target that fails in the middle ends the command with the code for what is unavailable."""
    source, target = f"sqlite:///{tmp_path / 'from.db'}", STORES["sqlite"](tmp_path)
    await fill(source, 20_000, 4)
    async with open_store(target):
        child = await asyncio.create_subprocess_exec(
            *(COMMAND, "migrate", "--quiet", source, target), stderr=asyncio.subprocess.PIPE
        )
        log = tmp_path / "jobs.db-wal"
        await until(lambda: log.exists() and log.stat().st_size > 1_000_000)
        (tmp_path / "jobs.db").rename(tmp_path / "elsewhere.db")
        async with asyncio.timeout(LIMIT_SECONDS):
            _, errors = await child.communicate()
    assert child.returncode == 3
    assert errors.decode() == "jobstatus: The store does not answer; try again later\n"
