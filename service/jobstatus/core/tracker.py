"""The use cases: what REST and gRPC can ask of the core. It must not know either of them.

Each read compares expiry with the clock, here and in `poll`, whether or not the sweeper has run.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

from jobstatus.core.batch_reader import BatchReaderLimits
from jobstatus.core.commands import Command
from jobstatus.core.errors import JobNotFound, JobStatusError
from jobstatus.core.job import Job, JobState
from jobstatus.core.observer import Observer, timed
from jobstatus.core.poll import Poller
from jobstatus.core.rules import Policy
from jobstatus.core.store import Answer, JobPage, JobStore, Listing, StoreError
from jobstatus.core.timekeeper import Timekeeper
from jobstatus.core.watching.change_feed import ChangeFeed
from jobstatus.core.watching.shared_reads import AwaitingWaiter, Reading, SharedReads
from jobstatus.core.watching.subscriptions import ConcurrencyLimit, JobSubscriptions
from jobstatus.core.write_queue import Outcome, WriterLimits
from jobstatus.core.writer import Writer

Rendered = TypeVar("Rendered")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerLimits:
    """The limits of a tracker's parts."""

    reads: BatchReaderLimits = BatchReaderLimits()  # noqa: RUF009  # a frozen value
    writes: WriterLimits = WriterLimits()  # noqa: RUF009  # a frozen value
    page_seconds: float = 0.05
    """How long jobs for one page of a listing are looked for."""
    max_followed: int = 100_000
    """Jobs that one change feed may follow."""


class JobTracker:
    """Reads, writes and watches of the jobs of one store. End with `close`."""

    def __init__(
        self,
        store: JobStore,
        *,
        clock: Timekeeper,
        policy: Policy,
        observer: Observer,
        unscoped_for_all: bool = False,
        max_watchers: int = 10_000,
        subscriptions: JobSubscriptions | None = None,
        limits: TrackerLimits = TrackerLimits(),
    ) -> None:
        """`unscoped_for_all` as in `access.may_read`."""
        self._limits = limits
        self._store = store
        self._expiry_ms = clock.expiry_ms
        self._observer = observer
        self.poller: Final = Poller(
            store, clock=clock.expiry_ms, observer=observer, unscoped_for_all=unscoped_for_all, limits=limits.reads
        )
        self._subscriptions = JobSubscriptions() if subscriptions is None else subscriptions
        self._reads = {
            with_result: SharedReads(self._subscriptions, partial(self._read, with_result=with_result))
            for with_result in (False, True)
        }
        self._watchers = ConcurrencyLimit(max_watchers)
        self._writer = Writer(
            store,
            clock=clock,
            policy=policy,
            observer=observer,
            on_commit=self._subscriptions.wake,
            limits=limits.writes,
        )

    @property
    def watcher_count(self) -> int:
        """How many watch a job."""
        return self._watchers.count

    @property
    def queued_writes(self) -> int:
        """How many writes wait for a commit, in the longest queue."""
        return max((queue.waiting_commands for queue in self._writer.queues), default=0)

    @property
    def queued_write_bytes(self) -> int:
        """How many bytes of results wait for a commit, in the largest queue."""
        return max((queue.waiting_bytes for queue in self._writer.queues), default=0)

    async def write(self, commands: Sequence[Command]) -> list[Outcome]:
        """Apply commands as `Writer.write` does. Return one outcome for each, in order."""
        return await self._writer.write(commands)

    async def apply(self, command: Command) -> Job:
        """Apply one command. Return the job as the command left it. Raises the refusal, or the store's error."""
        (outcome,) = await self._writer.write((command,))
        if isinstance(outcome, JobStatusError):
            raise outcome.with_traceback(None)
        return outcome

    async def result_bytes(self, job_ids: Sequence[str]) -> int:
        """Return the size of the results of these jobs together."""
        answers = await self._store.read_answers(job_ids)
        return sum(answer.result_size or 0 for answer in answers if isinstance(answer, Answer))

    async def get(self, job_id: str, *, with_result: bool = True) -> Job:
        """Return one job. Raises JobNotFound when it is unknown or expired, or the store's error."""
        return _present(await self._read(job_id, with_result=with_result))

    async def get_many(self, job_ids: Sequence[str], *, with_results: bool) -> list[Job | StoreError | None]:
        """Return jobs in the order asked for; None where unknown or expired, the error where a job cannot be read."""
        with timed(self._observer, "read_jobs"):
            jobs = await self._store.read_jobs(job_ids, with_results=with_results)
        now_ms = self._expiry_ms()
        return [None if isinstance(job, Job) and job.is_expired(now_ms) else job for job in jobs]

    async def answers(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        """Return what polls are told of jobs, in the order asked for; None and errors as in `get_many`."""
        with timed(self._observer, "read_answers"):
            answers = await self._store.read_answers(job_ids)
        now_ms = self._expiry_ms()
        return [
            None if isinstance(answer, Answer) and (answer.expires_at_ms or now_ms + 1) <= now_ms else answer
            for answer in answers
        ]

    async def get_many_small(self, job_ids: Sequence[str]) -> list[tuple[Job | StoreError | None, int | None]]:
        """As `get_many`, with the results that come along with an answer (see Answer), without larger ones.

        With each job comes the size of the result that was left out; None where none was. Both reads run at the same
        time, because the caller is an edge, whose time limit allows for one.
        """
        answers, jobs = await asyncio.gather(
            self._store.read_answers(job_ids), self.get_many(job_ids, with_results=False)
        )
        return [_with_small_result(job, answer) for job, answer in zip(jobs, answers, strict=True)]

    async def list_page(self, listing: Listing) -> JobPage:
        """Return a page of the jobs that have not expired, without results, newest first.

        It is short, and says where the listing goes on, where finding so many jobs takes longer than `page_seconds`.
        """
        now = asyncio.get_running_loop().time
        ends_at, jobs = now() + self._limits.page_seconds, list[Job]()
        while True:
            with timed(self._observer, "list_jobs"):
                page = await self._store.list_page(listing, self._expiry_ms())
            jobs += page.jobs
            left = listing.limit - len(page.jobs)
            if page.next_before is None or left <= 0 or now() >= ends_at:
                return JobPage(jobs, page.next_before)
            listing = replace(listing, limit=left, before=page.next_before)

    async def list_jobs(self, listing: Listing) -> list[Job]:
        """Return the jobs of `list_page`."""
        return (await self.list_page(listing)).jobs

    async def watch(
        self,
        job_id: str,
        render: Callable[[Job], Rendered],
        *,
        after_version: int,
        with_result: bool,
        idle_seconds: float | None = None,
    ) -> AsyncGenerator[Rendered | None]:
        """Yield the job now if it is above `after_version` or terminal, then its newer versions up to the terminal one.

        The job is yielded as `render` returns it. A version that several watch is read and rendered once for all, so
        all must render alike. With `idle_seconds` yield None whenever nothing was yielded for so long; the job is not
        read for that. Raises JobNotFound when the job is unknown or goes away, ShuttingDown when the service stops, and
        Overloaded when `max_watchers` watch already.
        """
        now = asyncio.get_running_loop().time
        yielded_at = now()
        with self._watchers.acquire(), self._reads[with_result].waiting_for(job_id) as waiter:
            reading: Reading[Job] | None = None
            while True:
                reading = reading or await self._read_for(waiter, job_id, with_result=with_result)
                job = _present(reading.found)
                if job.version > after_version or job.is_terminal:
                    after_version = job.version
                    yield reading.make(partial(render, job))
                    yielded_at = now()
                if job.is_terminal:
                    return
                self._subscriptions.check_open()
                while not await waiter.wait(None if idle_seconds is None else yielded_at + idle_seconds):
                    yield None
                    yielded_at = now()
                reading = waiter.take()
                if reading is None:
                    self._subscriptions.check_open()

    async def _read_for(self, waiter: AwaitingWaiter[Job], job_id: str, *, with_result: bool) -> Reading[Job]:
        waiter.begin_own_read()
        reading = Reading(await self._read(job_id, with_result=with_result))
        if reading.job is not None:
            waiter.end_own_read(reading.job.version)
        return reading

    async def _read(self, job_id: str, *, with_result: bool) -> Job | StoreError | None:
        (job,) = await self.get_many((job_id,), with_results=with_result)
        return job

    def change_feed(self) -> ChangeFeed:
        """Return a listener for the changes of many jobs, to be entered."""
        return ChangeFeed(self._subscriptions, partial(self.get_many, with_results=False), self._limits.max_followed)

    async def notify_remote_changes(self) -> None:
        """Wake the waiters of jobs that another process has changed. Raises what the store raises."""
        if versions := self._subscriptions.versions():
            with timed(self._observer, "changed"):
                found = await self._store.changed(versions)
            self._subscriptions.found(found)

    def end_watches(self) -> None:
        """End every watch, and refuse new ones, with ShuttingDown. Reads and writes go on."""
        self._subscriptions.close()

    async def close(self) -> None:
        """End every watch, refuse new writes, and return when those under way are answered."""
        self.end_watches()
        await self._writer.close()


def _present(job: Job | StoreError | None) -> Job:
    """Return the job that was read. Raises JobNotFound where there is none, or the store's error."""
    if job is None:
        raise JobNotFound
    if isinstance(job, JobStatusError):
        raise job.with_traceback(None)
    return job


def _with_small_result(
    job: Job | StoreError | None, answer: Answer | StoreError | None
) -> tuple[Job | StoreError | None, int | None]:
    """Return the job with the answer's result or its size, if they are of the same job: the two were read apart."""
    if not isinstance(job, Job) or not isinstance(answer, Answer) or job.state is not JobState.COMPLETED:
        return job, None
    if (job.virtual_key_id, job.created_at_ms, job.expires_at_ms) != answer[1:4]:
        return job, None
    return (job, answer.result_size) if answer.result is None else (job._replace(result=answer.result), None)
