"""What a poll is answered: the one reader that strangers reach, and the one place where a job's owner is compared.

Expiry is judged here, at each read, whether or not the sweeper has run. It needs of a store no more than two reads, so
that an edge without a store of its own can be polled by the same code.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from jobstatus.core.access import Principal, may_read
from jobstatus.core.answer import RESULT_TAIL, ended_at_ms
from jobstatus.core.batch_reader import BatchReader, BatchReaderLimits
from jobstatus.core.errors import JobNotFound, JobStatusError
from jobstatus.core.job import RequestType, is_valid_id
from jobstatus.core.observer import Observer, timed
from jobstatus.core.retry_after import RetryAfterEstimator
from jobstatus.core.store import Answer, JobReader, StoreError

NONEXISTENT_ID: Final = ""
"""Looked up in place of a malformed id, so that the store does the same work for every 404. No job can have it."""


class Poll(NamedTuple):
    """What a poll answers; `body` is the job's whole document. A tuple, since it is made for each poll.

    `retry_after_ms` is after how long it is worth while to ask again, for a job under way.
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
        """`clock` tells ms since the epoch; `unscoped_for_all` as in `access.may_read`."""
        self._store = store
        self._clock = clock
        self._observer = observer
        self._unscoped_for_all = unscoped_for_all
        self._group = BatchReader(self._read_together, limits)
        self._expected = RetryAfterEstimator()
        read_now = store.read_answer_now
        self._find_now = None if read_now is None else partial(self._find_with, read_now)
        self.poll_now: Final = None if self._find_now is None else partial(self._poll_with, self._find_now)
        """What `poll` answers, at once: in a store that has nothing to wait for. None for a result that does not come
        along with an answer (see Answer). In any other store there is no such function."""

    async def poll(self, job_id: str, request_type: RequestType, principal: Principal) -> Poll:
        """What the REST contract answers about a job.

        Raises JobNotFound for a job that is unknown, expired, somebody else's or another request type's, and for a
        malformed id, all after the same work; StoreUnavailable when the store does not answer.
        """
        lookup_id = _lookup_id(job_id)
        found = await self._group.read(lookup_id) if self._find_now is None else self._find_now(lookup_id)
        answer = self._checked(found, request_type, principal)
        result = answer.result
        if result is None and answer.result_size is not None:
            result = await self._large_result(job_id, answer)
        return self._poll(job_id, request_type, answer, result)

    def _find_with(
        self, read: Callable[[str], Answer | StoreError | None], lookup_id: str
    ) -> Answer | StoreError | None:
        started = time.perf_counter()
        try:
            return read(lookup_id)
        finally:
            self._observer.store_answered("read_answers", time.perf_counter() - started)

    def _poll_with(
        self,
        find: Callable[[str], Answer | StoreError | None],
        job_id: str,
        request_type: RequestType,
        principal: Principal,
    ) -> Poll | None:
        answer = self._checked(find(_lookup_id(job_id)), request_type, principal)
        if answer.result is None and answer.result_size is not None:
            return None
        return self._poll(job_id, request_type, answer, answer.result)

    def _checked(self, answer: Answer | StoreError | None, request_type: RequestType, principal: Principal) -> Answer:
        """What was found, if it is a job's that this principal may read; raises as `poll`."""
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

    def _poll(self, job_id: str, request_type: RequestType, answer: Answer, result: bytes | None) -> Poll:
        body = answer.body if result is None else b"".join((answer.body, result, RESULT_TAIL))
        if answer.expires_at_ms is not None:
            if self._expected.first_seen_ended(job_id):
                self._learn(request_type, answer)
            return Poll(True, answer.created_at_ms, answer.version, answer.progress, body)
        retry_after_ms = self._expected.retry_after_ms(job_id, request_type, self._clock() - answer.created_at_ms)
        return Poll(False, answer.created_at_ms, answer.version, answer.progress, body, retry_after_ms)

    def _learn(self, request_type: RequestType, answer: Answer) -> None:
        at_ms = ended_at_ms(answer.body)
        if at_ms is not None:
            self._expected.learn(request_type, at_ms - answer.created_at_ms)

    async def _read_together(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        with timed(self._observer, "read_answers"):
            return await self._store.read_answers(job_ids)

    async def _large_result(self, job_id: str, answer: Answer) -> bytes:
        """The result that did not come along; JobNotFound when the job has gone, or become another one, meanwhile."""
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
