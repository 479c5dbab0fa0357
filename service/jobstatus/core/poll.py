"""Answer polls: the only reads that public clients reach, and the only place that compares a job's owner.

Each read checks the job's expiry, whether or not the sweeper has run. A poll needs only two reads of a store, so an
edge without a store of its own uses the same code. A large result is read only where a client is to have it: whether
the client has it already, and how large it is, is known without it.
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
from jobstatus.core.store import NOT_NOW, UNKNOWN_SIZE, Answer, JobReader, NotNow, StoreError

NONEXISTENT_ID: Final = ""
"""Read in place of a malformed id, so that the store does the same work for every 404. No job can have it."""


MAX_RESULT_READS: Final = 4
"""Large results that are read at a time, because each is in memory several times until it has been read."""


class LargeResult(NamedTuple):
    """A result that a poll has found and not read; `Poller.read_result` reads it.

    `size` is in bytes, None where the store does not tell. `virtual_key_id` and `created_at_ms` are the job's.
    """

    job_id: str
    virtual_key_id: str | None
    created_at_ms: int
    size: int | None


class Poll(NamedTuple):
    """The outcome of a poll. A tuple because one is made for each poll.

    `body` is the job's whole document; with a `large_result` it is what precedes the result, which RESULT_TAIL then
    follows. `retry_after_ms` is the recommended time until the next poll of a job that has not ended. `reader` is the
    virtual key that polled a job which has ended; None for an admin.
    """

    is_terminal: bool
    created_at_ms: int
    version: int
    progress: float | None
    body: bytes
    retry_after_ms: int = 0
    reader: str | None = None
    large_result: LargeResult | None = None


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
        max_result_reads: int = MAX_RESULT_READS,
    ) -> None:
        """`clock` returns the time by which jobs expire, in ms; `unscoped_for_all` as in `access.may_read`."""
        self._store = store
        self._clock = clock
        self._observer = observer
        self._unscoped_for_all = unscoped_for_all
        self._batch = BatchReader(self._read_together, limits)
        self._result_reads = asyncio.Semaphore(max_result_reads)
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
        return self.make_poll(job_id, request_type, self.check(found, request_type, principal), principal)

    def try_poll(self, job_id: str, request_type: RequestType, principal: Principal) -> Poll | None:
        """Return what `poll` returns, or None where the store has to be waited for. Raises as `poll`."""
        found = self.try_read(job_id)
        if found is NOT_NOW:
            return None
        return self.make_poll(job_id, request_type, self.check(found, request_type, principal), principal)

    async def read_result(self, large: LargeResult) -> bytes:
        """Return the result that a poll has found.

        Raise JobNotFound when the job has expired, or was removed or replaced; StoreUnavailable when the store does not
        answer.
        """
        async with self._result_reads:
            with timed(self._observer, "read_jobs"):
                (job,) = await self._store.read_jobs((large.job_id,), with_results=True)
        if isinstance(job, JobStatusError):
            raise job
        if (
            job is None
            or job.result is None
            or job.is_expired(self._clock())
            or (job.virtual_key_id, job.created_at_ms) != (large.virtual_key_id, large.created_at_ms)
        ):
            raise JobNotFound
        return job.result

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

    def make_poll(self, job_id: str, request_type: RequestType, answer: Answer, principal: Principal) -> Poll:
        """Return the poll of a checked answer. It is the same for all who may read the job, except for its reader."""
        result = answer.result
        body = answer.body if result is None else b"".join((answer.body, result, RESULT_TAIL))
        if answer.expires_at_ms is not None:
            if self._estimator.first_seen_ended(job_id) and answer.ended_at_ms is not None:
                self._estimator.learn(request_type, answer.ended_at_ms - answer.created_at_ms)
            large = None if result is not None or answer.result_size is None else _large_result(job_id, answer)
            reader = principal.virtual_key_id
            return Poll(True, answer.created_at_ms, answer.version, answer.progress, body, 0, reader, large)
        retry_after_ms = self._estimator.retry_after_ms(job_id, request_type, self._clock() - answer.created_at_ms)
        return Poll(False, answer.created_at_ms, answer.version, answer.progress, body, retry_after_ms)

    async def _read_together(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        with timed(self._observer, "read_answers"):
            return await self._store.read_answers(job_ids)


def _lookup_id(job_id: str) -> str:
    return job_id if is_valid_id(job_id) else NONEXISTENT_ID


def _large_result(job_id: str, answer: Answer) -> LargeResult:
    size = None if answer.result_size == UNKNOWN_SIZE else answer.result_size
    return LargeResult(job_id, answer.virtual_key_id, answer.created_at_ms, size)
