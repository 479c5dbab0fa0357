"""The writer turns concurrent calls into batches, and yet each call has the outcome that it would have alone."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.faults import MeddledStore
from harness.logged import events_logged
from harness.stores import SHARED, STORES, DelegatingStore, IgnoringObserver, store_in
from harness.tracking import Clock, completion, creation, timekeeper, tracker_on
from harness.waiting import LIMIT_SECONDS, until
from jobstatus.core.commands import Command, DeleteJob, FailJob, HeartbeatJob, StartJob
from jobstatus.core.errors import (
    JobExists,
    JobNotFound,
    JobStatusError,
    JobTerminal,
    LeaseHeld,
    Overloaded,
    ShuttingDown,
    StoreFull,
    StoreUnavailable,
)
from jobstatus.core.job import ErrorField, Job, JobError, JobState
from jobstatus.core.rules import Policy
from jobstatus.core.store import Change, CommitError, Store, StoreError
from jobstatus.core.sweeper import Sweeper
from jobstatus.core.timekeeper import MS_NS, Timekeeper, TimeLimits
from jobstatus.core.tracker import JobTracker
from jobstatus.core.write_queue import WriterLimits
from jobstatus.stores.memory import MemoryJobStore

LEASE_SECONDS = 10
PATIENT = WriterLimits(callers_wait_seconds=LIMIT_SECONDS * 2)
"""A writer that waits for callers longer than any test does."""


class GatedStore(DelegatingStore):
    """Commits wait at a gate while it is shut, then fail as `failures` says; `begun` lists the job ids of each."""

    def __init__(self, real: Store) -> None:
        super().__init__(real)
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun: list[list[str]] = []
        self.failures: list[Exception | None] = []

    def part_of(self, _: str) -> None:
        """There is one part, whose batches are looked at here."""

    async def commit(self, changes: Sequence[Change]) -> Mapping[str, CommitError | None]:
        self.begun.append([change.job_id for change in changes])
        await self.gate.wait()
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        return await self.real.commit(changes)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    """A real store of each kind with a gate in front of its commits."""
    async with store_in(request.param, tmp_path) as real:
        yield GatedStore(real)


@pytest.fixture(params=SHARED)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    """One store, opened twice, as two processes would."""
    async with store_in(request.param, tmp_path) as one, store_in(request.param, tmp_path) as two:
        yield one, two


@asynccontextmanager
async def held(store: Any, tracker: JobTracker) -> AsyncIterator[None]:
    """While a first commit is under way and does not end: what is written meanwhile waits for the next."""
    store.gate.clear()
    first = asyncio.ensure_future(tracker.apply(creation(f"first-{len(store.begun)}")))
    already = len(store.begun)
    await until(lambda: len(store.begun) > already)
    yield
    store.gate.set()
    (job,) = await answers(first)
    assert job.version == 1


async def answers(*calls: Awaitable[Any], return_exceptions: bool = False) -> list[Any]:
    """What the calls answer, which they have to do in time."""
    async with asyncio.timeout(LIMIT_SECONDS):
        return await asyncio.gather(*calls, return_exceptions=return_exceptions)


async def turns(count: int) -> None:
    """Let everything else run this many turns of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)


def failing(job_id: str, message: str = "no") -> FailJob:
    return FailJob(job_id=job_id, error=JobError(error=ErrorField(message=message)))


async def stored(store: Store, *job_ids: str) -> list[JobState | None]:
    jobs = await store.read_jobs(job_ids, with_results=False)
    return [job.state if isinstance(job, Job) else None for job in jobs]


# --- batches ---


async def test_what_arrives_during_a_commit_is_the_next_one(store: Any) -> None:
    """However many calls come while a commit is under way, one more commit serves them all."""
    tracker = tracker_on(store)
    async with held(store, tracker):
        calls = [asyncio.ensure_future(tracker.apply(creation(f"job-{number}"))) for number in range(100)]
        await turns(1)
    assert [job.job_id for job in await answers(*calls)] == [f"job-{number}" for number in range(100)]
    assert [len(commit) for commit in store.begun] == [1, 100]


async def test_a_commit_waits_for_those_just_answered(store: Any) -> None:
    """Several callers who come back one after the other share one commit; closing ends the wait for more of them."""
    tracker = tracker_on(store, writes=PATIENT)

    async def write_twice(number: int) -> None:
        await tracker.apply(creation(f"job-{number}"))
        await turns(number)
        await tracker.apply(completion(f"job-{number}"))

    async with held(store, tracker):
        calls = [asyncio.ensure_future(write_twice(number)) for number in range(PATIENT.several_callers)]
        await turns(1)
    await answers(*calls)
    assert [len(commit) for commit in store.begun] == [1, PATIENT.several_callers, PATIENT.several_callers]
    await answers(tracker.close())


async def test_few_callers_are_not_made_to_wait_for_others(store: Any) -> None:
    """After a commit of few callers the next one begins at once."""
    tracker = tracker_on(store, writes=PATIENT)
    async with held(store, tracker):
        few = range(PATIENT.several_callers - 1)
        calls = [asyncio.ensure_future(tracker.apply(creation(f"job-{number}"))) for number in few]
        await turns(1)
    await answers(*calls)
    (job,) = await answers(tracker.apply(completion("job-0")))
    assert job.state is JobState.COMPLETED


async def test_who_does_not_come_again_is_not_waited_for(store: Any) -> None:
    """After a commit of many, a single caller is answered although no other comes."""
    tracker = tracker_on(store)
    async with held(store, tracker):
        calls = [asyncio.ensure_future(tracker.apply(creation(f"job-{number}"))) for number in range(50)]
        await turns(1)
    await answers(*calls)
    (job,) = await answers(tracker.apply(completion("job-0")))
    assert job.state is JobState.COMPLETED
    assert [len(commit) for commit in store.begun] == [1, 50, 1]


async def test_a_batch_is_bounded(store: Any) -> None:
    """No commit takes more commands than a batch may have, and each call stays in one piece."""
    tracker = tracker_on(store)
    async with held(store, tracker):
        calls = [
            asyncio.ensure_future(tracker.write([creation(f"job-{call}-{number}") for number in range(300)]))
            for call in range(8)
        ]
        await turns(1)
    assert all(isinstance(outcome, Job) for outcomes in await answers(*calls) for outcome in outcomes)
    assert [len(commit) for commit in store.begun] == [1, 900, 900, 600]


async def test_commands_of_one_job_are_decided_in_the_order_they_came(store: Any) -> None:
    """In one batch a later command sees what the earlier ones made of the job; one commit writes what came of it."""
    tracker = tracker_on(store)
    async with held(store, tracker):
        calls = [
            asyncio.ensure_future(tracker.write([command]))
            for command in (creation("job-a"), completion("job-a"), failing("job-a"), completion("job-a"))
        ]
        await turns(1)
    (created,), (completed,), (refused,), (repeated,) = await answers(*calls)
    assert isinstance(created, Job)
    assert created.state is JobState.PENDING
    assert isinstance(completed, Job)
    assert isinstance(refused, JobTerminal)
    assert repeated == completed
    assert store.begun[1:] == [["job-a"]]


# --- callers that go away ---


async def test_a_call_cancelled_before_its_batch_does_nothing(store: Any) -> None:
    """It is taken out of the queue; those beside it are written."""
    tracker = tracker_on(store)
    async with held(store, tracker):
        calls = [asyncio.ensure_future(tracker.apply(creation(f"job-{number}"))) for number in range(3)]
        await turns(1)
        calls[1].cancel()
        await turns(1)
    assert [type(outcome) for outcome in await answers(*calls, return_exceptions=True)] == [
        Job,
        asyncio.CancelledError,
        Job,
    ]
    assert store.begun[1:] == [["job-0", "job-2"]]
    assert await stored(store, "job-0", "job-1", "job-2") == [JobState.PENDING, None, JobState.PENDING]


async def test_a_commit_that_has_begun_is_finished(store: Any) -> None:
    """Even when every caller of the batch is cancelled while it is under way."""
    tracker = tracker_on(store)
    store.gate.clear()
    calls = [asyncio.ensure_future(tracker.apply(creation(f"job-{number}"))) for number in range(3)]
    await until(lambda: store.begun == [["job-0", "job-1", "job-2"]])
    for call in calls:
        call.cancel()
    outcomes = await answers(*calls, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    store.gate.set()
    await tracker.close()
    assert await stored(store, "job-0", "job-1", "job-2") == [JobState.PENDING] * 3


@pytest.mark.parametrize("seed", range(5))
async def test_cancelled_calls_never_harm_others(store: Any, seed: int) -> None:
    """Whenever calls are cancelled, all others are written and answered, and of the cancelled none is half done."""
    chance, tracker = random.Random(seed), tracker_on(store)
    for turn in range(30):
        names = [f"job-{turn}-{number}" for number in range(6)]
        calls = [
            asyncio.ensure_future(tracker.write([creation(name), completion(name), creation(f"{name}-too")]))
            for name in names
        ]
        await turns(chance.randrange(6) if turn % 2 else turn)
        victims = set(chance.sample(range(len(calls)), 3))
        for victim in victims:
            calls[victim].cancel()
        outcomes = await answers(*calls, return_exceptions=True)
        await answers(tracker.write([creation("the-next")]))  # comes back after the batch of the cancelled ones
        for number, (name, outcome) in enumerate(zip(names, outcomes, strict=True)):
            found = await stored(store, name, f"{name}-too")
            whole = [JobState.COMPLETED, JobState.PENDING]
            if number in victims and isinstance(outcome, asyncio.CancelledError):
                assert found in (whole, [None, None])
            else:
                assert isinstance(outcome, list)
                assert [type(one) for one in outcome] == [Job, Job, Job]
                assert found == whole
    await tracker.close()


# --- a commit that fails ---


@pytest.mark.parametrize("failure", [StoreUnavailable(), StoreFull()])
async def test_a_failed_commit_is_told_to_its_writers_alone(store: Any, failure: JobStatusError) -> None:
    """Commands that wanted a change have the error; refused and unchanged ones do not; the next batch succeeds."""
    tracker = tracker_on(store)
    old = await tracker.apply(creation("old"))
    ended = await tracker.apply(completion("old"))
    async with held(store, tracker):
        store.failures = [None, failure]  # of the commit that is under way, and of the next
        submissions: list[list[Command]] = [
            [creation("new-a"), creation("new-b"), creation("new-a")],
            [completion("new-a"), failing("new-a")],  # judged by what was not written
            [completion("nobody"), failing("old")],
            [completion("old"), creation("old")],
        ]
        calls = [asyncio.ensure_future(tracker.write(commands)) for commands in submissions]
        await turns(1)
    writing, ending, refused, repeating = await answers(*calls)
    assert writing == [failure] * 3
    assert ending == [failure] * 2
    assert [type(outcome) for outcome in refused] == [JobNotFound, JobTerminal]
    assert repeating == [ended, ended]
    assert old.version < ended.version
    assert await stored(store, "new-a", "new-b") == [None, None]
    assert (await tracker.apply(creation("new-a"))).version == 1


async def test_a_job_is_created_without_being_read() -> None:
    """Unless there is one: it is then read, and decides. That is no race."""
    store, races = MeddledStore(), Races()
    tracker = JobTracker(store, clock=timekeeper(Clock()), policy=Policy(), observer=races)
    await tracker.write([creation("a"), completion("a"), creation("b")])
    assert [name for name, _ in store.calls] == ["commit"]
    store.calls.clear()
    repeated, refused, new = await tracker.write([creation("a"), creation("b", max_attempts=2), creation("c")])
    assert isinstance(repeated, Job)
    assert repeated.state is JobState.COMPLETED
    assert isinstance(refused, JobExists)
    assert isinstance(new, Job)
    assert [name for name, _ in store.calls] == ["commit", "read_jobs", "confirm"]
    assert races.lost == 0


async def test_a_job_that_is_there_is_deleted_though_it_is_created_again_just_before(store: Any) -> None:
    """Of what a batch creates and deletes nothing is left to commit, so a commit would not find the job there is."""
    tracker = tracker_on(store)
    await tracker.apply(creation("a"))
    async with held(store, tracker):
        calls = [asyncio.ensure_future(tracker.apply(command)) for command in (creation("a"), DeleteJob(job_id="a"))]
        await turns(1)
    created, deleted = await answers(*calls)
    assert (created.version, deleted.job_id) == (1, "a")
    assert await stored(store, "a") == [None]


async def test_after_a_read_that_failed_the_store_is_asked_for_nothing_more() -> None:
    """A silent store takes the time limit of one operation from a batch, not that of a confirmation too."""
    store = MeddledStore()
    tracker = tracker_on(store)
    await tracker.apply(creation("old"))
    store.calls.clear()
    store.failures["read_jobs"] = StoreUnavailable()
    outcomes = await tracker.write([creation("old"), completion("new"), failing("old")])
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 3
    assert [name for name, _ in store.calls] == ["read_jobs"]


async def test_a_fault_of_a_store_is_told_and_the_writer_goes_on(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An error that no store should raise reaches its callers and the log, and the next write is served."""
    tracker = tracker_on(store)
    store.failures = [RuntimeError("a fault of the store")] * 2
    for number in range(2):
        with pytest.raises(RuntimeError, match="a fault of the store"):
            await tracker.apply(creation(f"job-{number}"))
    assert events_logged(caplog) == ["write_batch_failed"] * 2
    assert (await tracker.apply(creation("job-0"))).version == 1


# --- too much, and the end ---


@pytest.mark.parametrize("limits", [WriterLimits(max_waiting_commands=6), WriterLimits(max_waiting_bytes=6000)])
async def test_more_than_may_wait_is_refused_at_once(store: Any, limits: WriterLimits) -> None:
    """A call beyond the bound is Overloaded before anything was done; those that wait are served, then new ones too."""
    tracker = tracker_on(store, writes=limits)
    async with held(store, tracker):
        calls = [
            asyncio.ensure_future(tracker.write([creation(f"job-{number}"), completion(f"job-{number}", 1900)]))
            for number in range(3)
        ]
        await turns(1)
        with pytest.raises(Overloaded):
            await tracker.write([completion("job-0", 1900)])
    assert all(isinstance(outcome, Job) for outcomes in await answers(*calls) for outcome in outcomes)
    outcomes = await tracker.write([creation("job-x"), completion("job-x", 1900)])
    assert [type(outcome) for outcome in outcomes] == [Job, Job]


async def test_what_was_cancelled_does_not_count_for_ever(store: Any) -> None:
    """Calls that were cancelled while they waited take no room once their turn has come."""
    tracker = tracker_on(store, writes=WriterLimits(max_waiting_commands=3))
    for turn in range(3):
        async with held(store, tracker):
            calls = [asyncio.ensure_future(tracker.apply(creation(f"job-{turn}-{number}"))) for number in range(3)]
            await turns(1)
            for call in calls:
                call.cancel()
            await answers(*calls, return_exceptions=True)
    assert (await tracker.apply(creation("job-a"))).version == 1


async def test_closing_answers_what_was_admitted_and_refuses_the_rest(store: Any) -> None:
    """close() returns after the last answer; calls meanwhile or later raise ShuttingDown."""
    tracker = tracker_on(store)
    async with held(store, tracker):
        admitted = asyncio.ensure_future(tracker.apply(creation("job-a")))
        await turns(1)
        impatient, closing = asyncio.ensure_future(tracker.close()), asyncio.ensure_future(tracker.close())
        await turns(3)
        with pytest.raises(ShuttingDown):
            await tracker.apply(creation("job-b"))
        impatient.cancel()
        await turns(3)
        assert not closing.done()
        assert not admitted.done()
    await answers(closing)
    assert admitted.done()
    assert (await admitted).version == 1
    with pytest.raises(ShuttingDown):
        await tracker.apply(creation("job-b"))
    assert await stored(store, "job-a", "job-b") == [JobState.PENDING, None]


# --- a store of several parts ---


class PartedStore(GatedStore):
    """Jobs of the same first letter are one part. Commits of the parts in `slow` wait at the gate."""

    def __init__(self) -> None:
        super().__init__(MemoryJobStore())
        self.slow = {"s"}
        self.gate.clear()

    def part_of(self, job_id: str) -> str:  # type: ignore[override]
        return job_id[0]

    async def commit(self, changes: Sequence[Change]) -> Mapping[str, CommitError | None]:
        if not self.slow.isdisjoint(change.job_id[0] for change in changes):
            return await super().commit(changes)
        return await self.real.commit(changes)


async def test_a_slow_part_of_a_store_delays_no_other() -> None:
    """Writes of the other parts are answered; a call that has jobs of both is answered when the slow one is."""
    store = PartedStore()
    tracker = tracker_on(store)
    slow = [asyncio.ensure_future(tracker.apply(creation(f"slow-{number}"))) for number in range(10)]
    both = asyncio.ensure_future(tracker.write([creation("well-a"), creation("slow-a"), completion("well-a")]))
    await until(lambda: bool(store.begun))
    for number in range(20):
        (job,) = await answers(tracker.apply(creation(f"well-{number}")))
        assert job.version == 1
    assert not any(call.done() for call in [*slow, both])
    store.gate.set()
    assert [job.job_id for job in await answers(*slow)] == [f"slow-{number}" for number in range(10)]
    (outcomes,) = await answers(both)
    assert [(job.job_id, job.state) for job in outcomes] == [
        ("well-a", JobState.PENDING),
        ("slow-a", JobState.PENDING),
        ("well-a", JobState.COMPLETED),
    ]
    await answers(tracker.close())


async def test_a_cancelled_call_of_several_parts_is_done_in_all_of_them() -> None:
    """What one part has begun the others finish, and closing waits for it."""
    store = PartedStore()
    tracker = tracker_on(store)
    first = asyncio.ensure_future(tracker.apply(creation("slow-0")))
    await until(lambda: bool(store.begun))
    both = asyncio.ensure_future(tracker.write([creation("well-a"), creation("slow-a")]))
    await until(lambda: _is_stored(store, "well-a"))
    both.cancel()
    store.gate.set()
    await answers(tracker.close(), first)
    assert both.cancelled()
    assert await stored(store, "well-a", "slow-a") == [JobState.PENDING] * 2


async def _is_stored(store: Store, job_id: str) -> bool:
    return await stored(store, job_id) != [None]


async def test_a_call_that_one_part_has_no_room_for_is_refused_by_all() -> None:
    """Nothing of it is done, in whichever order its commands are."""
    store = PartedStore()
    tracker = tracker_on(store, writes=WriterLimits(max_waiting_commands=2))
    first = asyncio.ensure_future(tracker.apply(creation("slow-0")))
    await until(lambda: bool(store.begun))
    waiting = [asyncio.ensure_future(tracker.apply(creation(f"slow-{number}"))) for number in (1, 2)]
    await turns(1)
    for refused in ([creation("well-a"), creation("slow-a")], [creation("slow-b"), creation("well-b")]):
        with pytest.raises(Overloaded):
            await tracker.write(refused)
    store.gate.set()
    await answers(first, *waiting, tracker.close())
    assert await stored(store, "well-a", "slow-a", "slow-b", "well-b") == [None] * 4


# --- races against another process ---


class Races(IgnoringObserver):
    """Counts the commands that were decided again."""

    def __init__(self) -> None:
        self.lost = 0

    def races_lost(self, commands: int) -> None:
        self.lost += commands


async def test_a_lost_race_is_decided_anew(stores: tuple[Store, Store]) -> None:
    """A command whose job another process changed meanwhile is judged by what that one made of it; the rest stands."""
    store: Any = GatedStore(stores[0])
    other = stores[1]
    races, clock = Races(), Clock()
    here, there = JobTracker(store, clock=timekeeper(clock), policy=Policy(), observer=races), tracker_on(other, clock)
    await here.write([creation("contended"), creation("quiet")])
    store.gate.clear()
    call = asyncio.ensure_future(here.write([completion("contended"), completion("quiet"), failing("contended")]))
    await until(lambda: len(store.begun) == 2)
    winner = await there.apply(failing("contended"))
    store.gate.set()
    ((refused, completed, repeated),) = await answers(call)
    assert isinstance(refused, JobTerminal)
    assert isinstance(completed, Job)
    assert completed.state is JobState.COMPLETED
    assert repeated == winner
    assert races.lost == 2
    assert await store.read_jobs(["contended", "quiet"], with_results=True) == [winner, completed]


async def test_two_processes_that_race_agree_on_every_outcome(stores: tuple[Store, Store]) -> None:
    """Of all that try to end a job differently, on either side, one kind wins, and every reader sees that one."""
    one, two = stores
    sides = tracker_on(one), tracker_on(two)
    names = [f"job-{number}" for number in range(100)]
    await sides[0].write([creation(name) for name in names])

    async def race(name: str, number: int) -> Job | JobStatusError:
        (outcome,) = await sides[number % 2].write([failing(name, f"{number}") if number % 3 else completion(name)])
        return outcome

    chance = random.Random(3)
    racers = [(name, number) for name in names for number in range(6)]
    chance.shuffle(racers)
    outcomes = await answers(*(race(*racer) for racer in racers))
    for name in names:
        told = [outcome for (raced, _), outcome in zip(racers, outcomes, strict=True) if raced == name]
        won = [outcome for outcome in told if isinstance(outcome, Job)]
        assert won
        assert all(isinstance(outcome, JobTerminal) for outcome in told if not isinstance(outcome, Job))
        for store in (one, two):
            assert await store.read_jobs([name], with_results=True) == [won[0]]
        assert set(won) == {won[0]}


async def test_every_read_sees_what_another_process_has_written(stores: tuple[Store, Store]) -> None:
    """However often a job has been read here, and whether or not anything was written here since."""
    one, two = stores
    here, there = tracker_on(one), tracker_on(two)
    await here.apply(creation("job-a"))
    for number in range(20):
        for _ in range(3):
            await here.get("job-a")
        started = await there.apply(StartJob(job_id="job-a", worker_id=f"w-{number}"))
        assert await here.get("job-a") == started
        assert await there.get("job-a") == started


class AlwaysBeaten(MemoryJobStore):
    """A store in which another process is always faster."""

    async def commit(self, changes: Sequence[Change]) -> dict[str, StoreError | None]:
        return {change.job_id: None for change in changes}


async def test_a_race_that_is_lost_for_ever_ends() -> None:
    """After a bounded number of lost races a call is Overloaded, and nothing has happened."""
    async with AlwaysBeaten() as store:
        races = Races()
        tracker = JobTracker(store, clock=timekeeper(Clock()), policy=Policy(), observer=races)
        with pytest.raises(Overloaded):
            await tracker.apply(creation("job-a"))
        assert races.lost == WriterLimits().max_rounds - 1  # at first there might have been such a job all along
        assert await stored(store, "job-a") == [None]


# --- leases that nobody could renew ---


async def leased(tracker: JobTracker) -> Job:
    """A job that a worker has just started."""
    await tracker.apply(creation("job-a"))
    return await tracker.apply(StartJob(job_id="job-a", worker_id="w", lease_ms=LEASE_SECONDS * 1000))


async def state_after_a_sweep(store: Any, tracker: JobTracker, clock: Clock) -> JobState | None:
    sweeper = Sweeper(tracker, store, clock=timekeeper(clock), observer=IgnoringObserver(), every_seconds=1)
    await sweeper.sweep()
    await sweeper.resign()
    (state,) = await stored(store, "job-a")
    return state


async def assert_lease_runs_in_full(store: Any, tracker: JobTracker, clock: Clock) -> None:
    """From now on the worker has all of its lease to be heard, renews it by that, and is lost when it stays silent."""
    assert await state_after_a_sweep(store, tracker, clock) is JobState.PROCESSING
    clock.move(LEASE_SECONDS - 1)
    assert await state_after_a_sweep(store, tracker, clock) is JobState.PROCESSING
    await tracker.apply(HeartbeatJob(job_id="job-a", attempt=1))
    clock.move(LEASE_SECONDS - 1)
    assert await state_after_a_sweep(store, tracker, clock) is JobState.PROCESSING
    clock.move(1)
    assert await state_after_a_sweep(store, tracker, clock) is JobState.FAILED


async def test_a_lease_runs_once_more_in_full_after_a_restart(store: Any) -> None:
    """A worker that could not reach the service while it was down is not lost for that."""
    clock = Clock()
    before = tracker_on(store, clock)
    await leased(before)
    await before.close()
    clock.move(60)
    await assert_lease_runs_in_full(store, tracker_on(store, clock), clock)


async def test_a_lease_runs_once_more_in_full_after_an_outage_of_the_store(store: Any) -> None:
    """A worker whose heartbeats the store did not take is not lost for that."""
    clock = Clock()
    tracker = tracker_on(store, clock)
    await leased(tracker)
    store.failures = [StoreUnavailable()] * 5
    for _ in range(5):
        clock.move(LEASE_SECONDS - 1)
        with pytest.raises(StoreUnavailable):
            await tracker.apply(HeartbeatJob(job_id="job-a", attempt=1))
    await assert_lease_runs_in_full(store, tracker, clock)


async def test_nothing_is_purged_while_the_time_is_new() -> None:
    """After a step of the clock results are kept for some minutes, since it may step back; then they go."""
    wall, monotonic = Clock(), Clock()
    time = Timekeeper(
        wall_ms=wall, monotonic_ns=lambda: monotonic() * MS_NS, pulse=lambda: 0, limits=TimeLimits(hold_seconds=300)
    )
    store, observer = MemoryJobStore(), IgnoringObserver()
    tracker = JobTracker(store, clock=time, policy=Policy(), observer=observer)
    sweeper = Sweeper(tracker, store, clock=time, observer=observer, every_seconds=1)
    await sweeper.ask_time()
    await tracker.write([creation("job-a"), completion("job-a")])
    wall.move(2 * 3600)
    for seconds, kept in ((0, True), (299, True), (2, False)):
        wall.move(seconds)
        monotonic.move(seconds)
        time.tick()
        await sweeper.sweep()
        assert ((await store.read_jobs(["job-a"], with_results=False)) != [None]) is kept


async def test_another_attempt_waits_for_a_lease_that_nobody_could_renew(store: Any) -> None:
    """After a restart a job is not given to a second worker while the first may still be heard."""
    clock = Clock()
    before = tracker_on(store, clock)
    await before.apply(creation("job-a", max_attempts=2))
    await before.apply(StartJob(job_id="job-a", worker_id="w", lease_ms=LEASE_SECONDS * 1000))
    clock.move(60)
    after = tracker_on(store, clock)
    (refused,) = await after.write([StartJob(job_id="job-a", worker_id="x", lease_ms=1000)])
    assert isinstance(refused, LeaseHeld)
    clock.move(LEASE_SECONDS)
    assert (await after.apply(StartJob(job_id="job-a", worker_id="x", lease_ms=1000))).attempt == 2
