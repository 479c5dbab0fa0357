"""Several connections upon one file: no read is older than what was acknowledged, and the log stays small."""

import asyncio
from contextlib import AsyncExitStack, closing
from pathlib import Path

import apsw
import pytest
from harness.stores import change, job
from jobstatus.core.job import Job
from jobstatus.core.store import Store
from jobstatus.stores.sqlite import SQLiteJobStore
from jobstatus.stores.sqlite.limits import SQLiteLimits

DEFAULTS = SQLiteLimits()


async def open_stores(
    stack: AsyncExitStack, folder: Path, count: int, limits: SQLiteLimits = DEFAULTS
) -> list[SQLiteJobStore]:
    path = str(folder / "jobs.db")
    return [await stack.enter_async_context(SQLiteJobStore(path, limits)) for _ in range(count)]


async def version(store: Store) -> int:
    (stored,) = await store.read_jobs(["job-1"], with_results=False)
    return stored.version if isinstance(stored, Job) else 0


@pytest.mark.parametrize("limits", [DEFAULTS, SQLiteLimits(max_kept_frames=0)])
async def test_a_commit_is_seen_at_once_by_every_other_store(tmp_path: Path, limits: SQLiteLimits) -> None:
    """Whichever store commits, all read the new version right after, whether or not they keep a transaction open."""
    async with AsyncExitStack() as stack:
        stores = await open_stores(stack, tmp_path, 3, limits)
        for number in range(60):
            writer = stores[number % 3]
            assert [await version(store) for store in stores] == [number] * 3
            assert await writer.commit([change(job(version=number + 1), replaces=number)]) == {}
            assert [await version(store) for store in stores] == [number + 1] * 3


async def test_a_store_that_reads_nothing_leaves_the_log_free(tmp_path: Path) -> None:
    """A store that has read once does not keep the log of another one's writes from starting over."""
    log, result = tmp_path / "jobs.db-wal", b"1" * 65_536
    async with AsyncExitStack() as stack:
        writing, idle = await open_stores(stack, tmp_path, 2, SQLiteLimits(kept_seconds=0))
        for number in range(200):
            if number % 10 == 0:
                assert await idle.read_answers(["job-1"]) == [None]
            await writing.commit([change(job(f"job-{number}-x", result=result))])
        assert log.stat().st_size < 8 * 1024 * 1024


async def test_a_start_beside_a_reader_does_not_hold_up_writes(tmp_path: Path) -> None:
    """Another program's read transaction keeps the log from being emptied; the start goes on without that."""
    async with AsyncExitStack() as stack:
        (writing,) = await open_stores(stack, tmp_path, 1, SQLiteLimits(busy_timeout_ms=100))
        await writing.commit([change(job("job-0"))])
        with closing(apsw.Connection(str(tmp_path / "jobs.db"))) as other:
            assert other.execute("BEGIN; SELECT count(*) FROM jobs").get == 1
            await writing.commit([change(job("job-x"))])
            starting = asyncio.create_task(open_stores(stack, tmp_path, 1))
            number = 0
            while not starting.done():
                number += 1
                assert await writing.commit([change(job(f"job-{number}"))]) == {}
            (started,) = await starting
            assert await started.read_answers([f"job-{number}"]) == await writing.read_answers([f"job-{number}"])


async def test_the_log_stays_small_under_reads_and_writes(tmp_path: Path) -> None:
    """Readers that are never idle do not keep the log from starting over."""
    async with AsyncExitStack() as stack:
        stores = await open_stores(stack, tmp_path, 2)
        body = "x" * 200
        for number in range(3000):
            fresh = [change(job(f"job-{number}-{part}", message=body)) for part in range(3)]
            await stores[0].commit(fresh)
            assert await stores[1].read_answers(["job-1"]) == [None]
            assert await stores[0].read_answers(["job-1"]) == [None]
        # Closed by the last one, the log is gone; what counts is how large it had become.
        log = tmp_path / "jobs.db-wal"
        assert log.stat().st_size < 32 * 1024 * 1024
