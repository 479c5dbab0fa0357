"""Copies jobs and virtual keys from one store to another, as they are, and looks whether they arrived.

A job keeps its version, so that a copy can be told from what was changed since: the same version is left alone, an
older one is replaced, a newer one is the target's own business. So a copy may be broken off and begun again. Memory
holds two pages of jobs, whatever the stores hold.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from jobstatus.core.answer import render
from jobstatus.core.errors import JobStatusError, Overloaded
from jobstatus.core.job import Job
from jobstatus.core.store import Answer, Change, Listing, Store, StoreError
from jobstatus.core.virtual_keys import VirtualKey

T = TypeVar("T")

PAGE: Final = 1000
PAGE_BYTES: Final = 32 * 1024 * 1024
MAX_RACES: Final = 5


@dataclass(slots=True, kw_only=True)
class Report:
    """What a copy did. `wrong` names the jobs and virtual keys that are not in the target as they should be."""

    copied: int = 0
    replaced: int = 0
    unchanged: int = 0
    newer: int = 0
    virtual_keys: int = 0
    wrong: list[str] = field(default_factory=list)

    def count(self, stored: int, version: int) -> None:
        """A job of this version met this one in the target; 0: none."""
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
        """How many jobs were looked at."""
        return self.copied + self.replaced + self.unchanged + self.newer


async def migrate(source: Store, target: Store, now_ms: int, on_progress: Callable[[int], None]) -> Report:
    """Copy the jobs that have not expired, and all virtual keys. `on_progress` is told how many jobs are done.

    Raises what the stores raise; what was copied by then is there, and another run goes on.
    """
    report = Report()
    await _copy_virtual_keys(source, target, report)
    async for jobs in _ahead(_jobs_of(source, now_ms)):
        await _copy(jobs, target, report)
        on_progress(report.jobs)
    return report


async def _copy_virtual_keys(source: Store, target: Store, report: Report) -> None:
    after = ""
    while page := await source.list_virtual_keys(after, PAGE):
        after = page[-1].virtual_key_id
        there = await target.read_virtual_keys([virtual_key.virtual_key_id for virtual_key in page])
        for virtual_key, before in zip(page, there, strict=True):
            stored = before if _says_the_same(before, virtual_key) else await target.put_virtual_key(virtual_key)
            if not _says_the_same(stored, virtual_key):
                report.wrong.append(f"virtual key {virtual_key.virtual_key_id}")
        report.virtual_keys += len(page)


def _says_the_same(one: VirtualKey | None, other: VirtualKey) -> bool:
    """Whether they are alike but for when they were first recorded, which a store keeps."""
    return one is not None and replace(one, created_at_ms=other.created_at_ms) == other


async def _jobs_of(source: Store, now_ms: int) -> AsyncIterator[list[Job]]:
    """All jobs with their results, newest first, in parts of bounded size."""
    listing = Listing(now_ms=now_ms, limit=PAGE)
    while page := await source.list_jobs(listing):
        last = page[-1]
        listing = replace(listing, before=(last.created_at_ms, last.job_id))
        job_ids = [job.job_id for job in page]
        sizes = [answer.result_size or 0 if answer else 0 for answer in _sound(await source.read_answers(job_ids))]
        for part in _parts(job_ids, sizes):
            yield [job for job in _sound(await source.read_jobs(part, with_results=True)) if job is not None]


def _parts(job_ids: Sequence[str], sizes: Sequence[int]) -> Iterator[list[str]]:
    """The ids in order, in parts whose results have PAGE_BYTES together, or which are one job alone."""
    part: list[str] = []
    size = 0
    for job_id, more in zip(job_ids, sizes, strict=True):
        if part and size + more > PAGE_BYTES:
            yield part
            part, size = [], 0
        part.append(job_id)
        size += more
    if part:
        yield part


async def _copy(jobs: list[Job], target: Store, report: Report) -> None:
    """Write what the target lacks, and compare all that it should have now."""
    waiting = {job.job_id: job for job in jobs}
    for _ in range(MAX_RACES):
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
    """The ids of jobs that the target has otherwise, or answers otherwise; newer ones are its own business."""
    job_ids = [job.job_id for job in jobs]
    stored = _sound(await target.read_jobs(job_ids, with_results=True))
    answers = _sound(await target.read_answers(job_ids))
    return [
        job.job_id
        for job, there, answer in zip(jobs, stored, answers, strict=True)
        if there is None
        or there.version < job.version
        or (there.version == job.version and (there != job or not _is_answered(job, answer)))
    ]


def _is_answered(job: Job, answer: Answer | None) -> bool:
    """Whether a poll of the target answers what one of the source does."""
    size = None if job.result is None else len(job.result)
    return (
        answer is not None
        and (answer.body, answer.result_size, answer.result in (None, job.result)) == (render(job), size, True)
        and (answer.request_type, answer.virtual_key_id) == (job.request_type.value, job.virtual_key_id)
        and (answer.created_at_ms, answer.expires_at_ms) == (job.created_at_ms, job.expires_at_ms)
    )


def _sound(items: Sequence[T | StoreError]) -> list[T]:
    """The items; raises the first that is an error of a part of the store."""
    for item in items:
        if isinstance(item, JobStatusError):
            raise item
    return [item for item in items if not isinstance(item, JobStatusError)]


async def _ahead(items: AsyncIterator[T]) -> AsyncIterator[T]:
    """The same items; the next one is being made while its user is at work with the one before."""
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
