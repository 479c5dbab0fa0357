"""How much of the file a poll touches, which is what it costs where the file is not in memory."""

import random
from pathlib import Path
from typing import Any

import apsw
from harness.stores import change, job
from jobstatus.core.job import JobState
from jobstatus.stores.sqlite import SQLiteJobStore, schema, statements

JOBS = 3000
WARMED = 500
ENDED = {"state": JobState.COMPLETED, "result": b"x" * 1024, "expires_at_ms": 10**13, "due_at_ms": None}


async def test_a_poll_reads_two_pages_at_most(tmp_path: Path) -> None:
    """Besides the inner pages, which are few and stay cached: one of the index and one of the table, then only that."""
    path = tmp_path / "jobs"
    names = [f"{number:x}-job" for number in random.Random(1).sample(range(1 << 60), JOBS)]
    async with SQLiteJobStore(str(path)) as store:
        for first in range(0, JOBS, 1000):
            await store.commit([change(job(name, **ENDED)) for name in names[first : first + 1000]])
        names.sort()  # no longer in the order of the table, so that the first reads touch all inner pages
        reader = schema.open_reader(path)
        reader.execute("BEGIN")

        def missed(statement: str, *values: Any) -> tuple[int, int]:
            """How many pages were not in the cache, and the row's last value."""
            before = reader.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0]
            rows: list[Any] = reader.execute(statement, values).fetchall()
            return reader.status(apsw.SQLITE_DBSTATUS_CACHE_MISS)[0] - before, rows[0][-1]

        for name in names[:WARMED]:
            missed(statements.ANSWER, name)
        found = [missed(statements.ANSWER, name) for name in names[WARMED:]]
        assert max(pages for pages, _ in found) <= 2
        reader.execute("COMMIT; PRAGMA shrink_memory; BEGIN")
        pairs = [(name, rowid) for name, (_, rowid) in zip(names[WARMED:], found, strict=True)]
        for name, rowid in pairs[:WARMED]:
            missed(statements.ANSWER_AT_ROWID, rowid, name)
        again = [missed(statements.ANSWER_AT_ROWID, rowid, name)[0] for name, rowid in pairs[WARMED:]]
        assert max(again) <= 1
        reader.close()
