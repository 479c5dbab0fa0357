"""Listings of many jobs: whatever the filter, a page takes bounded work, and says where the listing goes on."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from harness.jobs import creation
from harness.postgresql import server
from harness.rpc import in_batch
from harness.service import service_here
from harness.stores import change, job
from jobstatus.app.limits import ServiceLimits
from jobstatus.core.job import Job, JobState
from jobstatus.core.store import Listing, Store
from jobstatus.core.tracker import TrackerLimits
from jobstatus.rpc.options import RpcLimits
from jobstatus.stores.listing import MAX_SCANS, window_size
from jobstatus.stores.postgresql import PostgreSQLJobStore
from jobstatus.stores.postgresql.limits import PostgreSQLLimits
from jobstatus.stores.sqlite import SQLiteJobStore
from jobstatus.stores.sqlite.limits import SQLiteLimits
from jobstatus.v1 import job_status_pb2 as pb

SCANS: Final = 20


@asynccontextmanager
async def store_of(kind: str, folder: Path) -> AsyncIterator[Store]:
    """An empty store whose pages look at few jobs."""
    async with AsyncExitStack() as stack:
        if kind == "sqlite":
            yield await stack.enter_async_context(SQLiteJobStore(str(folder / "jobs"), SQLiteLimits(max_scans=SCANS)))
        else:
            url = server().url(server().database())
            limits = PostgreSQLLimits(max_scans=SCANS)
            yield await stack.enter_async_context(PostgreSQLJobStore(url, limits))


async def whole(store: Store, **wanted: Any) -> tuple[list[Job], int]:
    """The jobs of a listing, and of how many pages."""
    found, pages, listing = list[Job](), 0, Listing(**wanted)
    while True:
        page = await store.list_page(listing, 150)
        assert len(page.jobs) <= listing.limit
        found, pages = found + page.jobs, pages + 1
        if page.next_before is None:
            return found, pages
        assert listing.before is None or page.next_before < listing.before
        listing = Listing(**wanted | {"before": page.next_before})


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_a_rare_filter_is_applied_page_by_page(kind: str, tmp_path: Path) -> None:
    """Every job that passes is listed once, in order, although most pages are short, with many jobs of one moment."""
    jobs = [job(f"job-{number:03}", created_at_ms=number // 30, virtual_key_id="vk-1") for number in range(300)]
    for number in (3, 4, 150, 299):
        jobs[number] = jobs[number]._replace(virtual_key_id="vk-2", worker_id="w-1", state=JobState.PROCESSING)
    gone = [job(f"gone-{number}", created_at_ms=5, state=JobState.FAILED, expires_at_ms=100) for number in range(100)]
    async with store_of(kind, tmp_path) as store:
        await store.commit([change(item) for item in (*jobs, *gone)])
        newest_first = sorted(jobs, key=lambda item: (item.created_at_ms, item.job_id), reverse=True)
        expected = [item for item in newest_first if item.worker_id == "w-1"]
        for wanted in ({"virtual_key_id": "vk-2"}, {"worker_id": "w-1"}, {"states": {JobState.PROCESSING}}):
            found, pages = await whole(store, limit=2, **wanted)
            assert found == expected
            assert 400 / SCANS <= pages <= 400 / SCANS + len(expected) + 1
        assert await whole(store, limit=5, virtual_key_id="vk-3") == ([], 400 // SCANS + 1)
        assert (await whole(store, limit=7))[0] == newest_first
        bounds = {"created_after_ms": 2, "created_before_ms": 5}
        between = [item for item in newest_first if 2 <= item.created_at_ms < 5]
        assert (await whole(store, limit=7, **bounds))[0] == between


def test_more_is_looked_at_where_that_is_cheap() -> None:
    """Without a filter no more than the page may need; with one that the index lacks a tenth."""
    assert window_size(Listing(limit=10)) == 20
    assert window_size(Listing(limit=10, virtual_key_id="vk")) == MAX_SCANS
    assert window_size(Listing(limit=10, error_code="x", virtual_key_id="vk")) == MAX_SCANS / 10


async def test_a_short_page_has_a_token(tmp_path: Path) -> None:
    """A client that goes on until the token is empty sees every job that passes, also after pages without any."""
    store = SQLiteJobStore(str(tmp_path / "jobs"), SQLiteLimits(max_scans=SCANS))
    limits = ServiceLimits(tracker=TrackerLimits(page_seconds=0), rpc=RpcLimits(hold_seconds=0))
    async with service_here(store, limits=limits) as service:
        await in_batch(service, creation("first", virtual_key_id="vk-2"))
        for start in range(0, 300, 100):
            await in_batch(service, *(creation(f"job-{number}") for number in range(start, start + 100)))
        found, pages, request = list[str](), 0, pb.ListJobsRequest(virtual_key_id="vk-2", page_size=10)
        while not pages or request.page_token:
            page = await service.jobs.ListJobs(request)
            found += [job.job_id for job in page.jobs]
            pages += 1
            request.page_token = page.next_page_token
        assert found == ["first"]
        assert pages > 10
