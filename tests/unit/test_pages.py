"""Pages that are bounded in items and in bytes, over items that are read in slices."""

import asyncio
from collections.abc import Sequence

import pytest
from jobstatus.rpc.pages import PageLimits, fill
from jobstatus.v1 import job_status_pb2 as pb

SIZE = 100


async def page_of(sizes: Sequence[int], *, count: int, limits: PageLimits) -> tuple[list[int], int | None, list[int]]:
    """The items of a page by their places, the last one if more follow, and how many were read at a time."""
    page, reads = pb.ListJobsResponse(), list[int]()

    async def read(last: int | None, limit: int) -> Sequence[int]:
        first = 0 if last is None else last + 1
        found = range(first, min(first + limit, len(sizes)))
        reads.append(len(found))
        return found

    def add(item: int) -> pb.Job:
        return page.jobs.add(job_id=str(item), message="x" * sizes[item])

    last = await fill(page.jobs, read, add, count=count, limits=limits)
    return [int(job.job_id) for job in page.jobs], last, reads


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 20])
@pytest.mark.parametrize("slice_items", [1, 2, 3, 7, 8, 20])
def test_a_page_has_as_many_as_asked_for(count: int, slice_items: int) -> None:
    """In whatever slices it is read; the last one is told if, and only if, there are more."""
    limits = PageLimits(slice_items=slice_items)
    items, last, reads = asyncio.run(page_of([SIZE] * 7, count=count, limits=limits))
    assert items == list(range(min(count, 7)))
    assert last == (count - 1 if count < 7 else None)
    assert max(reads) <= slice_items + 1


@pytest.mark.parametrize("slice_items", [1, 2, 3, 20])
def test_a_page_ends_before_it_is_too_large(slice_items: int) -> None:
    """A page has the items that fit, and one at least; the next page begins with the one that did not."""
    limits = PageLimits(max_bytes=3 * (SIZE + 20), slice_items=slice_items)
    items, last, _ = asyncio.run(page_of([SIZE] * 7, count=7, limits=limits))
    assert (items, last) == ([0, 1, 2], 2)
    items, last, _ = asyncio.run(page_of([5 * SIZE] * 7, count=7, limits=limits))
    assert (items, last) == ([0], 0)
    items, last, _ = asyncio.run(page_of([SIZE, SIZE, 5 * SIZE], count=7, limits=limits))
    assert (items, last) == ([0, 1], 1)
    assert asyncio.run(page_of([5 * SIZE], count=7, limits=limits))[:2] == ([0], None)


def test_a_page_that_is_full_reads_no_more() -> None:
    """Large items are not read by the thousand."""
    limits = PageLimits(max_bytes=3 * SIZE, slice_items=4)
    _, _, reads = asyncio.run(page_of([SIZE] * 1000, count=1000, limits=limits))
    assert reads == [5]


def test_pages_fit_into_ordinary_clients() -> None:
    """The bound is below gRPC's default limit of 4 MiB, with an item to spare."""
    assert PageLimits().max_bytes < 4 * 1024 * 1024 - 64 * 1024
