"""Copying from one store to another: all that lives arrives as it is, and may be copied again."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness.stores import STORES, DelegatingStore, change, deletion, job, store_in
from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.job import ErrorExtraFields, ErrorField, Job, JobError, JobState
from jobstatus.core.migration import MigrationLimits, Report, migrate
from jobstatus.core.store import SMALL_RESULT_BYTES, Answer, Change, CommitError, Listing, Store, StoreError
from jobstatus.core.virtual_keys import VirtualKey, hash_key

NOW_MS = 5_000
Pair = tuple[Store, Store]


def ended(job_id: str, result: bytes | None, **fields: Any) -> Job:
    given = {"state": JobState.COMPLETED, "result": result, "expires_at_ms": 10**13, "due_at_ms": None, "version": 3}
    return job(job_id, **(given | fields))


ERROR = JobError(error=ErrorField(message="x"))
JOBS = [
    job("pending", virtual_key_id="vk-1"),
    job("leased", state=JobState.PROCESSING, version=7, attempt=2, worker_id="w", lease_ms=1000, progress=0.5),
    job(
        "failed",
        state=JobState.FAILED,
        expires_at_ms=10**13,
        due_at_ms=None,
        error=JobError(
            error=ErrorField(message="x", error="y"),
            extra_fields=ErrorExtraFields(original_model_requested="o", resolved_model_used="u"),
        ),
    ),
    ended("small", b'{"a": 1.0e5}\n'),
    ended("large", b"x" * (SMALL_RESULT_BYTES + 1)),
    ended("huge", b"x" * 3_000_000),
    *(job(f"same-time-{number}", created_at_ms=2000) for number in range(7)),
]
EXPIRED = ended("expired", b"1", expires_at_ms=NOW_MS)
KEYS = [
    VirtualKey(virtual_key_id="vk-1", key_sha256=(hash_key("a"), hash_key("b")), created_at_ms=1, updated_at_ms=2),
    VirtualKey(virtual_key_id="vk-2", key_sha256=(), disabled=True, expires_at_ms=9, created_at_ms=1, updated_at_ms=2),
]


@pytest.fixture(params=STORES)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    """A memory store with jobs and keys in it, and an empty store of each kind."""
    async with store_in("memory", tmp_path) as source, store_in(request.param, tmp_path) as target:
        await source.commit([change(item) for item in (*JOBS, EXPIRED)])
        for key in KEYS:
            await source.put_virtual_key(key)
        yield source, target


class InterferingStore(DelegatingStore):
    """Another client writes a job right before the first commit."""

    is_first = True

    async def commit(self, changes: Sequence[Change]) -> Mapping[str, CommitError | None]:
        if self.is_first:
            self.is_first = False
            await self.real.commit([change(JOBS[0])])
        return await self.real.commit(changes)


class FailingStore(DelegatingStore):
    """The first read of answers fails."""

    is_first = True

    async def read_answers(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        if self.is_first:
            self.is_first = False
            raise StoreUnavailable
        return await self.real.read_answers(job_ids)


class EarlierStore(DelegatingStore):
    """Its answers say of each job when it ended, as an earlier version did of jobs that had been given up."""

    async def read_answers(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        answers = zip(
            await self.real.read_answers(job_ids), await self.real.read_jobs(job_ids, with_results=False), strict=True
        )
        return [
            answer._replace(ended_at_ms=stored.completed_at_ms)
            if isinstance(answer, Answer) and isinstance(stored, Job)
            else answer
            for answer, stored in answers
        ]


class ForgettingStore(DelegatingStore):
    """A job is deleted between the page that names it and its answer."""

    async def read_answers(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        await self.real.commit([deletion("goes", replaces=1)])
        return await self.real.read_answers(job_ids)


async def copy(source: Any, target: Any, page: int = MigrationLimits().page) -> Report:
    return await migrate(source, target, NOW_MS, lambda _: None, MigrationLimits(page=page))


async def assert_arrived(target: Store) -> None:
    names = [item.job_id for item in JOBS]
    assert await target.read_jobs(names, with_results=True) == JOBS
    assert await target.read_jobs(["expired"], with_results=True) == [None]
    assert await target.list_virtual_keys("", 10) == KEYS


async def test_all_that_lives_arrives(stores: Pair) -> None:
    """Jobs in every state, results of every size, jobs of one moment over the border of a page, and virtual keys."""
    report = await copy(*stores, page=3)
    assert report == Report(copied=len(JOBS), virtual_keys=2)
    await assert_arrived(stores[1])


async def test_and_back_again(stores: Pair) -> None:
    """What went through any store comes back as it was."""
    source, through = stores
    await copy(source, through)
    async with store_in("memory", Path()) as back:
        assert (await copy(through, back)).copied == len(JOBS)
        await assert_arrived(back)


async def test_another_run_brings_what_is_new(stores: Pair) -> None:
    """What is there is left, what has changed since is brought up to date, what the target changed stays."""
    source, target = stores
    await copy(source, target)
    assert await copy(source, target) == Report(unchanged=len(JOBS), virtual_keys=2)
    await source.commit([change(JOBS[0]._replace(version=2, message="new"), replaces=1), change(job("created"))])
    await target.commit([change(JOBS[1]._replace(version=8, message="theirs"), replaces=7)])
    await source.put_virtual_key(replace(KEYS[1], disabled=False))
    report = await copy(source, target)
    assert report == Report(copied=1, replaced=1, unchanged=len(JOBS) - 2, newer=1, virtual_keys=2)
    found = await target.read_jobs(["pending", "leased", "created"], with_results=True)
    assert [item.message for item in found if isinstance(item, Job)] == ["new", "theirs", None]
    assert await target.read_virtual_keys(["vk-2"]) == [replace(KEYS[1], disabled=False)]


async def test_what_is_not_as_it_should_be_is_named(stores: Pair) -> None:
    """A job of the same version with another result, or answer, is no copy."""
    source, target = stores
    await target.commit([change(ended("small", b'{"a": 1.0e6}\n')), change(ended("large", b"y" * 40_000))])
    assert sorted((await copy(source, target)).wrong) == ["large", "small"]


@pytest.mark.parametrize("status_code", [499, 500, 504])
async def test_which_jobs_count_as_given_up_may_differ_between_versions(tmp_path: Path, status_code: int) -> None:
    """What a poll is answered is the same."""
    async with store_in("memory", tmp_path) as source, store_in("memory", tmp_path) as target:
        given_up = ended("job-1", None, state=JobState.FAILED, status_code=status_code, completed_at_ms=2)
        await source.commit([change(given_up)])
        assert await copy(source, EarlierStore(target)) == Report(copied=1)
        assert await copy(source, target) == Report(unchanged=1)


async def test_a_race_is_run_again(stores: Pair) -> None:
    """A job that another client writes to the target at the same moment is compared again."""
    source, target = stores
    assert await copy(source, InterferingStore(target)) == Report(copied=len(JOBS) - 1, unchanged=1, virtual_keys=2)
    await assert_arrived(target)


async def test_a_run_that_is_broken_off_harms_nothing(stores: Pair) -> None:
    """Wherever it is cancelled or a store fails, what arrived is whole, and the next run finishes."""
    source, target = stores
    for turns in (1, 5, 20, 60):
        task = asyncio.create_task(copy(source, target, page=4))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    failing = FailingStore(source)
    with pytest.raises(StoreUnavailable):
        await copy(failing, target, page=4)
    report = await copy(failing, target, page=4)
    assert (report.jobs, report.wrong) == (len(JOBS), [])
    await assert_arrived(target)


async def test_a_job_that_goes_meanwhile_is_no_error(tmp_path: Path) -> None:
    """A job of the source that is deleted between its page and its result is left out."""
    async with AsyncExitStack() as stack:
        source, target = [await stack.enter_async_context(store_in("memory", tmp_path)) for _ in range(2)]
        await source.commit([change(job("stays")), change(job("goes"))])
        assert await copy(ForgettingStore(source), target) == Report(copied=1)
        listed = (await target.list_page(Listing(limit=10), 0)).jobs
        assert [item.job_id for item in listed] == ["stays"]
