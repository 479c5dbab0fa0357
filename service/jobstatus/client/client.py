"""The client's calls, one for each RPC of the contract, in the core's values. It must not know gRPC's messages further
than to build and to open them.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self, TypedDict, Unpack

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from jobstatus.client import errors, watching
from jobstatus.client.connection import ServiceChannel
from jobstatus.client.run import JobRun, new_worker_id
from jobstatus.client.writes import (
    Write,
    complete_request,
    create_request,
    encoded_result,
    fail_request,
    heartbeat_request,
    job_error,
    operation,
    start_request,
)
from jobstatus.core.commands import DEFAULT_RESULT_TTL_MS, CompleteJob, CreateJob, FailJob, HeartbeatJob, StartJob
from jobstatus.core.errors import InvalidField, JobStatusError
from jobstatus.core.job import Job, JobError, JobState, RequestType
from jobstatus.core.virtual_keys import VirtualKey
from jobstatus.rpc.messages import JOB_STATES, REQUEST_TYPES, job_from_message, virtual_key_from_message
from jobstatus.v1 import job_status_pb2 as jobs_v1
from jobstatus.v1 import virtual_keys_pb2 as keys_v1

DEFAULT_TIMEOUT: Final = timedelta(seconds=10)
DEFAULT_LEASE: Final = timedelta(seconds=30)
DEFAULT_PATIENCE: Final = timedelta(minutes=1)


class JobFilter(TypedDict, total=False):
    """What a listing can ask for; every filter that is given must hold. Times have a zone."""

    states: Iterable[JobState]
    request_type: RequestType
    virtual_key_id: str
    created_after: datetime
    created_before: datetime


@dataclass(frozen=True, slots=True)
class JobPage:
    """A page of a listing, newest first, without results. `next_page_token` is empty on the last page."""

    jobs: list[Job]
    next_page_token: str


class JobStatusClient:
    """A client of one JobStatus service, open while its context is entered. One is enough for a process.

    Every call raises a leaf of `jobstatus.core.errors`, as the service did; ServiceUnreachable when no answer came in
    time, or ServiceFailed. What may help is tried again until `timeout` has passed (not with `retry=False`): every
    write is idempotent. `credentials` None: without TLS.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        retry: bool = True,
    ) -> None:
        self._connection = ServiceChannel(
            target, credentials=credentials, timeout_seconds=timeout.total_seconds(), retry=retry
        )

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connection.__aexit__(kind, error, traceback)

    async def create_job(
        self,
        *,
        request_type: RequestType,
        job_id: str | None = None,
        virtual_key_id: str | None = None,
        result_ttl: timedelta | None = None,
        provider: str | None = None,
        model_requested: str | None = None,
        max_attempts: int = 1,
    ) -> Job:
        """Record a new job. Its id is made here if none is given, so that trying again cannot make two jobs."""
        command = CreateJob(
            job_id=str(uuid.uuid4()) if job_id is None else job_id,
            request_type=request_type,
            virtual_key_id=virtual_key_id,
            result_ttl_ms=DEFAULT_RESULT_TTL_MS if result_ttl is None else milliseconds(result_ttl),
            provider=provider,
            model_requested=model_requested,
            max_attempts=max_attempts,
        )
        answer = await self._connection.call(self._connection.jobs.CreateJob, create_request(command))
        return job_from_message(answer.job)

    async def start_job(self, job_id: str, *, worker_id: str, lease: timedelta | None = None) -> Job:
        """Claim a job; the answer's `attempt` is to be named in every later write."""
        command = StartJob(job_id=job_id, worker_id=worker_id, lease_ms=None if lease is None else milliseconds(lease))
        answer = await self._connection.call(self._connection.jobs.StartJob, start_request(command))
        return job_from_message(answer.job)

    async def heartbeat_job(
        self, job_id: str, *, attempt: int = 0, progress: float | None = None, message: str | None = None
    ) -> Job:
        """Renew the lease, and record progress (0 to 1) where it is given."""
        command = HeartbeatJob(job_id=job_id, attempt=attempt, progress=progress, message=message)
        answer = await self._connection.call(self._connection.jobs.HeartbeatJob, heartbeat_request(command))
        return job_from_message(answer.job)

    async def complete_job(self, job_id: str, result: object, *, attempt: int = 0, status_code: int = 200) -> Job:
        """End a job with its result; the answer comes without it.

        `bytes` and `str` are taken as JSON text and are served byte for byte; anything else is encoded as JSON.
        """
        command = CompleteJob(job_id=job_id, result=encoded_result(result), attempt=attempt, status_code=status_code)
        answer = await self._connection.call(self._connection.jobs.CompleteJob, complete_request(command))
        return job_from_message(answer.job)

    async def fail_job(self, job_id: str, error: JobError | str, *, attempt: int = 0, status_code: int = 500) -> Job:
        """End a job with an error; a `str` is the message of one of type "worker_error"."""
        command = FailJob(job_id=job_id, error=job_error(error), attempt=attempt, status_code=status_code)
        answer = await self._connection.call(self._connection.jobs.FailJob, fail_request(command))
        return job_from_message(answer.job)

    async def batch_write(self, commands: Iterable[Write]) -> list[Job | JobStatusError]:
        """Apply up to 1000 writes, each on its own, in order, in one durable commit.

        Raises only when the whole call fails; what refused a single write stands in its place in the answer.
        """
        request = jobs_v1.BatchWriteRequest(operation=[operation(command) for command in commands])
        answer = await self._connection.call(self._connection.jobs.BatchWrite, request)
        return [
            job_from_message(outcome.job) if outcome.HasField("job") else errors.from_operation(outcome.error)
            for outcome in answer.result
        ]

    async def get_job(self, job_id: str, *, omit_result: bool = False) -> Job:
        request = jobs_v1.GetJobRequest(job_id=job_id, omit_result=omit_result)
        return job_from_message((await self._connection.call(self._connection.jobs.GetJob, request)).job)

    async def get_jobs(self, job_ids: Sequence[str], *, omit_result: bool = False) -> list[Job]:
        """Those of up to 1000 jobs that exist, in the order asked for."""
        request = jobs_v1.BatchGetJobsRequest(job_ids=job_ids, omit_result=omit_result)
        answer = await self._connection.call(self._connection.jobs.BatchGetJobs, request)
        return [job_from_message(job) for job in answer.jobs]

    async def list_jobs_page(
        self, *, page_size: int = 0, page_token: str = "", **filters: Unpack[JobFilter]
    ) -> JobPage:
        """One page of the jobs, newest first; `page_size` 0 lets the service choose."""
        request = jobs_v1.ListJobsRequest(
            states=[JOB_STATES[state] for state in filters.get("states", ())],
            request_type=REQUEST_TYPES[filters["request_type"]] if "request_type" in filters else None,
            virtual_key_id=filters.get("virtual_key_id"),
            created_after=time_stamp("created_after", filters.get("created_after")),
            created_before=time_stamp("created_before", filters.get("created_before")),
            page_size=page_size,
            page_token=page_token,
        )
        answer = await self._connection.call(self._connection.jobs.ListJobs, request)
        return JobPage([job_from_message(job) for job in answer.jobs], answer.next_page_token)

    async def list_jobs(self, *, page_size: int = 0, **filters: Unpack[JobFilter]) -> AsyncIterator[Job]:
        """All the jobs, newest first, without results, read page by page as they are asked for."""
        page = JobPage([], "")
        while True:
            page = await self.list_jobs_page(page_size=page_size, page_token=page.next_page_token, **filters)
            for job in page.jobs:
                yield job
            if not page.next_page_token:
                return

    def watch_job(
        self,
        job_id: str,
        *,
        after_version: int | None = None,
        omit_result: bool = False,
        patience: timedelta = DEFAULT_PATIENCE,
    ) -> AsyncGenerator[Job]:
        """The job now, then its newer versions (steps may be skipped, the last never); ends after the terminal one.

        A stream that breaks is taken up again where it ended, until the service has been away for `patience`.
        """
        return watching.versions_of(
            self._connection,
            job_id,
            after_version=after_version,
            omit_result=omit_result,
            patience_seconds=patience.total_seconds(),
        )

    async def wait_for_job(
        self,
        job_id: str,
        *,
        timeout: timedelta | None = None,  # noqa: ASYNC109 (a caller wants to name it where it waits)
        omit_result: bool = False,
        patience: timedelta = DEFAULT_PATIENCE,
    ) -> Job:
        """The job once it has ended, well or not: its `state` says how. Raises TimeoutError if that takes too long.

        The answer comes at the moment of the end. A service that has no room for another watch is polled with growing
        pauses instead. One that restarts is waited for, until it has been away for `patience`.
        """
        async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
            return await watching.end_of(
                self._connection, job_id, omit_result=omit_result, patience_seconds=patience.total_seconds()
            )

    async def delete_job(self, job_id: str) -> None:
        """Remove a job for every reader, whatever its state."""
        await self._connection.call(self._connection.jobs.DeleteJob, jobs_v1.DeleteJobRequest(job_id=job_id))

    def run_job(self, job_id: str, *, worker_id: str | None = None, lease: timedelta = DEFAULT_LEASE) -> JobRun:
        """One attempt at a job as a block: `async with client.run_job(job_id) as run`.

        Entering starts the job (and raises what start_job raises); heartbeats keep its lease inside. Leaving ends it:

        * with what `run.complete` or `run.fail` was given;
        * as failed when an exception leaves the block, a cancellation included: it goes on, whatever else happens.
          The exception's class and text stand in the job's error, for whoever polls it;
        * as failed, with RuntimeError, when the block said neither.

        Raises LeaseLost, with its cause, when the job is no longer this attempt's: at once inside the block, by
        cancelling it, or on leaving. An outcome that the service refuses (ResultNotJson, ResultTooLarge) fails the job
        and is raised. A `worker_id` of yours must not be that of another run: one id counts as one worker.
        """
        command = StartJob(
            job_id=job_id,
            worker_id=new_worker_id() if worker_id is None else worker_id,
            lease_ms=milliseconds(lease),
        )
        return JobRun(self._connection, command, lease_seconds=lease.total_seconds())

    async def put_virtual_key(
        self,
        virtual_key_id: str,
        *,
        key_sha256: Iterable[bytes],
        disabled: bool = False,
        expires_at: datetime | None = None,
    ) -> VirtualKey:
        """Record a virtual key as given, in place of what was there; `virtual_keys.hash_key` makes the hashes."""
        request = keys_v1.PutVirtualKeyRequest(
            virtual_key_id=virtual_key_id,
            key_sha256=key_sha256,
            disabled=disabled,
            expires_at=time_stamp("expires_at", expires_at),
        )
        answer = await self._connection.call(self._connection.virtual_keys.PutVirtualKey, request)
        return virtual_key_from_message(answer.virtual_key)

    async def get_virtual_key(self, virtual_key_id: str) -> VirtualKey:
        request = keys_v1.GetVirtualKeyRequest(virtual_key_id=virtual_key_id)
        answer = await self._connection.call(self._connection.virtual_keys.GetVirtualKey, request)
        return virtual_key_from_message(answer.virtual_key)

    async def list_virtual_keys(self) -> AsyncIterator[VirtualKey]:
        """All virtual keys in the order of their ids."""
        request = keys_v1.ListVirtualKeysRequest()
        while True:
            answer = await self._connection.call(self._connection.virtual_keys.ListVirtualKeys, request)
            for virtual_key in answer.virtual_keys:
                yield virtual_key_from_message(virtual_key)
            if not answer.next_page_token:
                return
            request = keys_v1.ListVirtualKeysRequest(page_token=answer.next_page_token)

    async def delete_virtual_key(self, virtual_key_id: str) -> None:
        """Forget a virtual key: its sk-bf- keys stop working. To stop its JWTs as well, put it as disabled."""
        request = keys_v1.DeleteVirtualKeyRequest(virtual_key_id=virtual_key_id)
        await self._connection.call(self._connection.virtual_keys.DeleteVirtualKey, request)


def milliseconds(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)


def time_stamp(field: str, time: datetime | None) -> Timestamp | None:
    """Raise InvalidField for a time without a zone, which would mean another time on another machine."""
    if time is None:
        return None
    if time.tzinfo is None:
        raise InvalidField.of(field, "must have a time zone")
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
