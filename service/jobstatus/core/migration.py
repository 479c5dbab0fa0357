"""Copies jobs and virtual keys from one store to another, unchanged, and compares what arrived.

A job keeps its version, which tells a copy from a later change: the same version in the target is left, an older one is
replaced, a newer one is left. So a copy may be interrupted and run again. Memory holds two pages of jobs, however many
the stores hold.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from jobstatus.core.answer import render
from jobstatus.core.errors import JobStatusError, Overloaded
from jobstatus.core.job import Job
from jobstatus.core.store import Answer, Change, Listing, Store, StoreError
from jobstatus.core.virtual_keys import VirtualKey

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationLimits:
    """How much is copied at a time."""

    page: int = 1000
    """Jobs or virtual keys."""
    page_bytes: int = 32 * 1024 * 1024
    """Of results."""
    max_rounds: int = 5
    """How often a page is written while others change its jobs in the target."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What a copy did. `wrong` names the jobs and virtual keys that differ in the target."""

    copied: int = 0
    replaced: int = 0
    unchanged: int = 0
    newer: int = 0
    virtual_keys: int = 0
    wrong: list[str] = field(default_factory=list)

    def count(self, stored: int, version: int) -> None:
        """Count a job of this version, found in the target at version `stored`; 0: not found."""
        if stored == 0:
            self.copied += 1
        elif stored < version:
            self.replaced += 1
        elif stored == version:
            self.unchanged += 1
        else:
            self.newer += 1

    @property
    def jobs(self) -> int:
        """How many jobs were compared."""
        return self.copied + self.replaced + self.unchanged + self.newer


async def migrate(
    source: Store,
    target: Store,
    now_ms: int,
    on_progress: Callable[[int], None],
    limits: MigrationLimits = MigrationLimits(),
) -> Report:
    """Copy the jobs that have not expired, and all virtual keys. `on_progress` is called with the jobs done so far.

    Raises what the stores raise. What was copied by then stays, and another run continues.
    """
    report = Report()
    await _copy_virtual_keys(source, target, report, limits.page)
    async for jobs in _ahead(_jobs_of(source, now_ms, limits)):
        await _copy(jobs, target, report, limits.max_rounds)
        on_progress(report.jobs)
    return report


async def _copy_virtual_keys(source: Store, target: Store, report: Report, limit: int) -> None:
    after = ""
    while page := await source.list_virtual_keys(after, limit):
        after = page[-1].virtual_key_id
        there = await target.read_virtual_keys([virtual_key.virtual_key_id for virtual_key in page])
        for virtual_key, before in zip(page, there, strict=True):
            stored = before if _says_the_same(before, virtual_key) else await target.put_virtual_key(virtual_key)
            if not _says_the_same(stored, virtual_key):
                report.wrong.append(f"virtual key {virtual_key.virtual_key_id}")
        report.virtual_keys += len(page)


def _says_the_same(one: VirtualKey | None, other: VirtualKey) -> bool:
    """Whether they are equal apart from `created_at_ms`, which a store keeps from the first put."""
    return one is not None and replace(one, created_at_ms=other.created_at_ms) == other


async def _jobs_of(source: Store, now_ms: int, limits: MigrationLimits) -> AsyncIterator[list[Job]]:
    """Yield all jobs with their results, newest first, in parts of bounded size."""
    async for page in pages_of(source, Listing(limit=limits.page), now_ms):
        job_ids = [job.job_id for job in page]
        sizes = [answer.result_size or 0 if answer else 0 for answer in _sound(await source.read_answers(job_ids))]
        for part in _parts(job_ids, sizes, limits.page_bytes):
            yield [job for job in _sound(await source.read_jobs(part, with_results=True)) if job is not None]


async def pages_of(source: Store, listing: Listing, now_ms: int) -> AsyncIterator[list[Job]]:
    """Yield the jobs of a whole listing, page by page."""
    while True:
        page = await source.list_page(listing, now_ms)
        yield page.jobs
        if page.next_before is None:
            return
        listing = replace(listing, before=page.next_before)


def _parts(job_ids: Sequence[str], sizes: Sequence[int], max_bytes: int) -> Iterator[list[str]]:
    """Yield the ids in order, in parts whose results have at most `max_bytes` together, or which are a single job."""
    part: list[str] = []
    size = 0
    for job_id, more in zip(job_ids, sizes, strict=True):
        if part and size + more > max_bytes:
            yield part
            part, size = [], 0
        part.append(job_id)
        size += more
    if part:
        yield part


async def _copy(jobs: list[Job], target: Store, report: Report, max_rounds: int) -> None:
    """Write what the target lacks, and compare everything that it should have now."""
    waiting = {job.job_id: job for job in jobs}
    for _ in range(max_rounds):
        if not waiting:
            break
        there = _sound(await target.read_jobs(list(waiting), with_results=False))
        stored = {job_id: 0 if job is None else job.version for job_id, job in zip(waiting, there, strict=True)}
        changes = [
            Change(job_id=job_id, replaces=stored[job_id], job=job, answer=render(job))
            for job_id, job in waiting.items()
            if stored[job_id] < job.version
        ]
        lost = await target.commit(changes) if changes else {}
        _sound(list(lost.values()))
        for job_id, job in waiting.items():
            if job_id not in lost:
                report.count(stored[job_id], job.version)
        waiting = {job_id: waiting[job_id] for job_id in lost}
    if waiting:
        raise Overloaded
    report.wrong += await _find_wrong(jobs, target)


async def _find_wrong(jobs: list[Job], target: Store) -> list[str]:
    """Return the ids of jobs that are missing or older in the target, or differ at the same version."""
    job_ids = [job.job_id for job in jobs]
    stored = _sound(await target.read_jobs(job_ids, with_results=True))
    answers = _sound(await target.read_answers(job_ids))
    return [
        job.job_id
        for job, there, answer in zip(jobs, stored, answers, strict=True)
        if there is None
        or there.version < job.version
        or (there.version == job.version and (_compared(there) != _compared(job) or not _is_answered(job, answer)))
    ]


def _compared(job: Job) -> Job:
    """Return the job without what a copy by an earlier version, and a store that lacks the columns, have not got."""
    return job._replace(last_writer=None, traceparent=None)


def _is_answered(job: Job, answer: Answer | None) -> bool:
    """Whether a poll of the target has the same answer as one of the source."""
    size = None if job.result is None else len(job.result)
    return (
        answer is not None
        and (answer.body, answer.result_size, answer.result in (None, job.result)) == (render(job), size, True)
        and (answer.request_type, answer.virtual_key_id) == (job.request_type.value, job.virtual_key_id)
        and (answer.created_at_ms, answer.expires_at_ms) == (job.created_at_ms, job.expires_at_ms)
        and answer.ended_at_ms in (None, job.completed_at_ms)  # which of them depends on the version that wrote it
    )


def _sound(items: Sequence[T | StoreError]) -> list[T]:
    """Return the items. Raises the first that is an error of a part of the store."""
    for item in items:
        if isinstance(item, JobStatusError):
            raise item
    return [item for item in items if not isinstance(item, JobStatusError)]


async def _ahead(items: AsyncIterator[T]) -> AsyncIterator[T]:
    """Yield the same items, making the next one while the caller works with the one before."""
    end = object()
    following: asyncio.Future[T | object] = asyncio.ensure_future(_next(items, end))
    try:
        while (item := await following) is not end:
            following = asyncio.ensure_future(_next(items, end))
            yield item  # type: ignore[misc]  # the end apart it is an item
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _next(items: AsyncIterator[T], end: object) -> T | object:
    return await anext(items, end)
