"""Who gets which reading of a job, and how many reads there are."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise

import pytest
from harness.stores import job
from jobstatus.core.errors import ShuttingDown, StoreUnavailable
from jobstatus.core.job import Job
from jobstatus.core.store import NOT_NOW, NotNow, StoreError
from jobstatus.core.watching.fan_out import FanOut
from jobstatus.core.watching.shared_reads import AwaitingWaiter, Reading, SharedReads
from jobstatus.core.watching.subscriptions import JobSubscriptions

JOB = "job-1"
SLICE = 2
"""Wakes in one turn of the loop."""


class Source:
    """One job at a version, with reads that end when they may."""

    def __init__(self) -> None:
        self.version = 1
        self.reads = 0
        self.failure: Exception | None = None
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def read(self, _: str) -> Job | StoreError | None:
        found = self.try_read(JOB)
        await self.may_end.wait()
        return found

    def try_read(self, job_id: str) -> Job | None:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return job(job_id, version=self.version) if self.version else None

    @staticmethod
    def not_now(_: str) -> NotNow:
        return NOT_NOW


@pytest.fixture
def subscriptions() -> JobSubscriptions:
    return JobSubscriptions(fan_out=FanOut(SLICE))


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture(params=["at once", "in a task"])
def reads(request: pytest.FixtureRequest, source: Source, subscriptions: JobSubscriptions) -> SharedReads[Job]:
    try_read = source.try_read if request.param == "at once" else source.not_now
    return SharedReads(subscriptions, source.read, try_read)


@pytest.fixture
def slow_reads(source: Source, subscriptions: JobSubscriptions) -> SharedReads[Job]:
    return SharedReads(subscriptions, source.read)


async def settle() -> None:
    """Let the loop do all that is ready."""
    for _ in range(50):
        await asyncio.sleep(0)


def is_woken(waiter: AwaitingWaiter[Job]) -> bool:
    """Whether its next wait would end at once; it is used up by asking."""
    try:
        waiter.wait(None).send(None)
    except StopIteration as stop:
        woken: bool = stop.value
        return woken
    return False


def taken(waiter: AwaitingWaiter[Job]) -> int | None:
    """The version of its news."""
    reading = waiter.take()
    if reading is None or reading.job is None:
        return None
    return reading.job.version


async def followed(reads: SharedReads[Job], last: int, concerns: Callable[[Job], bool] = lambda _: True) -> list[int]:
    """The versions that one waiter is shown, up to the last one."""
    versions: list[int] = []
    with reads.waiting_for(JOB, concerns) as waiter:
        while not versions or versions[-1] != last:
            await waiter.wait(None)
            if (version := taken(waiter)) is not None:
                versions.append(version)
    return versions


async def test_a_change_is_read_once_for_all(
    reads: SharedReads[Job], source: Source, subscriptions: JobSubscriptions
) -> None:
    """However many wait, each version costs one read, and each of them is shown the same reading, in order."""
    tasks = [asyncio.create_task(followed(reads, 3)) for _ in range(20)]
    await settle()
    for source.version in (2, 3):
        subscriptions.wake([JOB])
        await settle()
    assert [await task for task in tasks] == [[2, 3]] * 20
    assert (source.reads, subscriptions.versions()) == (2, {})


async def test_what_is_made_of_a_reading_is_made_once() -> None:
    """The first who wants it makes it."""
    made: list[str] = []
    reading = Reading(job())

    def make() -> str:
        made.append("x")
        return "made"

    assert [reading.make(make) for _ in range(3)] == ["made"] * 3
    assert made == ["x"]


async def test_who_is_not_concerned_sleeps_on(
    reads: SharedReads[Job], source: Source, subscriptions: JobSubscriptions
) -> None:
    """Only the version that a waiter wants wakes it; others are woken by each one."""
    with reads.waiting_for(JOB, lambda found: found.version == 3) as picky, reads.waiting_for(JOB) as keen:
        for source.version in (2, 3):
            subscriptions.wake([JOB])
            await settle()
            assert (is_woken(picky), is_woken(keen)) == (source.version == 3, True)
            assert taken(keen) == source.version
        assert taken(picky) == 3
        assert taken(picky) is None


async def test_what_differs_from_the_last_reading_in_nothing_wakes_nobody(
    source: Source, subscriptions: JobSubscriptions
) -> None:
    """Two versions that are the same to all waiters are told apart without asking each of them."""
    asked: list[int] = []

    def concerns(found: Job) -> bool:
        asked.append(found.version)
        return False

    reads = SharedReads(subscriptions, source.read, source.try_read, lambda _, now: now.version < 5)
    with reads.waiting_for(JOB, concerns):
        for source.version in (2, 3, 4, 5):
            subscriptions.wake([JOB])
            await settle()
    assert (source.reads, asked) == (4, [2, 5])


async def test_changes_during_a_fan_out_are_not_lost(
    reads: SharedReads[Job], source: Source, subscriptions: JobSubscriptions
) -> None:
    """Who was not woken yet is shown the newest version at once, who was is woken again; all see the last one."""
    tasks = [asyncio.create_task(followed(reads, 9)) for _ in range(5 * SLICE)]
    await settle()
    for source.version in range(2, 10):
        subscriptions.wake([JOB])
        for _ in range(2):
            await asyncio.sleep(0)
    shown = await asyncio.gather(*tasks)
    assert all(versions == sorted(set(versions)) for versions in shown)
    assert len(shown[-1]) < len(range(2, 10))


async def test_others_run_between_the_slices(
    reads: SharedReads[Job], source: Source, subscriptions: JobSubscriptions
) -> None:
    """A callback that comes again and again sees the number of those that were shown the version grow."""
    tasks = [asyncio.create_task(followed(reads, 2)) for _ in range(5 * SLICE)]
    await settle()
    source.version = 2
    subscriptions.wake([JOB])
    steps = []
    while not all(task.done() for task in tasks):
        steps.append(sum(task.done() for task in tasks))
        await asyncio.sleep(0)
    assert max(after - before for before, after in pairwise(steps)) == SLICE


async def test_one_that_is_cancelled_amid_a_fan_out_harms_none(
    reads: SharedReads[Job], source: Source, subscriptions: JobSubscriptions
) -> None:
    """Whether it was woken already or is still to be: the others are all shown the version."""
    tasks = [asyncio.create_task(followed(reads, 2)) for _ in range(5 * SLICE)]
    await settle()
    source.version = 2
    subscriptions.wake([JOB])
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    gone = (tasks[3 * SLICE], tasks[-1])
    assert not any(task.done() for task in gone)
    for task in gone:
        task.cancel()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [each for each, task in zip(found, tasks, strict=True) if task not in gone] == [[2]] * (5 * SLICE - 2)
    assert all(
        isinstance(each, asyncio.CancelledError) for each, task in zip(found, tasks, strict=True) if task in gone
    )
    assert subscriptions.versions() == {}


async def test_a_change_during_a_read_is_read_again(
    slow_reads: SharedReads[Job], source: Source, subscriptions: JobSubscriptions
) -> None:
    """All changes during one read together cost one more."""
    with slow_reads.waiting_for(JOB) as waiter:
        source.may_end.clear()
        subscriptions.wake([JOB])
        await settle()
        for source.version in (2, 3):
            subscriptions.wake([JOB])
        source.may_end.set()
        await settle()
        assert (source.reads, taken(waiter)) == (2, 3)


async def test_a_waiter_does_not_go_back_in_time(
    slow_reads: SharedReads[Job], source: Source, subscriptions: JobSubscriptions
) -> None:
    """A reading that began before the waiter read by itself is not for it, whenever it ends."""
    with slow_reads.waiting_for(JOB) as reader, slow_reads.waiting_for(JOB) as other:
        source.may_end.clear()
        subscriptions.wake([JOB])
        await settle()
        reader.begin_own_read()
        source.may_end.set()
        await settle()
        assert (is_woken(reader), taken(reader)) == (False, None)
        assert (is_woken(other), taken(other)) == (True, 1)
        source.version = 2
        subscriptions.wake([JOB])
        await settle()
        reader.begin_own_read()  # woken, and reads by itself
        assert taken(reader) is None
        assert taken(other) == 2


@pytest.mark.parametrize("all_are_same", [False, True])
@pytest.mark.parametrize("own_ends_first", [False, True])
async def test_a_waiter_that_has_found_an_older_version_is_shown_the_newer_one(
    source: Source, subscriptions: JobSubscriptions, *, own_ends_first: bool, all_are_same: bool
) -> None:
    """Its own read began later but was answered from before the change, as on another connection."""
    reads = SharedReads(subscriptions, source.read, is_same=lambda _before, _now: all_are_same)
    with reads.waiting_for(JOB) as reader:
        source.may_end.clear()
        source.version = 2
        subscriptions.wake([JOB])
        await settle()
        reader.begin_own_read()
        if own_ends_first:
            reader.end_own_read(1)
        source.may_end.set()
        await settle()
        if not own_ends_first:
            assert taken(reader) is None
            reader.end_own_read(1)
            await settle()
        assert (is_woken(reader), taken(reader)) == (True, 2)
    assert source.reads == 2


@pytest.mark.parametrize("failure", [StoreUnavailable(), ValueError("a bug")])
async def test_a_failed_read_is_raised_to_all(
    reads: SharedReads[Job], source: Source, subscriptions: JobSubscriptions, failure: Exception
) -> None:
    """Also to those whom no version concerns; the next change is read as usual."""
    with reads.waiting_for(JOB, lambda _: False) as picky, reads.waiting_for(JOB) as keen:
        source.failure = failure
        subscriptions.wake([JOB])
        await settle()
        for waiter in (picky, keen):
            assert is_woken(waiter)
            reading = waiter.take()
            assert reading is not None
            with pytest.raises(type(failure)):
                _ = reading.found
        source.failure = None
        subscriptions.wake([JOB])
        await settle()
        assert (taken(picky), taken(keen)) == (None, 1)


async def test_a_job_that_has_gone_concerns_all(
    reads: SharedReads[Job], source: Source, subscriptions: JobSubscriptions
) -> None:
    """They are shown that there is none."""
    with reads.waiting_for(JOB, lambda _: False) as picky:
        source.version = 0
        subscriptions.wake([JOB])
        await settle()
        reading = picky.take()
        assert reading is not None
        assert reading.found is None


async def test_a_wait_ends_in_time(reads: SharedReads[Job]) -> None:
    """At the given time of the loop, without having been woken."""
    with reads.waiting_for(JOB) as waiter:
        assert not await waiter.wait(asyncio.get_running_loop().time())


async def test_all_can_be_woken_without_news(reads: SharedReads[Job], source: Source) -> None:
    """Each once, in slices, whatever it waits for; they read by themselves."""
    with ExitStack() as stack:
        waiters = [stack.enter_context(reads.waiting_for(f"job-{number}", lambda _: False)) for number in range(5)]
        reads.wake_all()
        reads.wake_all()
        await asyncio.sleep(0)
        assert [is_woken(waiter) for waiter in waiters] == [True, True, False, False, False]
        await settle()
        assert [is_woken(waiter) for waiter in waiters] == [False, False, True, True, True]
        assert ([taken(waiter) for waiter in waiters], source.reads) == ([None] * 5, 0)


async def test_a_stop_wakes_all_and_admits_no_more(reads: SharedReads[Job], subscriptions: JobSubscriptions) -> None:
    """Who waits is woken, and nobody begins to wait."""
    with reads.waiting_for(JOB, lambda _: False) as waiter:
        subscriptions.close()
        await settle()
        assert is_woken(waiter)
    with pytest.raises(ShuttingDown), reads.waiting_for(JOB):
        pass


async def test_nothing_is_read_for_nobody(
    slow_reads: SharedReads[Job], source: Source, subscriptions: JobSubscriptions
) -> None:
    """When the last waiter leaves, a read that is still to begin does not, and one under way is given up."""
    with slow_reads.waiting_for(JOB):
        subscriptions.wake([JOB])
    await settle()
    assert source.reads == 0
    source.may_end.clear()
    with slow_reads.waiting_for(JOB):
        subscriptions.wake([JOB])
        await settle()
    await settle()
    assert (source.reads, asyncio.all_tasks()) == (1, {asyncio.current_task()})
