"""What the metrics cost with many jobs in an SQLite file: the count of jobs, and an answer of /metrics.

    python benchmarks/counting.py [JOBS]

The file is made by SQL and removed in the end. Times are CPU time of this process, the best of five.
"""

import asyncio
import gzip
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import apsw
from jobstatus.core.job import RequestType
from jobstatus.core.rules import JobOutcome
from jobstatus.rpc.options import DESCRIPTORS
from jobstatus.stores.sqlite import SQLiteJobStore, schema
from jobstatus.telemetry.collectors import Format
from jobstatus.telemetry.metrics import Metrics

JOBS: Final = 1_000_000
LIVE: Final = 10_000
"""How many of them are pending, and how many are processing."""

_NUMBERS: Final = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)"
_COMMON: Final = "job_id, request_type, version, virtual_key_id, created_at_ms, result_ttl_ms, attempt, max_attempts"
_ENDED: Final = f"""{_NUMBERS} INSERT INTO jobs
    ({_COMMON}, state, started_at_ms, completed_at_ms, expires_at_ms, status_code, answer)
    SELECT 'ended-' || n, 'transcription', 3, 'vk-' || (n % 100), n, 3600000, 1, 3,
    CASE WHEN n % 10 THEN 'completed' ELSE 'failed' END, n, n + 1000, n + 3601000, 200, randomblob(300) FROM numbers"""
_LIVE: Final = f"""{_NUMBERS} INSERT INTO jobs
    ({_COMMON}, state, started_at_ms, due_at_ms, lease_ms, lease_expires_at_ms, answer)
    SELECT 'live-' || n, 'transcription', 1, 'vk-' || (n % 100), n, 3600000, 1, 3,
    CASE WHEN n % 2 THEN 'pending' ELSE 'processing' END, CASE WHEN n % 2 = 0 THEN n END, n + 86400000,
    CASE WHEN n % 2 = 0 THEN 60000 END, CASE WHEN n % 2 = 0 THEN n + 60000 END, randomblob(300) FROM numbers"""


def fill(path: Path, jobs: int) -> None:
    """Make a file with so many jobs, nearly all of which have ended."""
    connection = schema.open_writer(path, 1000, create=True)
    connection.execute("BEGIN")
    connection.execute(_ENDED, (jobs - 2 * LIVE,))
    connection.execute(_LIVE, (2 * LIVE,))
    connection.execute("COMMIT")
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()


async def cpu_ms(work: Callable[[], Awaitable[Any]]) -> float:
    """Return how many milliseconds of CPU the work takes, at best."""
    taken = []
    for _ in range(5):
        began = time.process_time()
        await work()
        taken.append((time.process_time() - began) * 1000)
    return min(taken)


async def measure(path: Path) -> None:
    """Print the figures."""
    async with SQLiteJobStore(str(path)) as store:
        print(await store.count_jobs())  # what it is for
        print(f"count: {await cpu_ms(store.count_jobs):.0f} ms of CPU")
    metrics = Metrics()
    metrics.expect_writes([method.name for service in DESCRIPTORS for method in service.methods])
    for request_type in RequestType:
        metrics.job_started(request_type, 1)
        metrics.job_ended(request_type, JobOutcome.COMPLETED, 1)
        metrics.request_answered(request_type, 202, 0.001)
    for form in Format:
        body = await metrics.exposition(form)
        packed = gzip.compress(body, 1)
        took = await cpu_ms(lambda form=form: metrics.exposition(form))  # type: ignore[misc]  # mypy knows no default
        print(f"{form.name}: {took:.1f} ms of CPU, {len(body)} bytes, {len(packed)} in gzip")


def main() -> None:
    """Make the file, measure, and remove it."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else JOBS
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.db"
        fill(path, jobs)
        print(f"{jobs} jobs, {path.stat().st_size >> 20} MiB")
        asyncio.run(measure(path))


if __name__ == "__main__":
    main()
