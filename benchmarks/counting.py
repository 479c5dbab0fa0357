"""What the metrics cost with many jobs in a store: the count of jobs, and an answer of /metrics. And are they true?

    .venv/bin/python -m benchmarks.counting [--jobs 1000000] [--stores sqlite postgresql valkey cluster]

All but 20,000 of the jobs have ended. Times are CPU time of this process and of the store's servers, the best of five.
Ends with 1 when a count is not of what was stored.
"""

import argparse
import asyncio
import gzip
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

from harness.stores import SHARED
from jobstatus.core.answer import render
from jobstatus.core.commands import MAX_RESULT_TTL_MS, CompleteJob, CreateJob, StartJob
from jobstatus.core.job import Job, JobState, RequestType
from jobstatus.core.rules import JobOutcome, Policy, decide
from jobstatus.core.store import Change, JobCount
from jobstatus.rpc.options import DESCRIPTORS
from jobstatus.stores import open_store
from jobstatus.telemetry.collectors import Format
from jobstatus.telemetry.metrics import Metrics

from benchmarks.servers import NAMES, behind, cpu_seconds, store_url
from benchmarks.workload import job_id_of, result_of

JOBS: Final = 1_000_000
LIVE: Final = 10_000
"""How many of them are pending, and how many are processing."""
LEASE_MS: Final = 3_600_000
_BATCH: Final = 5000
_POLICY: Final = Policy(pending_timeout_ms=MAX_RESULT_TTL_MS)


def job(number: int, now_ms: int) -> Job:
    """Return a job that is made `number` ms after `now_ms`: of each 2 * LIVE the first half pending, all else ended."""
    at_ms = now_ms + number
    job_id = job_id_of(number)
    create = CreateJob(
        job_id=job_id,
        request_type=RequestType.TRANSCRIPTION,
        virtual_key_id=f"vk-{number % 100}",
        result_ttl_ms=MAX_RESULT_TTL_MS,
    )
    commands = (
        create,
        StartJob(job_id=job_id, worker_id="worker", lease_ms=LEASE_MS),
        CompleteJob(job_id=job_id, result=result_of(100), attempt=1),
    )
    made: Job | None = None
    for command in commands[: 1 + (number >= LIVE) + (number >= 2 * LIVE)]:
        made, refusal = decide(made, command, at_ms, _POLICY)
        assert refusal is None, refusal
    assert made is not None
    return made


def batches(jobs: int, now_ms: int) -> Iterator[list[Change]]:
    """Yield the jobs in parts for one commit."""
    for first in range(0, jobs, _BATCH):
        part = [job(number, now_ms) for number in range(first, min(first + _BATCH, jobs))]
        yield [Change(job_id=one.job_id, replaces=0, job=one, answer=render(one)) for one in part]


def expected(jobs: int, now_ms: int) -> JobCount:
    """Return what a true count of them is."""
    by_state = {JobState.PENDING: LIVE, JobState.PROCESSING: LIVE, JobState.COMPLETED: jobs - 2 * LIVE}
    return JobCount(
        by_state=by_state | {JobState.FAILED: 0}, oldest_created_ms=now_ms, leased_until_ms=now_ms + LIVE + LEASE_MS
    )


async def best_ms(work: Callable[[], Awaitable[Any]], clock: Callable[[], float] = time.process_time) -> float:
    """Return how many milliseconds the work takes by a clock, at best."""
    taken = []
    for _ in range(5):
        began = clock()
        await work()
        taken.append((clock() - began) * 1000)
    return min(taken)


async def measure_count(kind: str, jobs: int, folder: Path) -> bool:
    """Fill a store and print what a count of it costs; return whether the count is true."""
    now_ms = time.time_ns() // 1_000_000
    url = store_url(kind, folder)
    servers = behind(kind)
    async with open_store(url) as store:
        for changes in batches(jobs, now_ms):
            await store.commit(changes)
        found = await store.count_jobs()
        clocks = {
            "in all": time.perf_counter,
            "of CPU here": time.process_time,
            "of CPU in the store's servers": lambda: sum(map(cpu_seconds, servers)),
        }
        taken = [f"{await best_ms(store.count_jobs, clock):.0f} ms {name}" for name, clock in clocks.items()]
    print(f"{NAMES[kind]}, {jobs} jobs: a count takes {', '.join(taken)}")
    return found == expected(jobs, now_ms)


async def measure_expositions() -> None:
    """Print what an answer of /metrics costs where every label has been seen."""
    metrics = Metrics()
    metrics.expect_writes([method.name for service in DESCRIPTORS for method in service.methods])
    for request_type in RequestType:
        metrics.job_started(request_type, 1)
        metrics.job_ended(request_type, JobOutcome.COMPLETED, 1)
        metrics.request_answered(request_type, 202, 0.001)
    for form in Format:
        body = await metrics.exposition(form)
        packed = gzip.compress(body, 1)
        took = await best_ms(lambda form=form: metrics.exposition(form))  # type: ignore[misc]  # mypy knows no default
        print(f"{form.name}: {took:.1f} ms of CPU, {len(body)} bytes, {len(packed)} in gzip")


async def measure(jobs: int, kinds: list[str]) -> int:
    """Print all figures; return the exit code."""
    untrue = []
    for kind in kinds:
        with tempfile.TemporaryDirectory(prefix="counting-") as folder:
            if not await measure_count(kind, jobs, Path(folder)):
                untrue.append(kind)
    await measure_expositions()
    for kind in untrue:
        print(f"the count of {NAMES[kind]} is not what was stored", file=sys.stderr)
    return 1 if untrue else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--stores", nargs="+", choices=SHARED, default=["sqlite"])
    given = parser.parse_args()
    if given.jobs < 2 * LIVE:
        parser.error(f"--jobs: at least {2 * LIVE}")
    return asyncio.run(measure(given.jobs, given.stores))


if __name__ == "__main__":
    sys.exit(main())
