"""The use cases: what the two edges can ask of the core. It must not know HTTP or gRPC.

Expiry is judged at each read, here and in `poll`, whether or not the sweeper has run.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from jobstatus.core.commands import Command
from jobstatus.core.errors import JobNotFound, JobStatusError
from jobstatus.core.job import Job, JobState
from jobstatus.core.observer import Observer, timed
from jobstatus.core.poll import Poller
from jobstatus.core.rules import Policy
from jobstatus.core.store import Answer, JobStore, Listing, StoreError
from jobstatus.core.watching.change_feed import ChangeFeed
from jobstatus.core.watching.subscriptions import ConcurrencyLimit, JobSubscriptions
from jobstatus.core.writer import Outcome, Writer


class JobTracker:
    """Writes and reads of jobs upon one store. Enter `watching` reads through `watch`; end with `close`."""

    def __init__(
        self,
        store: JobStore,
        *,
        clock: Callable[[], int],
        policy: Policy,
        observer: Observer,
        unscoped_for_all: bool = False,
        max_watchers: int = 10_000,
        subscriptions: JobSubscriptions | None = None,
    ) -> None:
        """`clock` returns ms since the epoch; `unscoped_for_all` as in `access.may_read`."""
        self._store = store
        self._clock = clock
        self._observer = observer
        poller = Poller(store, clock=clock, observer=observer, unscoped_for_all=unscoped_for_all)
        self.poll: Final = poller.poll
        self.try_poll: Final = poller.try_poll
        self.polls_at_once: Final = poller.polls_at_once
        self._subscriptions = JobSubscriptions() if subscriptions is None else subscriptions
        self._limit = ConcurrencyLimit(max_watchers)
        self._writer = Writer(store, clock=clock, policy=policy, observer=observer, on_commit=self._subscriptions.wake)

    async def write(self, commands: Sequence[Command]) -> list[Outcome]:
        """Apply commands as `Writer.write` says: one outcome for each, in order."""
        return await self._writer.write(commands)

    async def apply(self, command: Command) -> Job:
        """Apply one command; the job as it left it. Raises what refused it, or why the store could not."""
        (outcome,) = await self._writer.write((command,))
        if isinstance(outcome, JobStatusError):
            raise outcome.with_traceback(None)
        return outcome

    async def result_bytes(self, job_ids: Sequence[str]) -> int:
        """How large the results of these jobs are together."""
        answers = await self._store.read_answers(job_ids)
        return sum(answer.result_size or 0 for answer in answers if isinstance(answer, Answer))

    async def get(self, job_id: str, *, with_result: bool = True) -> Job:
        """One job. Raises JobNotFound when it is unknown or expired."""
        (job,) = await self.get_many((job_id,), with_results=with_result)
        if job is None:
            raise JobNotFound
        if isinstance(job, JobStatusError):
            raise job
        return job

    async def get_many(self, job_ids: Sequence[str], *, with_results: bool) -> list[Job | StoreError | None]:
        """Jobs in the order asked for; None where one is unknown or expired, the error where one cannot be read."""
        with timed(self._observer, "read_jobs"):
            jobs = await self._store.read_jobs(job_ids, with_results=with_results)
        now_ms = self._clock()
        return [None if isinstance(job, Job) and job.is_expired(now_ms) else job for job in jobs]

    async def get_many_small(self, job_ids: Sequence[str]) -> list[Job | StoreError | None]:
        """The same with those results that come along with an answer (see Answer); larger ones are left out.

        Both reads at a time: the caller is an edge that has no more patience than one takes.
        """
        answers, jobs = await asyncio.gather(
            self._store.read_answers(job_ids), self.get_many(job_ids, with_results=False)
        )
        return [_with_small_result(job, answer) for job, answer in zip(jobs, answers, strict=True)]

    async def list_jobs(self, listing: Listing) -> list[Job]:
        """A page of jobs without results, newest first, as of now (the listing's `now_ms` is set here)."""
        with timed(self._observer, "list_jobs"):
            return await self._store.list_jobs(replace(listing, now_ms=self._clock()))

    async def watch(self, job_id: str, *, after_version: int, with_result: bool) -> AsyncGenerator[Job]:
        """The job now if it is above `after_version` or terminal, then its newer versions; ends after the terminal one.

        Raises JobNotFound when it is unknown or goes away, ShuttingDown when the service stops, Overloaded when too
        many watch already.
        """
        with self._limit.acquire(), self._subscriptions.waiting_for(job_id) as changed:
            while True:
                changed.clear()
                job = await self.get(job_id, with_result=with_result)
                self._subscriptions.seen(job_id, job.version)
                if job.version > after_version or job.is_terminal:
                    after_version = job.version
                    yield job
                if job.is_terminal:
                    return
                await changed.wait()
                self._subscriptions.check_open()

    def change_feed(self) -> ChangeFeed:
        """A listener for the changes of many jobs, to be entered."""
        return ChangeFeed(self._subscriptions, partial(self.get_many, with_results=False))

    async def notify_remote_changes(self) -> None:
        """Wake those who wait for a job that another process has changed. Raises what the store raises."""
        if versions := self._subscriptions.versions():
            with timed(self._observer, "changed"):
                found = await self._store.changed(versions)
            self._subscriptions.found(found)

    def refuse(self) -> None:
        """End every watch, and refuse new writes, with ShuttingDown."""
        self._subscriptions.close()
        self._writer.refuse()

    async def close(self) -> None:
        """End the watches, refuse new writes, and return when those under way are answered."""
        self.refuse()
        await self._writer.close()


def _with_small_result(job: Job | StoreError | None, answer: Answer | StoreError | None) -> Job | StoreError | None:
    """The job with the answer's result, if that is this job's: each was read on its own."""
    if not isinstance(job, Job) or not isinstance(answer, Answer) or job.state is not JobState.COMPLETED:
        return job
    is_same = (job.virtual_key_id, job.created_at_ms, job.expires_at_ms) == answer[1:4]
    return job._replace(result=answer.result) if is_same else job
