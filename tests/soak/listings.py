"""What listings of many jobs take, and what polls beside them do: `python tests/soak/listings.py [STORE …] [--jobs N]`.

Each store is filled with so many jobs: of a hundred virtual keys, every thousandth failed, every tenth of another type.
Then pages of several listings are asked for, alone and by twenty clients at a time, while one client polls. It prints
the slowest page of each listing, in how many pages it ended, and the 99th percentile of the polls. The service is a
process of its own; all clients share another one.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.service import INSTALLED, Process, Service
from harness.stores import STORES
from harness.tokens import admin_token, bearer
from jobstatus.core.answer import render
from jobstatus.core.job import Job, JobState, RequestType
from jobstatus.core.store import Change
from jobstatus.stores import open_store
from jobstatus.v1 import job_status_pb2 as pb

ADMIN: Final = bearer(admin_token())
CLIENTS: Final = 20
ASKED: Final[dict[str, dict[str, Any]]] = {
    "newest page": {},
    "virtual key without jobs": {"virtual_key_id": "nobody"},
    "virtual key": {"virtual_key_id": "vk-7"},
    "state": {"states": [pb.JOB_STATE_FAILED]},
    "type": {"request_type": pb.REQUEST_TYPE_OCR},
}


def jobs(count: int, now_ms: int) -> Iterator[Job]:
    for number in range(count):
        failed = number % 1000 == 0
        yield Job(
            job_id=f"job-{number * 7919 % count:09}-{number}",
            request_type=RequestType.TRANSCRIPTION if number % 10 else RequestType.OCR,
            state=JobState.FAILED if failed else JobState.PENDING,
            version=1,
            virtual_key_id=f"vk-{number % 100}",
            provider=None,
            model_requested=None,
            created_at_ms=now_ms - count + number,
            result_ttl_ms=3_600_000,
            max_attempts=1,
            expires_at_ms=now_ms + 86_400_000 if failed else None,
            due_at_ms=None if failed else now_ms + 86_400_000,
        )


async def fill(url: str, count: int) -> None:
    batch: list[Change] = []
    async with open_store(url) as store:
        for job in jobs(count, time.time_ns() // 1_000_000):
            batch.append(Change(job.job_id, 0, job, render(job)))
            if len(batch) == 1000:
                await store.commit(batch)
                batch.clear()
        await store.commit(batch)


async def listing(service: Service, fields: dict[str, Any], most_pages: int) -> tuple[int, float]:
    """How many pages were read, and the seconds that the slowest took."""
    request, slowest, pages = pb.ListJobsRequest(page_size=50, **fields), 0.0, 0
    while pages < most_pages and (not pages or request.page_token):
        began = time.perf_counter()
        request.page_token = (await service.jobs.ListJobs(request)).next_page_token
        slowest, pages = max(slowest, time.perf_counter() - began), pages + 1
    return pages, slowest


async def polls(service: Service, job_id: str, times: list[float], until: asyncio.Event) -> None:
    while not until.is_set():
        began = time.perf_counter()
        await service.poll(job_id, ADMIN)
        times.append(time.perf_counter() - began)


async def polled_beside(service: Service, job_id: str, clients: int, fields: dict[str, Any], seconds: float) -> float:
    """The 99th percentile of polls, in ms, while so many clients list."""
    times, stop = list[float](), asyncio.Event()

    async def keep_listing() -> None:
        while not stop.is_set():
            await listing(service, fields, most_pages=5)

    tasks = [asyncio.create_task(polls(service, job_id, times, stop))]
    tasks += [asyncio.create_task(keep_listing()) for _ in range(clients)]
    await asyncio.sleep(seconds)
    stop.set()
    await asyncio.gather(*tasks)
    return quantiles(times, n=100)[-1] * 1000


async def measure(kind: str, count: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = STORES[kind](Path(folder))
        await fill(url, count)
        async with AsyncExitStack() as stack:
            process = Process(Path(folder), STORE=url)
            process.start_command = INSTALLED
            await stack.enter_async_context(process)
            service = await stack.enter_async_context(process.connected())
            newest = await service.jobs.ListJobs(pb.ListJobsRequest(page_size=1))
            job_id = newest.jobs[0].job_id
            alone = await polled_beside(service, job_id, 0, {}, seconds)
            print(f"{kind}, {count} jobs: polls alone p99 {alone:.1f} ms")
            for name, fields in ASKED.items():
                pages, slowest = await listing(service, fields, most_pages=1000)
                beside = await polled_beside(service, job_id, CLIENTS, fields, seconds)
                print(
                    f"  {name}: {pages} pages, the slowest {slowest * 1000:.0f} ms;"
                    f" polls beside {CLIENTS} clients p99 {beside:.1f} ms"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", default=["sqlite", "postgresql", "valkey"])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    for kind in options.stores:
        asyncio.run(measure(kind, options.jobs, options.seconds))


if __name__ == "__main__":
    main()
