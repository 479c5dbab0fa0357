"""What listings of many jobs take, and what polls beside them do: `python tests/soak/listings.py [STORE …] [--jobs N]`.

Each store is filled with so many jobs: of a hundred virtual keys and of fifty workers, every thousandth failed, every
tenth of another type. Then pages of several listings are asked for, by one client and by twenty at a time, while polls
come by a timetable. The service, the polls and the listings are a process each.

A listing is read several times from its newest page on. What is printed is the median of its pages and the slowest
page, each of the quickest reading, because the machine may be busy otherwise; and the 99th percentile of the polls
beside twenty clients, as a multiple of that just before, without any.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import grpc
import psycopg
from google.protobuf.timestamp_pb2 import Timestamp
from harness.service import INSTALLED, Process, Service
from harness.stores import STORES
from harness.tokens import admin_token, bearer
from jobstatus.core.answer import render
from jobstatus.core.job import ErrorField, Job, JobError, JobState, RequestType
from jobstatus.core.store import Change, Store
from jobstatus.stores import open_store
from jobstatus.v1 import job_status_pb2 as pb

from benchmarks.child import generating
from benchmarks.workload import poll_request

ADMIN: Final = bearer(admin_token())
CLIENTS: Final = 20
COMMITTED_AT_ONCE: Final = 4
_BATCH: Final = 2000
POLLED: Final = 1000
POLLS: Final = 400
"""A second: few enough for the service to be idle most of the time."""
READINGS: Final = 3


def asked(oldest_ms: int) -> dict[str, dict[str, Any]]:
    """The listings, by their names. The oldest job was created at `oldest_ms`."""
    deep = Timestamp()
    deep.FromMilliseconds(oldest_ms + 200)
    return {
        "newest pages": {},
        "deepest pages": {"created_before": deep},
        "virtual key without jobs": {"virtual_key_id": "nobody"},
        "virtual key": {"virtual_key_id": "vk-7"},
        "state": {"states": [pb.JOB_STATE_FAILED]},
        "state without jobs": {"states": [pb.JOB_STATE_COMPLETED]},
        "type": {"request_type": pb.REQUEST_TYPE_OCR},
        "worker": {"worker_id": "w-7"},
        "worker without jobs": {"worker_id": "nobody"},
        "error code": {"error_code": "engine_crashed"},
        "error code without jobs": {"error_code": "nothing"},
    }


def jobs(count: int, oldest_ms: int) -> Iterator[Job]:
    ends_at_ms = oldest_ms + count + 86_400_000
    for number in range(count):
        failed = number % 1000 == 0
        runs = number % 2 == 1
        code = "engine_crashed" if number % 10_000 == 0 else "bad_audio"
        yield Job(
            job_id=f"job-{number * 7919 % count:09}-{number}",
            request_type=RequestType.TRANSCRIPTION if number % 10 else RequestType.OCR,
            state=JobState.FAILED if failed else JobState.PROCESSING if runs else JobState.PENDING,
            version=1,
            virtual_key_id=f"vk-{number % 100}",
            provider=None,
            model_requested=None,
            created_at_ms=oldest_ms + number,
            started_at_ms=oldest_ms + number if failed or runs else None,
            completed_at_ms=oldest_ms + number if failed else None,
            result_ttl_ms=3_600_000,
            attempt=1 if failed or runs else 0,
            max_attempts=1,
            worker_id=f"w-{number // 2 % 50}" if failed or runs else None,
            status_code=502 if failed else None,
            error=JobError(error=ErrorField(message="it failed", code=code)) if failed else None,
            expires_at_ms=ends_at_ms if failed else None,
            due_at_ms=None if failed else ends_at_ms,
        )


async def fill(store: Store, count: int, oldest_ms: int) -> None:
    batches: list[list[Change]] = [[]]
    for job in jobs(count, oldest_ms):
        batches[-1].append(Change(job.job_id, 0, job, render(job)))
        if len(batches[-1]) == _BATCH:
            batches.append([])
        if len(batches) > COMMITTED_AT_ONCE:
            await asyncio.gather(*map(store.commit, batches))
            batches = [[]]
    await asyncio.gather(*map(store.commit, batches))


class Reading(NamedTuple):
    """What came of reading a listing: the seconds that each page took, and how many calls failed."""

    pages: list[float]
    failed: int


async def listing(service: Service, fields: dict[str, Any], most_pages: int) -> Reading:
    request, pages, failed = pb.ListJobsRequest(page_size=50, **fields), list[float](), 0
    while len(pages) + failed < most_pages:
        began = time.perf_counter()
        try:
            response = await service.jobs.ListJobs(request)
        except grpc.aio.AioRpcError:
            failed += 1
            continue
        pages.append(time.perf_counter() - began)
        request.page_token = response.next_page_token
        if not request.page_token:
            break
    return Reading(pages, failed)


async def polled(service: Service, requests: Path, seconds: float) -> float:
    """The 99th percentile of polls, in ms."""
    async with generating(
        "paced_load", "polls", str(service.http_port), str(requests), str(POLLS), str(seconds)
    ) as generator:
        await generator.said()
        await generator.go_on()
        return float((await generator.said())["p99_ms"])


async def polled_beside(
    service: Service, requests: Path, fields: dict[str, Any], seconds: float
) -> tuple[float, Reading]:
    """As `polled`, while CLIENTS clients list; with what came of their listings."""
    stop, readings = asyncio.Event(), list[Reading]()

    async def keep_listing() -> None:
        while not stop.is_set():
            readings.append(await listing(service, fields, most_pages=5))

    tasks = [asyncio.create_task(keep_listing()) for _ in range(CLIENTS)]
    p99 = await polled(service, requests, seconds)
    stop.set()
    await asyncio.gather(*tasks)
    pages = [seconds for reading in readings for seconds in reading.pages]
    return p99, Reading(pages, sum(reading.failed for reading in readings))


def write_requests(folder: Path, count: int) -> Path:
    """A file of polls of the first jobs that have not ended and are of the usual type."""
    path = folder / "requests"
    path.write_bytes(
        b"".join(
            poll_request(job.job_id, ADMIN)
            for job in islice(jobs(count, 0), POLLED)
            if job.request_type is RequestType.TRANSCRIPTION
        )
    )
    return path


async def measure(kind: str, options: argparse.Namespace) -> None:
    count = options.jobs
    with tempfile.TemporaryDirectory() as folder:
        url = STORES[kind](Path(folder))
        oldest_ms = time.time_ns() // 1_000_000 - count
        began = time.perf_counter()
        async with open_store(url) as store:
            await fill(store, count, oldest_ms)
        if kind == "postgresql":
            await vacuum(url)
        print(f"{kind}, {count} jobs, filled in {time.perf_counter() - began:.0f} s", flush=True)
        requests = write_requests(Path(folder), count)
        async with AsyncExitStack() as stack:
            process = Process(Path(folder), STORE=url)
            process.start_command = INSTALLED
            await stack.enter_async_context(process)
            service = await stack.enter_async_context(process.connected())
            await polled(service, requests, 1)
            for name, fields in asked(oldest_ms).items():
                if not options.only or name in options.only:
                    print(f"  {name}: {await measured(service, requests, fields, options)}", flush=True)


async def vacuum(url: str) -> None:
    """Do at once what the server would do within minutes."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute("VACUUM ANALYZE jobstatus.jobs")


async def measured(service: Service, requests: Path, fields: dict[str, Any], options: argparse.Namespace) -> str:
    """What a listing takes alone and twenty times at once, and what polls beside it do."""
    readings = [await listing(service, fields, most_pages=500) for _ in range(READINGS)]
    alone, beside, together = list[float](), list[float](), Reading([], 0)
    for _ in range(options.rounds):
        alone.append(await polled(service, requests, options.seconds))
        p99, reading = await polled_beside(service, requests, fields, options.seconds)
        beside.append(p99)
        together = Reading(together.pages + reading.pages, together.failed + reading.failed)
    ratios = [there / without for there, without in zip(beside, alone, strict=True)]
    rate = len(together.pages) / options.seconds / options.rounds
    slowest = min(max(reading.pages) for reading in readings)
    return (
        f"{len(readings[0].pages)} pages, median {min(median(reading.pages) for reading in readings) * 1000:.1f} ms,"
        f" the slowest {slowest * 1000:.0f} ms; {CLIENTS} at once: median {median(together.pages) * 1000:.0f} ms,"
        f" the slowest {max(together.pages) * 1000:.0f} ms, {rate:.0f} a second, {together.failed} failed;"
        f" polls p99 {median(alone):.2f} ms alone, {median(beside):.2f} ms beside,"
        f" {median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", default=["sqlite", "postgresql", "valkey"])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of polls, alone and beside listings, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="the listings to measure")
    options = parser.parse_args()
    for kind in options.stores:
        asyncio.run(measure(kind, options))


if __name__ == "__main__":
    main()
