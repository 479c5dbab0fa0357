"""The reads of a store, answered by a JobStatus service: what an edge needs that has no store of its own.

Polls that come together are one BatchGetJobs, and so are questions for virtual keys, which every stranger can cause.
The bytes of an answer are rendered here by the function that the service uses, from the same job, so they are the same
bytes. A service that does not answer, or says that it cannot, is a store that does not answer; its message says why,
for the log.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from jobstatus.client.connection import ServiceChannel
from jobstatus.core.answer import render
from jobstatus.core.batch_reader import BatchReader
from jobstatus.core.errors import InvalidField, JobNotFound, JobStatusError, StoreUnavailable
from jobstatus.core.job import Job, JobState, is_valid_id
from jobstatus.core.store import NOT_NOW, SMALL_RESULT_BYTES, Answer, NotNow, StoreError, answer_of
from jobstatus.core.virtual_keys import VirtualKey
from jobstatus.rpc.messages import job_from_message, virtual_key_from_message
from jobstatus.v1 import job_status_pb2 as jobs_v1
from jobstatus.v1 import virtual_keys_pb2 as keys_v1

Request = TypeVar("Request")
Response = TypeVar("Response")

LIMIT_SECONDS: Final = 1.5
"""How long a question may take, repetitions included. A poll may wait as long before its question is asked, so that it
is answered within 3 s; and a store inside finds out in less time that a part of it is silent."""
LARGE_RESULT_SECONDS: Final = 10.0
LARGE_AT_A_TIME: Final = 4
"""How many large results are fetched at a time: each is in memory several times over until it is passed on."""

_NONEXISTENT_JOB: Final = jobs_v1.Job(
    job_id="nobodys",
    request_type=jobs_v1.REQUEST_TYPE_TRANSCRIPTION,
    state=jobs_v1.JOB_STATE_PENDING,
    created_at=Timestamp(seconds=1),
    result_ttl=Duration(seconds=1),
)


class UpstreamReader:
    """Implements `core.store.JobReader` and `VirtualKeyReader` upon a connection that is open."""

    reads_at_once = False

    def __init__(self, connection: ServiceChannel) -> None:
        self._connection = connection
        self._by_id = BatchReader(self._read_virtual_keys)
        self._by_digest = BatchReader(self._find_virtual_keys)
        self._room_for_large = asyncio.Semaphore(LARGE_AT_A_TIME)

    def try_read_answer(self, job_id: str) -> NotNow:  # noqa: ARG002  # the port's
        return NOT_NOW

    async def read_answers(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        wanted = [job_id for job_id in dict.fromkeys(job_ids) if is_valid_id(job_id)]
        if not wanted:
            await self.probe()  # so that who asks for what cannot be is told no sooner, and not while nobody answers
            return [None] * len(job_ids)
        request = jobs_v1.BatchGetJobsRequest(job_ids=wanted, omit_large_results=True, allow_partial_success=True)
        response = await self._call(self._connection.jobs.BatchGetJobs, request)
        found: dict[str, Answer | StoreError]
        found = {message.job_id: _read_answer(message) for message in response.jobs}
        found |= {job_id: StoreUnavailable() for job_id in response.unavailable_job_ids}
        return [_answer_in(found, job_id) for job_id in job_ids]

    async def read_jobs(self, job_ids: Sequence[str], *, with_results: bool) -> list[Job | StoreError | None]:
        """One by one: asked for nothing but a large result, whose owner was compared before."""
        return [await self._read_job(job_id, with_result=with_results) for job_id in job_ids]

    async def read_virtual_keys(self, virtual_key_ids: Sequence[str]) -> list[VirtualKey | None]:
        return list(await asyncio.gather(*map(self._by_id.read, virtual_key_ids)))

    async def find_virtual_keys(self, digests: Sequence[bytes]) -> list[VirtualKey | None]:
        return list(await asyncio.gather(*map(self._by_digest.read, digests)))

    async def virtual_keys_version(self) -> int:
        request = keys_v1.BatchGetVirtualKeysRequest()
        return (await self._call(self._connection.virtual_keys.BatchGetVirtualKeys, request)).version

    async def probe(self) -> None:
        """Return if the service answers and its store can be read; raise StoreUnavailable if not."""
        await self.virtual_keys_version()

    async def _read_virtual_keys(self, virtual_key_ids: Sequence[str]) -> list[VirtualKey | None]:
        wanted = list(dict.fromkeys(virtual_key_ids))
        found = await self._ask_for_virtual_keys(keys_v1.BatchGetVirtualKeysRequest(virtual_key_ids=wanted))
        by_id = {virtual_key.virtual_key_id: virtual_key for virtual_key in found}
        return [by_id.get(virtual_key_id) for virtual_key_id in virtual_key_ids]

    async def _find_virtual_keys(self, digests: Sequence[bytes]) -> list[VirtualKey | None]:
        wanted = list(dict.fromkeys(digests))
        found = await self._ask_for_virtual_keys(keys_v1.BatchGetVirtualKeysRequest(key_sha256=wanted))
        by_digest = {digest: virtual_key for virtual_key in found for digest in virtual_key.key_sha256}
        return [by_digest.get(digest) for digest in digests]

    async def _ask_for_virtual_keys(self, request: keys_v1.BatchGetVirtualKeysRequest) -> list[VirtualKey]:
        response = await self._call(self._connection.virtual_keys.BatchGetVirtualKeys, request)
        try:
            return [virtual_key_from_message(message) for message in response.virtual_keys]
        except InvalidField as error:
            raise _unavailable(error) from error

    async def _read_job(self, job_id: str, *, with_result: bool) -> Job | None:
        request = jobs_v1.GetJobRequest(job_id=job_id, omit_result=not with_result)
        try:
            async with asyncio.timeout(LARGE_RESULT_SECONDS), self._room_for_large:
                response = await self._connection.call(
                    self._connection.jobs.GetJob, request, limit_seconds=LARGE_RESULT_SECONDS
                )
            return job_from_message(response.job)
        except JobNotFound:
            return None
        except (JobStatusError, TimeoutError) as error:
            raise _unavailable(error) from error

    async def _call(self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]", request: Request) -> Response:
        """The answer; whatever else the service says, it is one that cannot be asked now."""
        try:
            return await self._connection.call(method, request, limit_seconds=LIMIT_SECONDS)
        except JobStatusError as error:
            raise _unavailable(error) from error


def _unavailable(error: JobStatusError | TimeoutError) -> StoreUnavailable:
    """The error of a store, saying what was said of the service. Strangers are never shown its message."""
    return StoreUnavailable(error.message if isinstance(error, JobStatusError) else None)


def _read_answer(message: jobs_v1.Job) -> Answer | StoreError:
    """What a poll answers; an error in the place of a job that a newer service tells of in words unknown here."""
    try:
        return _answer_of(job_from_message(message))
    except InvalidField as error:
        unavailable = _unavailable(error)
        unavailable.__cause__ = error
        return unavailable


def _answer_in(found: Mapping[str, Answer | StoreError], job_id: str) -> Answer | StoreError | None:
    """The answer about one job, for as much work where there is none: else the time of a 404 would tell a stranger."""
    if job_id in found:
        return found[job_id]
    _read_answer(_NONEXISTENT_JOB)
    return None


def _answer_of(job: Job) -> Answer:
    """What a poll of the job answers. A completed job without its result has a large one, whose size is not known."""
    if job.state is not JobState.COMPLETED or job.result is not None:
        return answer_of(job, render(job))
    return answer_of(job, render(job._replace(result=b"")))._replace(result_size=SMALL_RESULT_BYTES + 1)
