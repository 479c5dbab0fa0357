"""Who may begin to wait, for what, and how much a change costs of which many wait for the end."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from harness.faults import MeddledStore
from harness.stores import IgnoringObserver
from harness.tracking import Clock, creation, timekeeper
from jobstatus.core.access import Principal
from jobstatus.core.commands import Command, CompleteJob, CreateJob, DeleteJob, HeartbeatJob, StartJob
from jobstatus.core.errors import JobNotFound, StoreUnavailable
from jobstatus.core.job import RequestType
from jobstatus.core.poll import Poll
from jobstatus.core.rules import Policy
from jobstatus.core.store import SMALL_RESULT_BYTES
from jobstatus.core.tracker import JobTracker
from jobstatus.core.watching.fan_out import FanOut
from jobstatus.core.watching.long_poll import CannotWait, LongPoller
from jobstatus.core.watching.subscriptions import JobSubscriptions

JOB = "job-1"
MANY = 40
LONG = 1000.0


class Waiting:
    """A tracker upon a store that counts, and the polls that wait there."""

    def __init__(self, *, hears: bool = True, limit: int = MANY) -> None:
        self.left: list[str] = []
        self.subscriptions = JobSubscriptions(on_left=self.left.append, fan_out=FanOut(4))
        self.store = MeddledStore()
        self.clock = Clock()
        self.tracker = JobTracker(
            self.store,
            clock=timekeeper(self.clock),
            policy=Policy(),
            observer=IgnoringObserver(),
            subscriptions=self.subscriptions,
        )
        self.poller = LongPoller(
            self.tracker.poller,
            self.subscriptions,
            clock=lambda: 0,
            limit=limit,
            limit_each=limit,
            hears_of_changes=lambda: hears,
        )
        self.authenticated = 0

    async def reauthenticate(self) -> Principal:
        """Each poll that is woken begins with this."""
        self.authenticated += 1
        return Principal("vk-1")

    async def apply(self, *commands: Command) -> None:
        """Make these changes, one by one, and let all come of them that is ready."""
        for command in commands:
            await self.tracker.apply(command)
            await self.settle()

    async def settle(self) -> None:
        """Let the loop do all that is ready."""
        for _ in range(100):
            await asyncio.sleep(0)

    async def wait(self, job_id: str = JOB, seconds: float = LONG) -> Poll:
        return await self.poller.wait(job_id, RequestType.TRANSCRIPTION, self.reauthenticate, seconds)

    async def follow(self) -> list[Poll]:
        """All documents of the job, as an event stream is shown them."""
        updates = self.poller.updates(JOB, RequestType.TRANSCRIPTION, self.reauthenticate, lambda: math.inf)
        async with aclosing(updates) as polls:
            return [poll async for poll in polls]

    def answers_read(self) -> int:
        """How many answers were read since this was last asked."""
        reads = sum(len(job_ids) for _, job_ids in self.store.calls_of("read_answers"))
        self.store.calls.clear()
        return reads


@pytest.fixture
async def waiting() -> AsyncIterator[Waiting]:
    waiting = Waiting()
    await waiting.apply(created())
    yield waiting
    await waiting.tracker.close()


def created() -> CreateJob:
    return creation(JOB, virtual_key_id="vk-1")


def beat(progress: float) -> HeartbeatJob:
    return HeartbeatJob(job_id=JOB, attempt=1, progress=progress)


STARTED = StartJob(job_id=JOB, worker_id="worker-1")
ENDED = CompleteJob(job_id=JOB, attempt=1, result=b"1")


@pytest.mark.parametrize(("job_id", "hears"), [("not.an.id", True), ("x" * 129, True), ("", True), ("j1", False)])
async def test_nobody_waits_in_vain(job_id: str, hears: bool) -> None:
    """For what can be no job's id, or where no change would be told: no place is taken, and nobody hears of it."""
    waiting = Waiting(hears=hears)
    with pytest.raises(CannotWait):
        await waiting.wait(job_id)
    assert (waiting.poller.count, waiting.left) == (0, [])


async def test_a_look_at_what_has_ended_leaves_nothing_behind(waiting: Waiting) -> None:
    """The place is free, and nobody waits for the job any more."""
    await waiting.apply(STARTED, ENDED)
    assert (await waiting.wait()).is_terminal
    assert (waiting.poller.count, waiting.subscriptions.versions()) == (0, {})


async def test_a_heartbeat_is_read_once_and_wakes_nobody(waiting: Waiting) -> None:
    """However many wait, or follow: no document has changed. The end is read once too, and answers all."""
    await waiting.apply(STARTED)
    tasks = [asyncio.create_task(waiting.wait()) for _ in range(MANY // 2)]
    streams = [asyncio.create_task(waiting.follow()) for _ in range(MANY // 2)]
    await waiting.settle()
    await waiting.apply(beat(0.1))  # none was told before, so each is asked whether it knows the document
    waiting.answers_read()
    woken = waiting.authenticated
    await waiting.apply(*(beat(number / 10) for number in range(2, 7)))
    assert (waiting.answers_read(), waiting.authenticated) == (5, woken)
    await waiting.apply(ENDED)
    assert (waiting.answers_read(), waiting.authenticated) == (1, woken + MANY)
    polls = await asyncio.gather(*tasks)
    assert all(poll is polls[0] for poll in polls)
    assert polls[0].body.endswith(b'"result":1}')
    for seen in await asyncio.gather(*streams):
        assert [poll.is_terminal for poll in seen] == [False, True]
    assert (waiting.poller.count, waiting.subscriptions.versions()) == (0, {})


async def test_a_start_is_shown_to_streams_and_wakes_no_wait(waiting: Waiting) -> None:
    """A new document that is not the last one."""
    poll, stream = asyncio.create_task(waiting.wait()), asyncio.create_task(waiting.follow())
    await waiting.settle()
    before = waiting.authenticated
    await waiting.apply(STARTED)
    assert waiting.authenticated == before + 1
    await waiting.apply(beat(0.5), ENDED)
    assert [b'"processing"' in seen.body for seen in await stream] == [False, True, False]
    assert (await poll).is_terminal


async def test_nobody_who_waits_reads_a_large_result(waiting: Waiting) -> None:
    """All learn of the end by one read, and that there is a result; each reads it once there is room for it."""
    tasks = [asyncio.create_task(waiting.wait()) for _ in range(MANY)]
    await waiting.settle()
    result = b'"%b"' % (b"x" * SMALL_RESULT_BYTES)
    await waiting.apply(STARTED)
    waiting.answers_read()
    waiting.store.calls.clear()
    await waiting.apply(CompleteJob(job_id=JOB, attempt=1, result=result))
    polls = await asyncio.gather(*tasks)
    assert {poll.large_result and poll.large_result.size for poll in polls} == {len(result)}
    assert waiting.answers_read() == 1


async def test_a_failure_of_the_read_is_told_to_all(waiting: Waiting) -> None:
    """What cannot be known is not claimed."""
    tasks = [asyncio.create_task(waiting.wait()) for _ in range(MANY)]
    await waiting.settle()
    waiting.store.failures["read_answers"] = StoreUnavailable()
    await waiting.apply(STARTED)
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in found] == [StoreUnavailable] * MANY


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_a_job_that_goes_is_told_to_all(waiting: Waiting, *, is_replaced: bool) -> None:
    """At once, also when another takes its place: a wait for one job is no wait for another of its name."""
    tasks = [asyncio.create_task(waiting.wait()) for _ in range(MANY)]
    await waiting.settle()
    waiting.clock.move(1)
    other = creation(JOB, virtual_key_id="vk-2")
    await waiting.tracker.write((DeleteJob(job_id=JOB), *([other] if is_replaced else [])))
    found = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in found] == [JobNotFound] * MANY


async def test_a_credential_that_may_have_changed_is_read_again(waiting: Waiting) -> None:
    """Each once, and those that are still good wait on."""
    tasks = [asyncio.create_task(waiting.wait()) for _ in range(MANY)]
    await waiting.settle()
    before = waiting.authenticated
    waiting.poller.check_credentials()
    await waiting.settle()
    assert waiting.authenticated == before + MANY
    await waiting.apply(STARTED, ENDED)
    assert all(poll.is_terminal for poll in await asyncio.gather(*tasks))


async def test_who_has_waited_long_enough_is_shown_the_present(waiting: Waiting) -> None:
    """With a read of its own: it was not told of the versions that were no end."""
    await waiting.apply(STARTED, beat(0.5))
    poll = await waiting.wait(seconds=0.01)
    assert (poll.is_terminal, poll.progress) == (False, 0.5)
