"""A property-based state machine: the rules, the tracker and each store against a model of DESIGN's life of a job.

The model is written from the rules' text, in another manner than the code, and knows no versions, batches or stores.
"""

import asyncio
import tempfile
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from harness.places import temporary_root
from harness.stores import STORES, IgnoringObserver, store_in
from harness.tracking import timekeeper
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from jobstatus.core import commands
from jobstatus.core.access import Principal
from jobstatus.core.errors import JobNotFound, JobStatusError
from jobstatus.core.job import ErrorField, Job, JobError, RequestType
from jobstatus.core.rules import Policy
from jobstatus.core.store import Listing, Store
from jobstatus.core.sweeper import Sweeper
from jobstatus.core.tracker import JobTracker

T = TypeVar("T")

TIMEOUT = 60_000
JOB_IDS = st.sampled_from(["a", "b"])
WORKERS = st.sampled_from(["w1", "w2"])
OWNERS = st.sampled_from([None, "vk-1", "vk-2"])
ATTEMPTS = st.integers(0, 3)
LEASES = st.sampled_from([None, 1_000, 5_000])
RESULTS = st.sampled_from([b'{"text": 1}', b"[]"])
MESSAGES = st.sampled_from(["boom", "bang"])


@dataclass
class Model:
    """What a job should be like."""

    fields: tuple[str | None, int, int]
    created: int
    state: str = "pending"
    started: int | None = None
    ended: int | None = None
    attempt: int = 0
    worker: str | None = None
    lease: int | None = None
    lease_end: int | None = None
    outcome: tuple[Any, ...] | None = None

    @property
    def owner(self) -> str | None:
        return self.fields[0]

    @property
    def ttl(self) -> int:
        return self.fields[1]

    @property
    def max_attempts(self) -> int:
        return self.fields[2]

    def end(self, now: int, state: str, outcome: tuple[Any, ...]) -> None:
        self.state, self.outcome, self.lease, self.lease_end = state, outcome, None, None
        self.ended = max(now, self.created, self.started or 0)

    def pass_time(self, now: int) -> None:
        """A timeout or the last lease ends."""
        if self.state == "pending" and now >= self.created + TIMEOUT:
            self.end(now, "failed", ("timeout", "never_started"))
        elif self.state == "processing":
            assert self.started is not None
            if now >= self.started + TIMEOUT:
                self.end(now, "failed", ("timeout", "timed_out"))
            elif self.lease_end is not None and now >= self.lease_end and self.attempt >= self.max_attempts:
                self.end(now, "failed", ("worker_lost", "lease_expired"))

    def fence(self, attempt: int) -> str | None:
        unleased = self.lease is None
        return None if attempt == self.attempt or (attempt == 0 and unleased) else "LEASE_LOST"

    def finish(self, now: int, attempt: int, state: str, outcome: tuple[Any, ...]) -> str | None:
        if self.ended is not None:
            same = (self.state, self.outcome) == (state, outcome)
            return None if same else self.fence(attempt) or "JOB_TERMINAL"
        if refusal := self.fence(attempt):
            return refusal
        self.end(now, state, outcome)
        return None


class LifeOfAJob(RuleBasedStateMachine):
    """Drives one store; set by `run` below."""

    kind: str

    @initialize()
    def set_up(self) -> None:
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory(dir=temporary_root())
        self.now = 1_000_000
        self.model: dict[str, Model] = {}
        self.seen: dict[str, Job] = {}
        self.open()

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.close()
            self.runner.close()
            self.folder.cleanup()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it without the runner's handler of Ctrl-C, which takes longer to install than most work takes."""
        return self.runner.get_loop().run_until_complete(work)

    def open(self) -> None:
        self.store: Store = self.run(self.enter())
        policy = Policy(pending_timeout_ms=TIMEOUT, processing_timeout_ms=TIMEOUT)
        observer = IgnoringObserver()
        clock = timekeeper(lambda: self.now)
        self.tracker = JobTracker(self.store, clock=clock, policy=policy, observer=observer)
        self.sweeper = Sweeper(self.tracker, self.store, clock=clock, observer=observer, every_seconds=1)

    async def enter(self) -> Store:
        return await store_in(self.kind, Path(self.folder.name)).__aenter__()

    def close(self) -> None:
        self.run(self.sweeper.resign())
        self.run(self.tracker.close())
        self.run(self.store.__aexit__(None, None, None))

    def live(self, job_id: str) -> Model | None:
        """The model's job, if it is there for readers."""
        job = self.model.get(job_id)
        return None if job is None or (job.ended is not None and self.now >= job.ended + job.ttl) else job

    def settled(self, job_id: str) -> Model | None:
        """The same, after time has passed for it, as every write does first."""
        job = self.live(job_id)
        if job is not None:
            job.pass_time(self.now)
        return job

    def apply(self, command: commands.Command, expected: str | None) -> Job | None:
        """Apply alone, or (where the draw says so) in a batch with others: the outcome is the model's."""
        (outcome,) = self.run(self.tracker.write([command]))
        assert (outcome.reason if isinstance(outcome, JobStatusError) else None) == expected, (command, outcome)
        return None if isinstance(outcome, JobStatusError) else outcome

    @rule(job_id=JOB_IDS, owner=OWNERS, ttl=st.sampled_from([1_000, 10_000]), attempts=st.integers(1, 2))
    def create(self, job_id: str, owner: str | None, ttl: int, attempts: int) -> None:
        command = commands.CreateJob(
            job_id=job_id,
            request_type=RequestType.OCR,
            virtual_key_id=owner,
            result_ttl_ms=ttl,
            max_attempts=attempts,
        )
        job, fields = self.settled(job_id), (owner, ttl, attempts)
        self.apply(command, None if job is None or job.fields == fields else "JOB_EXISTS")
        if job is None:
            self.model[job_id] = Model(fields, self.now)
            self.seen.pop(job_id, None)

    @rule(job_id=JOB_IDS, worker=WORKERS, lease=LEASES)
    def start(self, job_id: str, worker: str, lease: int | None) -> None:
        job, expected = self.settled(job_id), None
        if job is None:
            expected = "JOB_NOT_FOUND"
        elif job.ended is not None:
            expected = "JOB_TERMINAL"
        elif worker != job.worker and job.lease_end is not None and self.now < job.lease_end:
            expected = "LEASE_HELD"
        outcome = self.apply(commands.StartJob(job_id=job_id, worker_id=worker, lease_ms=lease), expected)
        if job is not None and outcome is not None:
            if worker != job.worker:
                job.attempt += 1
            job.state, job.worker, job.lease = "processing", worker, lease
            job.started = max(self.now, job.created) if job.started is None else job.started
            job.lease_end = None if lease is None else self.now + lease
            assert outcome.attempt == job.attempt

    @rule(job_id=JOB_IDS, attempt=ATTEMPTS, progress=st.sampled_from([None, 0.0, 0.5, 1.0]))
    def heartbeat(self, job_id: str, attempt: int, progress: float | None) -> None:
        job, expected = self.settled(job_id), None
        if job is None:
            expected = "JOB_NOT_FOUND"
        elif job.state == "pending":
            expected = "JOB_NOT_STARTED"
        else:
            expected = job.fence(attempt) or ("JOB_TERMINAL" if job.ended is not None else None)
        outcome = self.apply(commands.HeartbeatJob(job_id=job_id, attempt=attempt, progress=progress), expected)
        if job is not None and outcome is not None and job.lease is not None:
            job.lease_end = max(self.now + job.lease, job.lease_end or 0)

    @rule(job_id=JOB_IDS, attempt=ATTEMPTS, result=RESULTS, status_code=st.sampled_from([200, 201]))
    def complete(self, job_id: str, attempt: int, result: bytes, status_code: int) -> None:
        job = self.settled(job_id)
        outcome = (result, status_code)
        expected = "JOB_NOT_FOUND" if job is None else job.finish(self.now, attempt, "completed", outcome)
        command = commands.CompleteJob(job_id=job_id, result=result, attempt=attempt, status_code=status_code)
        self.apply(command, expected)

    @rule(job_id=JOB_IDS, attempt=ATTEMPTS, message=MESSAGES)
    def fail(self, job_id: str, attempt: int, message: str) -> None:
        job = self.settled(job_id)
        expected = "JOB_NOT_FOUND" if job is None else job.finish(self.now, attempt, "failed", (message,))
        error = JobError(error=ErrorField(message=message))
        self.apply(commands.FailJob(job_id=job_id, attempt=attempt, error=error), expected)

    @rule(job_id=JOB_IDS, reason=MESSAGES)
    def cancel(self, job_id: str, reason: str) -> None:
        """Needs no attempt; one who cancels again changes nothing, whatever the reason."""
        job, expected = self.settled(job_id), None
        if job is None:
            expected = "JOB_NOT_FOUND"
        elif job.ended is None:
            job.end(self.now, "failed", ("cancelled", "cancelled_by_client", reason))
        elif job.outcome is None or job.outcome[0] != "cancelled":
            expected = "JOB_TERMINAL"
        outcome = self.apply(commands.CancelJob(job_id=job_id, reason=reason), expected)
        if job is not None and outcome is not None:
            assert outcome.error is not None
            error = outcome.error.error
            assert (error.type, error.code, error.message, outcome.status_code) == (*(job.outcome or ()), 499)

    @rule(job_id=JOB_IDS)
    def delete(self, job_id: str) -> None:
        job = self.settled(job_id)
        self.apply(commands.DeleteJob(job_id=job_id), "JOB_NOT_FOUND" if job is None else None)
        if job is not None:  # one that has expired stays until a sweep, and would be back if the clock stepped back
            del self.model[job_id]
            self.seen.pop(job_id, None)

    @rule(job_id=JOB_IDS, results=st.lists(RESULTS, min_size=2, max_size=4))
    def race_to_the_end(self, job_id: str, results: list[bytes]) -> None:
        """Several callers end the job at the same time: each gets what it would have got one after the other."""
        job = self.settled(job_id)
        expected = [
            "JOB_NOT_FOUND" if job is None else job.finish(self.now, 0, "completed", (result, 200))
            for result in results
        ]

        async def race() -> list[Any]:
            writes = (self.tracker.apply(commands.CompleteJob(job_id=job_id, result=result)) for result in results)
            return await asyncio.gather(*writes, return_exceptions=True)

        outcomes = self.run(race())
        assert [item.reason if isinstance(item, JobStatusError) else None for item in outcomes] == expected

    @rule(seconds=st.sampled_from([0.001, 0.999, 1, 4, 30, 60]))
    def time_passes(self, seconds: float) -> None:
        self.now += int(seconds * 1000)

    @rule(seconds=st.integers(1, 20))
    def the_clock_steps_back(self, seconds: int) -> None:
        """No job comes back to life, and no time in a job runs backwards (see the invariant)."""
        if all(self.live(job_id) is not None for job_id in self.model):
            self.now -= seconds * 1000

    @rule()
    def sweep(self) -> None:
        self.run(self.sweeper.sweep())
        for job_id in list(self.model):
            if self.settled(job_id) is None:
                del self.model[job_id]
                self.seen.pop(job_id, None)

    @rule()
    def restart(self) -> None:
        """The store is closed and opened again. Memory forgets; leases run once more in full."""
        self.close()
        self.open()
        if self.kind == "memory":
            self.model.clear()
            self.seen.clear()
        for job in self.model.values():
            if job.lease is not None and job.lease_end is not None:
                job.lease_end = max(job.lease_end, self.now + job.lease)

    @invariant()
    def readers_see_the_model(self) -> None:
        if not hasattr(self, "runner"):
            return
        for job_id in ("a", "b"):
            job = self.live(job_id)
            for reader in (None, "vk-1", "vk-2"):
                visible = job is not None and (reader is None or job.owner == reader)
                assert self.polled(job_id, reader) == (None if job is None or not visible else job.ended is not None)
            (read,) = self.run(self.tracker.get_many([job_id], with_results=True))
            assert (read is None) == (job is None)
            if job is not None:
                assert isinstance(read, Job)
                self.compare(job, read)

    def polled(self, job_id: str, reader: str | None) -> bool | None:
        """Whether the poll is answered 200; None for not found."""
        try:
            return self.run(self.tracker.poller.poll(job_id, RequestType.OCR, Principal(reader))).is_terminal
        except JobNotFound:
            return None

    def compare(self, job: Model, read: Job) -> None:
        assert (read.state.value, read.attempt, read.worker_id) == (job.state, job.attempt, job.worker)
        assert (read.created_at_ms, read.started_at_ms, read.completed_at_ms) == (job.created, job.started, job.ended)
        if job.ended is not None:
            assert read.expires_at_ms == job.ended + job.ttl
            assert read.created_at_ms <= (read.started_at_ms or read.created_at_ms) <= job.ended
        assert (read.result is not None, read.error is not None) == (job.state == "completed", job.state == "failed")
        before = self.seen.get(read.job_id)
        if before is not None:
            assert read.version >= before.version
            assert read == before or read.version > before.version
            assert not before.is_terminal or read == before
        self.seen[read.job_id] = read

    @invariant()
    def listing_agrees(self) -> None:
        if hasattr(self, "runner"):
            listed = self.run(self.tracker.list_jobs(Listing(limit=10)))
            assert {job.job_id for job in listed} == {job_id for job_id in self.model if self.live(job_id) is not None}


@pytest.mark.hypothesis
@pytest.mark.parametrize("kind", STORES)
def test_every_history_is_one_that_the_rules_allow(kind: str) -> None:
    """Whatever is asked in whatever order, with restarts and moved clocks between, every store is as the model.

    The rules are the same over every store, so most histories are tried where they cost least.
    """
    machine = type(f"LifeOfAJobOn{kind.title()}", (LifeOfAJob,), {"kind": kind})
    examples = int(settings().max_examples * {"memory": 1, "sqlite": 0.3}.get(kind, 0.15))
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=examples, stateful_step_count=40, suppress_health_check=list(HealthCheck)),
    )
