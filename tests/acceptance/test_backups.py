"""The backups that the operators' document names end under load, and restore what was acknowledged before."""

import asyncio
import re
import shlex
import sys
from pathlib import Path
from typing import Final

import apsw
from harness.http import Answer
from harness.jobs import complete, completion, create, creation
from harness.rpc import in_batch
from harness.service import Service, service_here
from harness.tokens import admin_token, bearer

DOCUMENT: Final = (Path(__file__).parents[2] / "docs/operators.md").read_text(encoding="utf-8")
COMMANDS: Final = re.findall(r"(?m)^\$ ((?:python|sqlite3) .*'backup\.db'.*)$", DOCUMENT)
JOBS: Final = 500
RESULT: Final = b'"%s"' % (20_000 * b"x")


async def fill(service: Service) -> None:
    """Make a file of some 10 MB."""
    for first in range(0, JOBS, 100):
        job_ids = [f"job-{number}" for number in range(first, first + 100)]
        await in_batch(service, *map(creation, job_ids), *(completion(job_id, RESULT) for job_id in job_ids))


async def write_on(service: Service) -> None:
    """Commit again and again until this is cancelled."""
    for number in range(1_000_000):
        await create(service, f"late-{number}")


async def poll(service: Service, job_id: str) -> Answer:
    return await service.poll(job_id, bearer(admin_token()))


def test_all_documented_backups_are_the_same_statement() -> None:
    """So that it is enough to run the one that needs nothing but the service's own environment."""
    programs = {words[0]: words[-1] for words in map(shlex.split, COMMANDS)}
    assert programs == dict.fromkeys(("python", "sqlite3"), "VACUUM INTO 'backup.db'")


async def test_a_backup_under_load_ends_and_restores(tmp_path: Path) -> None:
    """While writes go on it has all that was acknowledged before it began, and a service starts with it."""
    (command,) = [words for words in map(shlex.split, COMMANDS) if words[0] == "python"]
    live = tmp_path / "var/jobstatus.db"
    async with service_here(f"sqlite:///{live}") as service:
        await fill(service)
        await create(service, "before")
        await complete(service, "before")
        load = asyncio.create_task(write_on(service))
        backup = await asyncio.create_subprocess_exec(sys.executable, *command[1:], cwd=tmp_path)
        async with asyncio.timeout(60):
            assert await backup.wait() == 0
        assert not load.done(), "writes went on meanwhile"
        load.cancel()
    copy = tmp_path / "backup.db"
    with apsw.Connection(str(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").get == "ok"
    async with service_here(f"sqlite:///{copy}") as restored:
        assert (await poll(restored, "before")).status == 200
        assert RESULT in (await poll(restored, f"job-{JOBS - 1}")).body
