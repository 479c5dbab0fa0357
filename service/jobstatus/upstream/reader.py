"""The reads of an edge, which has no store: they become calls to a JobStatus service.

Polls that arrive together become one BatchGetJobs, and lookups of virtual keys one BatchGetVirtualKeys: `Poller` and
`VirtualKeyCache` join them. Answers are the bytes that the service has stored. An older service answers with jobs, from
which the same function renders the same bytes; each response is taken for what it is, because replicas of both versions
may take turns.
A service that does not respond, or fails, is reported as a store that is unavailable; the message says why, for the
log. One that is silent is waited for once, by a circuit breaker.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from jobstatus.client.channel import ServiceChannel
from jobstatus.client.errors import ServiceUnreachable
from jobstatus.core.answer import render, render_without_result
from jobstatus.core.batch_reader import BatchReaderLimits
from jobstatus.core.circuit_breaker import BreakerLimits, CircuitBreaker
from jobstatus.core.errors import InvalidField, JobNotFound, JobStatusError, StoreUnavailable
from jobstatus.core.job import Job, JobState, is_valid_id
from jobstatus.core.store import NOT_NOW, UNKNOWN_SIZE, Answer, NotNow, StoreError, answer_of
from jobstatus.core.timekeeper import Timekeeper
from jobstatus.core.virtual_keys import VirtualKey
from jobstatus.rpc.messages import answer_from_message, job_from_message, virtual_key_from_message
from jobstatus.v1 import job_status_pb2 as jobs_v1
from jobstatus.v1 import virtual_keys_pb2 as keys_v1

Request = TypeVar("Request")
Response = TypeVar("Response")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamLimits:
    """The bounds of the calls to the service."""

    call_seconds: float = 1.5
    """How long a call may take, retries included. A poll may wait as long before its call begins, so that it is
    answered within 3 s. A store behind the service notices in less time that a part of it is silent."""
    large_result_seconds: float = 10.0
    large_at_a_time: int = 4
    """How many large results are fetched at a time: each is in memory several times until it has been sent on."""
    batches: BatchReaderLimits = BatchReaderLimits(late_seconds=0.005)  # noqa: RUF009  # a frozen value
    """A call costs as much as the answers of many polls."""
    breaker: BreakerLimits = BreakerLimits()  # noqa: RUF009  # a frozen value


_NONEXISTENT_JOB: Final = jobs_v1.Job(
    job_id="nobodys",
    request_type=jobs_v1.REQUEST_TYPE_TRANSCRIPTION,
    state=jobs_v1.JOB_STATE_PENDING,
    created_at=Timestamp(seconds=1),
    result_ttl=Duration(seconds=1),
)


class UpstreamReader:
    """Implements `core.store.JobReader` and `VirtualKeyReader` on an open channel."""

    reads_at_once = False

    def __init__(
        self,
        channel: ServiceChannel,
        limits: UpstreamLimits = UpstreamLimits(),  # a frozen value
        *,
        clock: Timekeeper,
    ) -> None:
        """`clock` hears the service's time."""
        self._channel = channel
        self._limits = limits
        self._clock = clock
        self._breaker = CircuitBreaker(self._check_health, limits.breaker)

    async def close(self) -> None:
        """End the health checks of the service."""
        await self._breaker.close()

    def try_read_answer(self, job_id: str) -> NotNow:  # noqa: ARG002  # the port's
        return NOT_NOW

    async def read_answers(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        wanted = [job_id for job_id in dict.fromkeys(job_ids) if is_valid_id(job_id)]
        if not wanted:
            await self.probe()  # so that it takes as long as a valid id, and is a 503 while the service is away
            return [None] * len(job_ids)
        request = jobs_v1.BatchGetJobsRequest(
            job_ids=wanted, omit_large_results=True, allow_partial_success=True, as_answers=True
        )
        response = await self._call(self._channel.jobs.BatchGetJobs, request)
        found: dict[str, Answer | StoreError | None]
        if response.answers:
            found = {job_id: _answer(message) for job_id, message in zip(wanted, response.answers, strict=True)}
        else:  # of an older service
            found = {message.job_id: _rendered_answer(message) for message in response.jobs}
        found |= {job_id: StoreUnavailable() for job_id in response.unavailable_job_ids}
        return [_answer_in(found, job_id) for job_id in job_ids]

    async def read_jobs(self, job_ids: Sequence[str], *, with_results: bool) -> list[Job | StoreError | None]:
        """Read jobs one by one. The only caller wants one large result, after the owner was compared."""
        return [await self._read_job(job_id, with_result=with_results) for job_id in job_ids]

    async def read_virtual_keys(self, virtual_key_ids: Sequence[str]) -> list[VirtualKey | None]:
        found = await self._get_virtual_keys(keys_v1.BatchGetVirtualKeysRequest(virtual_key_ids=virtual_key_ids))
        by_id = {virtual_key.virtual_key_id: virtual_key for virtual_key in found}
        return [by_id.get(virtual_key_id) for virtual_key_id in virtual_key_ids]

    async def find_virtual_keys(self, digests: Sequence[bytes]) -> list[VirtualKey | None]:
        found = await self._get_virtual_keys(keys_v1.BatchGetVirtualKeysRequest(key_sha256=digests))
        by_digest = {digest: virtual_key for virtual_key in found for digest in virtual_key.key_sha256}
        return [by_digest.get(digest) for digest in digests]

    async def virtual_keys_version(self) -> int:
        request, asked_at_ns = keys_v1.BatchGetVirtualKeysRequest(), self._clock.monotonic_ns()
        response = await self._call(self._channel.virtual_keys.BatchGetVirtualKeys, request)
        if response.HasField("time"):  # an older service does not tell
            self._clock.observe_store(response.time.ToMilliseconds(), asked_at_ns)
        return response.version

    async def probe(self) -> None:
        """Raise StoreUnavailable unless the service responds and can read its store."""
        await self.virtual_keys_version()

    async def _get_virtual_keys(self, request: keys_v1.BatchGetVirtualKeysRequest) -> list[VirtualKey]:
        response = await self._call(self._channel.virtual_keys.BatchGetVirtualKeys, request)
        try:
            return [virtual_key_from_message(message) for message in response.virtual_keys]
        except InvalidField as error:
            raise _unavailable(error) from error

    async def _read_job(self, job_id: str, *, with_result: bool) -> Job | None:
        request = jobs_v1.GetJobRequest(job_id=job_id, omit_result=not with_result)
        self._breaker.check_up()
        try:
            async with asyncio.timeout(self._limits.large_result_seconds):
                fetching = self._channel.call(
                    self._channel.jobs.GetJob, request, limit_seconds=self._limits.large_result_seconds
                )
                response = await self._while_it_responds(fetching)
            return job_from_message(response.job)
        except JobNotFound:
            return None
        except (JobStatusError, TimeoutError) as error:
            raise _unavailable(error) from error

    async def _while_it_responds(self, fetching: Coroutine[Any, Any, Response]) -> Response:
        """Return the response, which may take long. Raise StoreUnavailable as soon as the service does not respond."""
        fetch = asyncio.create_task(fetching)
        try:
            while not (await asyncio.wait({fetch}, timeout=self._limits.call_seconds))[0]:
                await self.probe()
            return fetch.result()
        finally:
            fetch.cancel()
            await asyncio.gather(fetch, return_exceptions=True)

    async def _call(self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]", request: Request) -> Response:
        """Return the response. Raise StoreUnavailable for every error of the service, at once while it is silent."""
        with self._breaker.watching():
            try:
                return await self._channel.call(method, request, limit_seconds=self._limits.call_seconds)
            except JobStatusError as error:
                raise _unavailable(error) from error

    async def _check_health(self) -> None:
        """Return when the service has answered, with an error or not. Raise ServiceUnreachable when it does not."""
        method, seconds = self._channel.virtual_keys.BatchGetVirtualKeys, self._limits.breaker.health_check_seconds
        try:
            await self._channel.call(method, keys_v1.BatchGetVirtualKeysRequest(), limit_seconds=seconds)
        except ServiceUnreachable:
            raise
        except JobStatusError:
            return


def _unavailable(error: JobStatusError | TimeoutError) -> StoreUnavailable:
    """Return the store's error, with the service's message for the log. Clients never see it."""
    return StoreUnavailable(error.message if isinstance(error, JobStatusError) else None)


def _answer(message: jobs_v1.PollAnswer) -> Answer | StoreError | None:
    """Return a poll's answer, or an error for a job with values that only a newer version of the service knows."""
    try:
        return answer_from_message(message)
    except InvalidField as error:
        return _strange(error)


def _rendered_answer(message: jobs_v1.Job) -> Answer | StoreError:
    """As `_answer`, from the job that an older service answers with."""
    try:
        return _render(job_from_message(message), message.result_size or UNKNOWN_SIZE)
    except InvalidField as error:
        return _strange(error)


def _strange(error: InvalidField) -> StoreError:
    unavailable = _unavailable(error)
    unavailable.__cause__ = error
    return unavailable


def _answer_in(found: Mapping[str, Answer | StoreError | None], job_id: str) -> Answer | StoreError | None:
    """Return the answer for one job. A job that an older service leaves out costs as much work as one that it tells of.

    So the time of a 404 reveals nothing. A service of this version tells of every job, whether or not it exists.
    """
    if job_id in found:
        return found[job_id]
    _rendered_answer(_NONEXISTENT_JOB)
    return None


def _render(job: Job, result_size: int) -> Answer:
    """Return a poll's answer. A completed job without its result has a large one; an older service tells no size."""
    if job.state is not JobState.COMPLETED or job.result is not None:
        return answer_of(job, render(job))
    return answer_of(job, render_without_result(job))._replace(result_size=result_size)
