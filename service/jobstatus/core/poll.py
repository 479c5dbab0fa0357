"""Answer polls: the only reads that public clients reach, and the only place that compares a job's owner.

Each read checks the job's expiry, whether or not the sweeper has run. A poll needs only two reads of a store, so an
edge without a store of its own uses the same code.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from jobstatus.core.access import Principal, may_read
from jobstatus.core.answer import RESULT_TAIL
from jobstatus.core.batch_reader import BatchReader, BatchReaderLimits
from jobstatus.core.errors import JobNotFound, JobStatusError
from jobstatus.core.job import RequestType, is_valid_id
from jobstatus.core.observer import Observer, timed
from jobstatus.core.retry_after import RetryAfterEstimator
from jobstatus.core.store import NOT_NOW, Answer, JobReader, NotNow, StoreError

NONEXISTENT_ID: Final = ""
"""Read in place of a malformed id, so that the store does the same work for every 404. No job can have it."""


class Poll(NamedTuple):
    """The outcome of a poll; `body` is the job's whole document. A tuple because one is made for each poll.

    `retry_after_ms` is the recommended time until the next poll of a job that has not ended.
    """

    is_terminal: bool
    created_at_ms: int
    version: int
    progress: float | None
    body: bytes
    retry_after_ms: int = 0


class Poller:
    """Answers polls from one store."""

    def __init__(
        self,
        store: JobReader,
        *,
        clock: Callable[[], int],
        observer: Observer,
        unscoped_for_all: bool,
        limits: BatchReaderLimits = BatchReaderLimits(),  # noqa: B008  # a frozen value
    ) -> None:
        """`clock` returns ms since the epoch; `unscoped_for_all` as in `access.may_read`."""
        self._store = store
        self._clock = clock
        self._observer = observer
        self._unscoped_for_all = unscoped_for_all
        self._batch = BatchReader(self._read_together, limits)
        self._estimator = RetryAfterEstimator()
        self.polls_at_once: Final = store.reads_at_once
        """Whether `try_poll` ever returns a poll."""

    async def poll(self, job_id: str, request_type: RequestType, principal: Principal) -> Poll:
        """Return what the REST contract answers about a job.

        Raise JobNotFound for a job that is unknown, expired, of another owner or of another request type, and for a
        malformed id, all after the same work; StoreUnavailable when the store does not answer.
        """
        found = self.try_read(job_id)
        if found is NOT_NOW:
            found = await self._batch.read(_lookup_id(job_id))
        answer = self.check(found, request_type, principal)
        result = answer.result
        if result is None and answer.result_size is not None:
            result = await self._large_result(job_id, answer)
        return self._poll(job_id, request_type, answer, result)

    def try_poll(self, job_id: str, request_type: RequestType, principal: Principal) -> Poll | None:
        """Return what `poll` returns, or None where that takes waiting: for the store, or for a large result (see
        Answer). Raises as `poll`."""
        found = self.try_read(job_id)
        if found is NOT_NOW:
            return None
        answer = self.check(found, request_type, principal)
        if answer.result is None and answer.result_size is not None:
            return None
        return self._poll(job_id, request_type, answer, answer.result)

    async def read(self, job_id: str) -> Answer | StoreError | None:
        """Return what `check` and `make_poll` make a poll of. For those who share one read; `poll` does it all."""
        found = self.try_read(job_id)
        return await self._batch.read(_lookup_id(job_id)) if found is NOT_NOW else found

    def try_read(self, job_id: str) -> Answer | StoreError | NotNow | None:
        """Return what `read` returns, or NOT_NOW where that takes waiting."""
        if not self.polls_at_once:
            return NOT_NOW
        started = time.perf_counter()
        try:
            return self._store.try_read_answer(_lookup_id(job_id))
        finally:
            self._observer.store_answered("read_answers", time.perf_counter() - started)

    def check(self, answer: Answer | StoreError | None, request_type: RequestType, principal: Principal) -> Answer:
        """Return the answer if this principal may read the job; raise as `poll`."""
        if isinstance(answer, JobStatusError):
            raise answer.with_traceback(None)
        if (
            answer is None
            or answer.request_type != request_type
            or not may_read(principal, answer.virtual_key_id, unscoped_for_all=self._unscoped_for_all)
            or (answer.expires_at_ms is not None and answer.expires_at_ms <= self._clock())
        ):
            raise JobNotFound
        return answer

    def make_poll(self, job_id: str, request_type: RequestType, answer: Answer) -> "Poll | asyncio.Task[Poll]":
        """Return the poll of a checked answer, at once or as a task where a large result has to be read."""
        if answer.result is not None or answer.result_size is None:
            return self._poll(job_id, request_type, answer, answer.result)
        task = asyncio.create_task(self._large_poll(job_id, request_type, answer), name="jobstatus-large-poll")
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # its callers may have gone
        return task

    async def _large_poll(self, job_id: str, request_type: RequestType, answer: Answer) -> Poll:
        return self._poll(job_id, request_type, answer, await self._large_result(job_id, answer))

    def _poll(self, job_id: str, request_type: RequestType, answer: Answer, result: bytes | None) -> Poll:
        body = answer.body if result is None else b"".join((answer.body, result, RESULT_TAIL))
        if answer.expires_at_ms is not None:
            if self._estimator.first_seen_ended(job_id) and answer.ended_at_ms is not None:
                self._estimator.learn(request_type, answer.ended_at_ms - answer.created_at_ms)
            return Poll(True, answer.created_at_ms, answer.version, answer.progress, body)
        retry_after_ms = self._estimator.retry_after_ms(job_id, request_type, self._clock() - answer.created_at_ms)
        return Poll(False, answer.created_at_ms, answer.version, answer.progress, body, retry_after_ms)

    async def _read_together(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        with timed(self._observer, "read_answers"):
            return await self._store.read_answers(job_ids)

    async def _large_result(self, job_id: str, answer: Answer) -> bytes:
        """Read a result that is not part of its answer; raise JobNotFound when the job has been removed or replaced."""
        with timed(self._observer, "read_jobs"):
            (job,) = await self._store.read_jobs((job_id,), with_results=True)
        if isinstance(job, JobStatusError):
            raise job
        if (
            job is None
            or job.result is None
            or job.is_expired(self._clock())
            or (job.virtual_key_id, job.created_at_ms) != (answer.virtual_key_id, answer.created_at_ms)
        ):
            raise JobNotFound
        return job.result


def _lookup_id(job_id: str) -> str:
    return job_id if is_valid_id(job_id) else NONEXISTENT_ID
