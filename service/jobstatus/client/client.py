"""The client's calls, one for each RPC of the contract, in the core's values. gRPC's messages are only built and read
here.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Self, TypedDict, Unpack

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from jobstatus.client import errors, watching
from jobstatus.client.channel import Balancing, Metadata, Options, ServiceChannel
from jobstatus.client.encoding import Default
from jobstatus.client.merging import MergeLimits, WriteMerger
from jobstatus.client.run import JobRun, RunLimits, new_worker_id
from jobstatus.client.watching import WatchLimits
from jobstatus.client.writes import Write, encoded_result, job_error, operation
from jobstatus.core.commands import (
    DEFAULT_RESULT_TTL_MS,
    CancelJob,
    CompleteJob,
    CreateJob,
    FailJob,
    HeartbeatJob,
    StartJob,
)
from jobstatus.core.errors import InvalidField, JobStatusError
from jobstatus.core.job import Job, JobError, JobState, RequestType
from jobstatus.core.virtual_keys import VirtualKey
from jobstatus.rpc.messages import (
    JOB_STATES,
    REQUEST_TYPES,
    duration_from_ms,
    job_from_message,
    virtual_key_from_message,
)
from jobstatus.v1 import job_status_pb2 as jobs_v1
from jobstatus.v1 import virtual_keys_pb2 as keys_v1

DEFAULT_TIMEOUT: Final = timedelta(seconds=10)
DEFAULT_LEASE: Final = timedelta(seconds=30)
DEFAULT_PATIENCE: Final = timedelta(minutes=1)
DEFAULT_IDLE_INTERVAL: Final = timedelta(seconds=25)
"""Less than what proxies wait for the next bytes of a stream: 30 to 60 s."""


class JobFilter(TypedDict, total=False):
    """Filters of a listing. A job is listed when it fulfils all that are given. Times have a zone.

    `error_code` is that of `JobError.error`; an older service ignores it, `worker_id` and `status_code`.
    """

    states: Iterable[JobState]
    request_type: RequestType
    virtual_key_id: str
    created_after: datetime
    created_before: datetime
    worker_id: str
    error_code: str
    status_code: int


@dataclass(frozen=True, slots=True)
class JobPage:
    """One page of a listing, newest job first, without results. `next_page_token` is empty on the last page."""

    jobs: list[Job]
    next_page_token: str


class JobStatusClient:
    """A client of one JobStatus service, open while its context is entered. One is enough for a process.

    A call raises the error that the service raised (a subclass of JobStatusError), ServiceUnreachable when no response
    came in time, or ServiceFailed. It is retried until `timeout` has passed where that may help, because every write is
    idempotent; not with `retry=False`. Without `credentials` the channel has no TLS. `watch_limits` bound the pauses of
    `wait_for_job`, `run_limits` the last words of a run that is stopped.

    Writes of callers that wait at the same time are sent as one `BatchWrite`, each with its own outcome, error and
    deadline; a caller alone makes the single call at once. With `merge_writes=False` all calls are single ones.
    `merge_limits` bound what waits.

    Calls take turns among all addresses that `target` stands for; with `balancing="pick_first"` they stay with one.
    `metadata` are pairs that every call carries, or a function that is called for them at each try. `interceptors` are
    those of grpc.aio and see each try, of merged writes as a BatchWrite. Writes are merged only if they carry
    the same metadata. `options` are gRPC's channel options and replace the client's own. Raises
    ValueError for metadata that gRPC cannot send.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: timedelta = DEFAULT_TIMEOUT,
        retry: bool = True,
        balancing: Balancing = "round_robin",
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
        metadata: Metadata | Callable[[], Metadata] = (),
        options: Options = (),
        watch_limits: WatchLimits = WatchLimits(),  # noqa: B008 (a frozen value)
        run_limits: RunLimits = RunLimits(),  # noqa: B008 (a frozen value)
        merge_writes: bool = True,
        merge_limits: MergeLimits = MergeLimits(),  # noqa: B008 (a frozen value)
    ) -> None:
        self._channel = ServiceChannel(
            target,
            credentials=credentials,
            timeout_seconds=timeout.total_seconds(),
            retry=retry,
            balancing=balancing,
            interceptors=interceptors,
            metadata=metadata,
            options=options,
        )
        self._writes = WriteMerger(self._channel, is_on=merge_writes, limits=merge_limits)
        self._watch_limits = watch_limits
        self._run_limits = run_limits

    async def __aenter__(self) -> Self:
        await self._channel.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._writes.close()
        await self._channel.__aexit__(kind, error, traceback)

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
        """Create a job. Its id is made here if none is given, so that a retry cannot create two jobs."""
        command = CreateJob(
            job_id=str(uuid.uuid4()) if job_id is None else job_id,
            request_type=request_type,
            virtual_key_id=virtual_key_id,
            result_ttl_ms=DEFAULT_RESULT_TTL_MS if result_ttl is None else milliseconds(result_ttl),
            provider=provider,
            model_requested=model_requested,
            max_attempts=max_attempts,
        )
        return await self._writes.apply(command)

    async def start_job(self, job_id: str, *, worker_id: str, lease: timedelta | None = None) -> Job:
        """Claim a job. Every later write must carry the `attempt` of the returned job."""
        command = StartJob(job_id=job_id, worker_id=worker_id, lease_ms=None if lease is None else milliseconds(lease))
        return await self._writes.apply(command)

    async def heartbeat_job(
        self, job_id: str, *, attempt: int = 0, progress: float | None = None, message: str | None = None
    ) -> Job:
        """Renew the lease, and record progress (0 to 1) and message where given."""
        command = HeartbeatJob(job_id=job_id, attempt=attempt, progress=progress, message=message)
        return await self._writes.apply(command)

    async def complete_job(
        self,
        job_id: str,
        result: object,
        *,
        attempt: int = 0,
        status_code: int = 200,
        default: Default | None = None,
    ) -> Job:
        """End a job with its result. The returned job comes without it.

        `bytes` and `str` are taken as JSON text and served byte for byte; anything else is encoded as JSON, with
        `default` as `json.dumps` has it. Numbers of other libraries become numbers. A lone surrogate becomes U+FFFD, in
        text also as an escape, which the service would refuse. Raises ResultNotJson, which names the place, for what
        JSON cannot express.
        """
        encoded = encoded_result(result, default=default)
        command = CompleteJob(job_id=job_id, result=encoded, attempt=attempt, status_code=status_code)
        return await self._writes.apply(command)

    async def fail_job(self, job_id: str, error: JobError | str, *, attempt: int = 0, status_code: int = 500) -> Job:
        """End a job with an error. A `str` becomes the message of an error of type "worker_error"."""
        command = FailJob(job_id=job_id, error=job_error(error), attempt=attempt, status_code=status_code)
        return await self._writes.apply(command)

    async def cancel_job(self, job_id: str, reason: str | None = None) -> Job:
        """Fail a job that nobody wants any more, also while a worker has a lease. `reason` is its error's message."""
        command = CancelJob(job_id=job_id, reason=reason)
        return await self._writes.apply(command)

    async def batch_write(self, commands: Iterable[Write]) -> list[Job | JobStatusError]:
        """Apply up to 1000 writes, each on its own, in order, in one durable commit.

        Raises only when the whole call fails. A write that is refused has its error in its place of the list.
        """
        request = jobs_v1.BatchWriteRequest(operation=[operation(command) for command in commands])
        response = await self._channel.call(self._channel.jobs.BatchWrite, request)
        return [
            job_from_message(outcome.job) if outcome.HasField("job") else errors.from_operation(outcome.error)
            for outcome in response.result
        ]

    async def get_job(self, job_id: str, *, omit_result: bool = False) -> Job:
        """Return a job. Raises JobNotFound if there is none or it has expired."""
        request = jobs_v1.GetJobRequest(job_id=job_id, omit_result=omit_result)
        return job_from_message((await self._channel.call(self._channel.jobs.GetJob, request)).job)

    async def get_jobs(self, job_ids: Sequence[str], *, omit_result: bool = False) -> list[Job]:
        """Return those of up to 1000 jobs that exist, in the order asked for."""
        request = jobs_v1.BatchGetJobsRequest(job_ids=job_ids, omit_result=omit_result)
        response = await self._channel.call(self._channel.jobs.BatchGetJobs, request)
        return [job_from_message(job) for job in response.jobs]

    async def list_jobs_page(
        self, *, page_size: int = 0, page_token: str = "", **filters: Unpack[JobFilter]
    ) -> JobPage:
        """Return one page of jobs, newest first. With `page_size` 0 the service chooses the size."""
        request = jobs_v1.ListJobsRequest(
            states=[JOB_STATES[state] for state in filters.get("states", ())],
            request_type=REQUEST_TYPES[filters["request_type"]] if "request_type" in filters else None,
            virtual_key_id=filters.get("virtual_key_id"),
            created_after=time_stamp("created_after", filters.get("created_after")),
            created_before=time_stamp("created_before", filters.get("created_before")),
            worker_id=filters.get("worker_id"),
            error_code=filters.get("error_code"),
            status_code=filters.get("status_code"),
            page_size=page_size,
            page_token=page_token,
        )
        response = await self._channel.call(self._channel.jobs.ListJobs, request)
        return JobPage([job_from_message(job) for job in response.jobs], response.next_page_token)

    async def list_jobs(self, *, page_size: int = 0, **filters: Unpack[JobFilter]) -> AsyncIterator[Job]:
        """Yield all jobs, newest first, without results. Pages are read as they are needed."""
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
        idle_interval: timedelta | None = DEFAULT_IDLE_INTERVAL,
    ) -> AsyncGenerator[Job]:
        """Yield the job now, then its newer versions; end after the terminal one, which is never skipped.

        A stream that breaks is resumed where it ended, until the service has been away for `patience`. The service is
        asked for a sign of life after each silence of `idle_interval` (5 s to 1 h), because proxies end silent streams.
        """
        return watching.versions_of(
            self._channel,
            job_id,
            after_version=after_version,
            omit_result=omit_result,
            idle_interval=span(idle_interval),
            patience_seconds=patience.total_seconds(),
        )

    async def wait_for_job(
        self,
        job_id: str,
        *,
        timeout: timedelta | None = None,  # noqa: ASYNC109 (named where the caller waits)
        omit_result: bool = False,
        patience: timedelta = DEFAULT_PATIENCE,
        idle_interval: timedelta | None = DEFAULT_IDLE_INTERVAL,
    ) -> Job:
        """Return the job as soon as it has completed or failed. Raises TimeoutError after `timeout`.

        A service that has no room for another watch is polled instead, with growing pauses. A service that restarts is
        waited for, until it has been away for `patience`. `idle_interval` is that of `watch_job`.
        """
        async with asyncio.timeout(None if timeout is None else timeout.total_seconds()):
            return await watching.end_of(
                self._channel,
                job_id,
                omit_result=omit_result,
                idle_interval=span(idle_interval),
                patience_seconds=patience.total_seconds(),
                limits=self._watch_limits,
            )

    async def delete_job(self, job_id: str) -> None:
        """Delete a job, whatever its state."""
        await self._channel.call(self._channel.jobs.DeleteJob, jobs_v1.DeleteJobRequest(job_id=job_id))

    def run_job(self, job_id: str, *, worker_id: str | None = None, lease: timedelta = DEFAULT_LEASE) -> JobRun:
        """Return one attempt at a job as a context: `async with client.run_job(job_id) as run`.

        Entering starts the job and raises what `start_job` raises. Inside, heartbeats keep its lease. Leaving ends it:

        * with what `run.complete` or `run.fail` was given;
        * as failed when an exception leaves the block, a cancellation included. The exception is always raised on. Its
          class and text stand in the job's error, which everyone who may poll the job can read;
        * as failed, with RuntimeError, when the block called neither.

        Raises LeaseLost, with its cause, when the job no longer belongs to this attempt: inside the block, which it
        cancels, or on leaving. Raises JobCancelled in the same way when the job was cancelled. A result that
        cannot be written (ResultNotJson, ResultTooLarge) fails the job only at its last attempt: while attempts are
        left the job stays as it is, and can be started again when the lease has ended. The error is raised; where the
        block has caught it and ends without another outcome, RuntimeError is raised from it. Two runs must not share a
        `worker_id`, because the service takes them for one worker.
        """
        command = StartJob(
            job_id=job_id,
            worker_id=new_worker_id() if worker_id is None else worker_id,
            lease_ms=milliseconds(lease),
        )
        return JobRun(
            self._writes,
            command,
            lease_seconds=lease.total_seconds(),
            timeout_seconds=self._channel.timeout_seconds,
            limits=self._run_limits,
        )

    async def put_virtual_key(
        self,
        virtual_key_id: str,
        *,
        key_sha256: Iterable[bytes],
        disabled: bool = False,
        expires_at: datetime | None = None,
    ) -> VirtualKey:
        """Create or replace a virtual key. `jobstatus.client.hash_key` makes the hashes."""
        request = keys_v1.PutVirtualKeyRequest(
            virtual_key_id=virtual_key_id,
            key_sha256=key_sha256,
            disabled=disabled,
            expires_at=time_stamp("expires_at", expires_at),
        )
        response = await self._channel.call(self._channel.virtual_keys.PutVirtualKey, request)
        return virtual_key_from_message(response.virtual_key)

    async def get_virtual_key(self, virtual_key_id: str) -> VirtualKey:
        """Return a virtual key. Raises VirtualKeyNotFound."""
        request = keys_v1.GetVirtualKeyRequest(virtual_key_id=virtual_key_id)
        response = await self._channel.call(self._channel.virtual_keys.GetVirtualKey, request)
        return virtual_key_from_message(response.virtual_key)

    async def list_virtual_keys(self) -> AsyncIterator[VirtualKey]:
        """Yield all virtual keys in the order of their ids."""
        request = keys_v1.ListVirtualKeysRequest()
        while True:
            response = await self._channel.call(self._channel.virtual_keys.ListVirtualKeys, request)
            for virtual_key in response.virtual_keys:
                yield virtual_key_from_message(virtual_key)
            if not response.next_page_token:
                return
            request = keys_v1.ListVirtualKeysRequest(page_token=response.next_page_token)

    async def delete_virtual_key(self, virtual_key_id: str) -> None:
        """Delete a virtual key: its sk-bf- keys stop working. To stop its JWTs as well, disable it instead."""
        request = keys_v1.DeleteVirtualKeyRequest(virtual_key_id=virtual_key_id)
        await self._channel.call(self._channel.virtual_keys.DeleteVirtualKey, request)


def milliseconds(span: timedelta) -> int:
    return span // timedelta(milliseconds=1)


def span(length: timedelta | None) -> Duration | None:
    return None if length is None else duration_from_ms(milliseconds(length))


def time_stamp(field: str, time: datetime | None) -> Timestamp | None:
    """Return the time as a message. Raises InvalidField without a zone, because it would depend on the machine."""
    if time is None:
        return None
    if time.tzinfo is None:
        raise InvalidField.of(field, "must have a time zone")
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
