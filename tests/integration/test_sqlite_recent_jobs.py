"""Jobs under way are read from memory, and exactly as the file has them, whichever process wrote last."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import apsw
import pytest
from harness.sqlite_files import hooked, opened
from harness.stores import change, deletion, job
from jobstatus.core.job import Job, JobState
from jobstatus.core.store import Change
from jobstatus.stores.sqlite import SQLiteJobStore
from jobstatus.stores.sqlite.limits import SQLiteLimits

IDS = [f"job-{number}" for number in range(6)]


@pytest.fixture
def reads() -> Iterator[list[str]]:
    """The statements that read jobs from a file."""
    statements: list[str] = []

    def trace(_: apsw.Cursor, statement: str, __: object) -> bool:
        if statement.lstrip().startswith("SELECT job_id"):
            statements.append(statement)
        return True

    def watch(connection: apsw.Connection) -> None:
        connection.exec_trace = trace

    with hooked(watch):
        yield statements


async def test_a_job_under_way_is_not_read_from_the_file(tmp_path: Path, reads: list[str]) -> None:
    """An ended one is."""
    async with opened(tmp_path / "jobs.db") as (store, _):
        assert await store.read_jobs(["job-1"], with_results=False) == [None]
        reads.clear()
        for version in range(1, 4):
            await store.commit([change(job(version=version), replaces=version - 1)])
            assert await store.read_jobs(["job-1"], with_results=False) == [job(version=version)]
        assert not reads
        ended = job(version=4, state=JobState.COMPLETED, result=b"1")
        await store.commit([change(ended, replaces=3)])
        assert await store.read_jobs(["job-1"], with_results=True) == [ended]
        assert reads


async def test_no_more_jobs_are_kept_than_the_limit(tmp_path: Path, reads: list[str]) -> None:
    async with opened(tmp_path / "jobs.db", limits=SQLiteLimits(max_recent_jobs=2)) as (store, _):
        await store.read_jobs(["job-1"], with_results=False)
        for job_id in IDS:
            await store.commit([change(job(job_id))])
        reads.clear()
        assert await store.read_jobs(IDS, with_results=False) == list(map(job, IDS))
        assert len(reads) >= len(IDS) - 2


async def test_a_write_whose_caller_went_away_is_read_as_it_was_committed(tmp_path: Path) -> None:
    """Or as it was, where the writing thread had not begun."""
    path = tmp_path / "jobs.db"
    async with opened(path) as (store, _), SQLiteJobStore(str(path)) as other:
        await store.commit([change(job())])
        await store.read_jobs(["job-1"], with_results=False)
        await store.commit([change(job(version=2), replaces=1)])
        writing = asyncio.create_task(store.commit([change(job(version=3), replaces=2)]))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
        await store.commit([change(job("job-2"))])  # after it, on the same thread
        committed = await other.read_jobs(["job-1"], with_results=False)
        assert committed in ([job(version=2)], [job(version=3)])
        assert await store.read_jobs(["job-1"], with_results=False) == committed


@pytest.mark.parametrize("seed", range(4))
async def test_each_of_several_stores_reads_what_was_committed_last(tmp_path: Path, seed: int) -> None:
    """Jobs are created, changed, ended, deleted and created again by three stores, also by changes that come late."""
    chance, stored = random.Random(seed), dict[str, Job]()
    async with AsyncExitStack() as stack:
        path = str(tmp_path / "jobs.db")
        stores = [await stack.enter_async_context(SQLiteJobStore(path)) for _ in range(3)]
        for step in range(250):
            store = chance.choice(stores[: chance.choice((1, 1, 3))])
            changes = [_change(chance, job_id, stored, step) for job_id in chance.sample(IDS, chance.randint(1, 3))]
            fitting = [each for each in changes if each.replaces == _version(stored.get(each.job_id))]
            lost = await store.commit(changes)
            assert set(lost) == {each.job_id for each in changes} - {each.job_id for each in fitting}
            for each in fitting:
                if each.job is None:
                    del stored[each.job_id]
                else:
                    stored[each.job_id] = each.job
            if chance.random() < 0.1:
                await chance.choice(stores).probe()
            expected = [stored.get(job_id) for job_id in IDS]
            for reader in chance.sample(stores, 2):
                assert await reader.read_jobs(IDS, with_results=True) == expected


def _change(chance: random.Random, job_id: str, stored: dict[str, Job], step: int) -> Change:
    """A change of what is stored, or one that comes too late."""
    replaces = _version(stored.get(job_id)) if chance.random() < 0.9 else chance.randint(0, 3)
    if replaces and chance.random() < 0.2:
        return deletion(job_id, replaces=replaces)
    ended = {"state": JobState.COMPLETED, "result": b"1"} if chance.random() < 0.2 else {}
    return change(job(job_id, version=replaces + 1, provider=f"{step}", **ended), replaces=replaces)


def _version(stored: Job | None) -> int:
    return 0 if stored is None else stored.version
