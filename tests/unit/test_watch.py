"""Watches of one job by many: what each is shown, and how often the job is read and rendered for that."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from harness.faults import MeddledStore
from harness.stores import IgnoringObserver
from harness.tracking import Clock, creation, timekeeper
from jobstatus.core.commands import CompleteJob, HeartbeatJob, StartJob
from jobstatus.core.errors import ShuttingDown, StoreUnavailable
from jobstatus.core.job import Job
from jobstatus.core.rules import Policy
from jobstatus.core.tracker import JobTracker

JOB = "job-1"
MANY = 100
"""More than are woken in one turn of the loop, several times."""
ENDED = CompleteJob(job_id=JOB, attempt=1, result=b"1")


class Watching:
    """A tracker upon a store that counts, and watches of its job."""

    def __init__(self) -> None:
        self.store = MeddledStore()
        self.tracker = JobTracker(self.store, clock=timekeeper(Clock()), policy=Policy(), observer=IgnoringObserver())
        self.rendered: list[int] = []
        self.reading = asyncio.Event()
        """Cleared, watches do not go on to their next version."""
        self.reading.set()

    def render(self, job: Job) -> list[int | bytes | None]:
        """A new object each time."""
        self.rendered.append(job.version)
        return [job.version, job.result]

    async def watch(self, *, with_result: bool = False) -> list[list[int | bytes | None]]:
        """All that it is shown."""
        shown = []
        watch = self.tracker.watch(JOB, self.render, after_version=0, with_result=with_result)
        async with aclosing(watch) as versions:
            async for version in versions:
                assert version is not None
                shown.append(version)
                await self.reading.wait()
        return shown

    async def settle(self) -> None:
        """Let the loop do all that is ready."""
        for _ in range(100):
            await asyncio.sleep(0)

    async def begin(self, count: int = MANY, *, with_result: bool = False) -> "list[asyncio.Task[list[list[object]]]]":
        """So many watches, each of which has been shown the job as it is."""
        tasks = [asyncio.create_task(self.watch(with_result=with_result)) for _ in range(count)]
        await self.settle()
        self.rendered.clear()
        self.store.calls.clear()
        return tasks  # type: ignore[return-value]  # lists of what is an object

    async def beat(self, progress: float) -> None:
        await self.tracker.apply(HeartbeatJob(job_id=JOB, attempt=1, progress=progress))

    def reads_for_watches(self, writes: int) -> int:
        """How many reads there were besides the one that each write makes."""
        return len(self.store.calls_of("read_jobs")) - writes


@pytest.fixture
async def watching() -> AsyncIterator[Watching]:
    watching = Watching()
    await watching.tracker.apply(creation(JOB))
    await watching.tracker.apply(StartJob(job_id=JOB, worker_id="worker-1"))
    yield watching
    await watching.tracker.close()


async def test_each_version_is_read_and_rendered_once_for_all(watching: Watching) -> None:
    """And all are shown the same object, the last one too."""
    tasks = await watching.begin()
    for number in range(1, 4):
        await watching.beat(number / 10)
        await watching.settle()
    await watching.tracker.apply(ENDED)
    shown = await asyncio.gather(*tasks)
    assert [[version[0] for version in each] for each in shown] == [[2, 3, 4, 5, 6]] * MANY
    assert (watching.rendered, watching.reads_for_watches(4)) == ([3, 4, 5, 6], 4)
    assert all(mine is others for each in shown for mine, others in zip(each[1:], shown[0][1:], strict=True))


async def test_those_that_want_the_result_are_read_apart(watching: Watching) -> None:
    """A watch without results is not shown one because another wants it."""
    without, with_result = await watching.begin(2), await watching.begin(2, with_result=True)
    await watching.tracker.apply(ENDED)
    shown = await asyncio.gather(*without, *with_result)
    assert [each[-1] for each in shown] == [[3, None], [3, None], [3, b"1"], [3, b"1"]]
    assert (watching.rendered, watching.reads_for_watches(1)) == ([3, 3], 2)


async def test_changes_amid_a_fan_out_leave_none_behind(watching: Watching) -> None:
    """Versions come faster than all can be woken, and some watches go meanwhile: the others see the last one."""
    tasks = await watching.begin()
    for number in range(1, 20):
        await watching.beat(number / 100)
        if number == 10:
            for task in tasks[::7]:
                task.cancel()
    await watching.tracker.apply(ENDED)
    shown = await asyncio.gather(*tasks, return_exceptions=True)
    stayed = [each for number, each in enumerate(shown) if number % 7]
    for each in stayed:
        assert not isinstance(each, BaseException)
        versions = [version[0] for version in each]
        assert versions == sorted(set(versions))  # type: ignore[type-var]  # numbers
        assert versions[-1] == 22
    assert watching.tracker._subscriptions.versions() == {}


async def test_who_does_not_read_holds_up_none(watching: Watching) -> None:
    """And is shown the newest version when it reads."""
    watching.reading.clear()
    (slow,) = await watching.begin(1)
    for number in range(1, 4):
        await watching.beat(number / 10)
        await watching.settle()
    assert watching.rendered == []
    await watching.tracker.apply(ENDED)
    await watching.settle()
    watching.reading.set()
    assert [version[0] for version in await slow] == [2, 6]


async def test_a_failure_and_a_stop_end_all(watching: Watching) -> None:
    """Each with the error."""
    tasks = await watching.begin()
    read_jobs = watching.store.real.read_jobs

    async def read(job_ids: list[str], *, with_results: bool) -> object:
        if len(failed) == 1:
            raise StoreUnavailable
        failed.append(job_ids)
        return await read_jobs(job_ids, with_results=with_results)

    failed: list[list[str]] = []
    watching.store.replace("read_jobs", read)
    await watching.beat(0.1)
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in found] == [StoreUnavailable] * MANY
    del vars(watching.store)["read_jobs"]
    tasks = await watching.begin()
    watching.tracker.end_watches()
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in found] == [ShuttingDown] * MANY
