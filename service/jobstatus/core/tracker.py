"""The use cases: what the two edges can ask of the core. It must not know HTTP or gRPC.

Expiry is judged here, at each read, whether or not the sweeper has run. The owner of a job is compared here and nowhere
else, by `access.may_read`.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from jobstatus.core.access import Principal, may_read
from jobstatus.core.answer import RESULT_TAIL
from jobstatus.core.commands import Command
from jobstatus.core.errors import JobNotFound, JobStatusError
from jobstatus.core.job import Job, RequestType, is_valid_id
from jobstatus.core.observer import Observer, timed
from jobstatus.core.rules import Policy
from jobstatus.core.store import Answer, JobStore, Listing
from jobstatus.core.watch import Watchers
from jobstatus.core.writer import Outcome, Writer

NOBODYS_ID: Final = ""
"""Looked up in place of a malformed id, so that the store does the same work for every 404. No job can have it."""


class Poll(NamedTuple):
    """What a poll answers; `body` is the job's whole document. A tuple, since it is made for each poll."""

    is_terminal: bool
    created_at_ms: int
    body: bytes


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
    ) -> None:
        """`clock` tells ms since the epoch; `unscoped_for_all` as in `access.may_read`."""
        self._store = store
        self._clock = clock
        self._observer = observer
        self._unscoped_for_all = unscoped_for_all
        self._watchers = Watchers(max_watchers)
        self._writer = Writer(store, clock=clock, policy=policy, observer=observer, on_commit=self._watchers.wake)

    async def write(self, commands: Sequence[Command]) -> list[Outcome]:
        """Apply commands as `Writer.write` says: one outcome for each, in order."""
        return await self._writer.write(commands)

    async def apply(self, command: Command) -> Job:
        """Apply one command; the job as it left it. Raises what refused it, or why the store could not."""
        (outcome,) = await self._writer.write((command,))
        if isinstance(outcome, JobStatusError):
            raise outcome.with_traceback(None)
        return outcome

    async def poll(self, job_id: str, request_type: RequestType, principal: Principal) -> Poll:
        """What the REST contract answers about a job.

        Raises JobNotFound for a job that is unknown, expired, somebody else's or another request type's, and for a
        malformed id, all after the same work; StoreUnavailable when the store does not answer.
        """
        (answer,) = await self._store.read_answers((job_id if is_valid_id(job_id) else NOBODYS_ID,))
        if (
            answer is None
            or answer.request_type != request_type
            or not may_read(principal, answer.virtual_key_id, unscoped_for_all=self._unscoped_for_all)
            or (answer.expires_at_ms is not None and answer.expires_at_ms <= self._clock())
        ):
            raise JobNotFound
        if answer.result_size is None:
            body = answer.body
        else:
            result = await self._large_result(job_id, answer) if answer.result is None else answer.result
            body = b"".join((answer.body, result, RESULT_TAIL))
        return Poll(answer.expires_at_ms is not None, answer.created_at_ms, body)

    async def _large_result(self, job_id: str, answer: Answer) -> bytes:
        """The result that did not come along; JobNotFound when the job has gone, or become another one, meanwhile."""
        job = await self.get(job_id)
        is_same = (job.virtual_key_id, job.created_at_ms) == (answer.virtual_key_id, answer.created_at_ms)
        if job.result is None or not is_same:
            raise JobNotFound
        return job.result

    async def result_bytes(self, job_ids: Sequence[str]) -> int:
        """How large the results of these jobs are together."""
        return sum(answer.result_size or 0 for answer in await self._store.read_answers(job_ids) if answer is not None)

    async def get(self, job_id: str, *, with_result: bool = True) -> Job:
        """One job. Raises JobNotFound when it is unknown or expired."""
        (job,) = await self.get_many((job_id,), with_results=with_result)
        if job is None:
            raise JobNotFound
        return job

    async def get_many(self, job_ids: Sequence[str], *, with_results: bool) -> list[Job | None]:
        """Jobs in the order asked for; None where one is unknown or expired."""
        with timed(self._observer, "read_jobs"):
            jobs = await self._store.read_jobs(job_ids, with_results=with_results)
        now_ms = self._clock()
        return [None if job is None or job.is_expired(now_ms) else job for job in jobs]

    async def list_jobs(self, listing: Listing) -> list[Job]:
        """A page of jobs without results, newest first, as of now (the listing's `now_ms` is set here)."""
        with timed(self._observer, "list_jobs"):
            return await self._store.list_jobs(replace(listing, now_ms=self._clock()))

    async def watch(self, job_id: str, *, after_version: int, with_result: bool) -> AsyncGenerator[Job]:
        """The job now if it is above `after_version` or terminal, then its newer versions; ends after the terminal one.

        Raises JobNotFound when it is unknown or goes away, ShuttingDown when the service stops, Overloaded when too
        many watch already.
        """
        with self._watchers.waiting_for(job_id) as changed:
            while True:
                changed.clear()
                job = await self.get(job_id, with_result=with_result)
                if job.version > after_version or job.is_terminal:
                    after_version = job.version
                    yield job
                if job.is_terminal:
                    return
                await changed.wait()
                self._watchers.check_open()

    def refuse(self) -> None:
        """End every watch, and refuse new writes, with ShuttingDown."""
        self._watchers.close()
        self._writer.refuse()

    async def close(self) -> None:
        """End the watches, refuse new writes, and return when those under way are answered."""
        self.refuse()
        await self._writer.close()
