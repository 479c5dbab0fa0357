"""`service JobStatus`: parse the request, call the core, build the response. `handlers` translates errors."""

import asyncio
import base64
import binascii
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from jobstatus.core import commands as core
from jobstatus.core.commands import MAX_BATCH, check_id, check_status_code, check_text
from jobstatus.core.errors import InvalidField, JobStatusError
from jobstatus.core.job import Job, is_valid_id
from jobstatus.core.store import Answer, Listing, Place, StoreError
from jobstatus.core.tracker import JobTracker
from jobstatus.core.watching.change_feed import ChangeFeed
from jobstatus.rpc import commands
from jobstatus.rpc.job_bytes import batch_response, single_response
from jobstatus.rpc.messages import (
    answer_fields,
    check_count,
    fill_job,
    job_state_of,
    ms_from_duration,
    ms_from_timestamp,
    optional,
    page_size,
    request_type_of,
)
from jobstatus.rpc.options import MAX_ANSWER_BYTES, RpcLimits
from jobstatus.rpc.pacing import Pace
from jobstatus.rpc.pages import fill, shorten
from jobstatus.v1 import job_status_pb2 as pb

MAX_IDLE_MS: Final = 3_600_000
"""The longest interval of signs of life that a watch may ask for."""
MAX_CODE_CHARACTERS: Final = 1024
"""The longest error code that a listing may ask for."""
MAX_LISTED_ERROR_BYTES: Final = 16 * 1024
"""A larger error is left out of listings."""


class JobStatusServicer:
    """Each RPC as a coroutine or async generator of its request."""

    def __init__(
        self,
        tracker: JobTracker,
        *,
        max_result_bytes: int,
        limits: RpcLimits = RpcLimits(),  # noqa: B008  # a frozen value
    ) -> None:
        self._tracker = tracker
        self._limits = limits
        self._read = commands.CommandReader(max_result_bytes)
        self._pace = Pace()

    async def CreateJob(self, request: pb.CreateJobRequest) -> bytes:
        return await self._applied(commands.create_job(request))

    async def StartJob(self, request: pb.StartJobRequest) -> bytes:
        return await self._applied(commands.start_job(request))

    async def HeartbeatJob(self, request: pb.HeartbeatJobRequest) -> bytes:
        return await self._applied(commands.heartbeat_job(request))

    async def CompleteJob(self, request: pb.CompleteJobRequest) -> bytes:
        command = commands.complete_job(request)
        del request  # it holds the result a second time
        if (steps := self._read.check(command)) is not None:
            await self._pace.run(steps)
        return await self._applied(command)

    async def FailJob(self, request: pb.FailJobRequest) -> bytes:
        return await self._applied(commands.fail_job(request))

    async def CancelJob(self, request: pb.CancelJobRequest) -> bytes:
        return await self._applied(commands.cancel_job(request))

    async def DeleteJob(self, request: pb.DeleteJobRequest) -> pb.DeleteJobResponse:
        await self._tracker.apply(core.DeleteJob(job_id=request.job_id))
        return pb.DeleteJobResponse()

    async def BatchWrite(self, request: pb.BatchWriteRequest) -> bytes:
        check_count("operation", len(request.operation))
        read = await self._pace.run(self._read.operations(request))
        decided = iter(await self._tracker.write([item for item in read if not isinstance(item, JobStatusError)]))
        data = batch_response(item if isinstance(item, JobStatusError) else next(decided) for item in read)
        if len(data) <= self._limits.pages.max_bytes:
            return data
        response = pb.BatchWriteResponse.FromString(data)
        jobs = (result.job for result in response.result if result.HasField("job"))
        shorten(response, jobs, self._limits.pages.max_bytes)
        return response.SerializeToString()

    async def GetJob(self, request: pb.GetJobRequest) -> pb.GetJobResponse:
        check_id("job_id", request.job_id)
        job = await self._tracker.get(request.job_id, with_result=not request.omit_result)
        response = pb.GetJobResponse()
        fill_job(response.job, job)
        return response

    async def BatchGetJobs(self, request: pb.BatchGetJobsRequest) -> pb.BatchGetJobsResponse:
        check_count("job_ids", len(request.job_ids))
        for job_id in request.job_ids:
            check_id("job_ids", job_id)
        if request.as_answers:
            return await self._batch_get_answers(request)
        sizes: dict[str, int | None] = {}
        if request.omit_result:
            jobs = await self._tracker.get_many(request.job_ids, with_results=False)
        elif request.omit_large_results:
            read = await self._tracker.get_many_small(request.job_ids)
            jobs, sizes = [job for job, _ in read], {job.job_id: size for job, size in read if isinstance(job, Job)}
        else:
            _check_size(await self._tracker.result_bytes(request.job_ids))
            jobs = await self._tracker.get_many(request.job_ids, with_results=True)
        response = pb.BatchGetJobsResponse(unavailable_job_ids=_failed(request, jobs))
        for job in jobs:
            if isinstance(job, Job):
                fill_job(response.jobs.add(), job, left_out_bytes=sizes.get(job.job_id))
        if request.omit_result:
            shorten(response, response.jobs, self._limits.pages.max_bytes)
        elif not request.omit_large_results:
            _check_size(sum(len(job.result) + job.error.ByteSize() for job in response.jobs))
        return response

    async def ListJobs(self, request: pb.ListJobsRequest) -> pb.ListJobsResponse:
        count = page_size(request.page_size)
        filters = pb.ListJobsRequest()
        filters.CopyFrom(request)
        filters.ClearField("page_size")
        filters.ClearField("page_token")
        digest = hashlib.sha256(filters.SerializeToString(deterministic=True)).hexdigest()[:16]
        listing = Listing(
            limit=count,
            states=frozenset(job_state_of(state) for state in request.states),
            request_type=request_type_of(request.request_type) if request.HasField("request_type") else None,
            virtual_key_id=optional(request, "virtual_key_id"),
            created_after_ms=_at(request, "created_after"),
            created_before_ms=_at(request, "created_before"),
            worker_id=optional(request, "worker_id"),
            error_code=optional(request, "error_code"),
            status_code=optional(request, "status_code"),
            before=_read_token(request.page_token, digest) if request.page_token else None,
        )
        _check_filters(listing)
        page = pb.ListJobsResponse()
        goes_on: Place | None = None

        async def read(last: Job | None, limit: int) -> list[Job]:
            nonlocal goes_on
            jobs, goes_on = await self._tracker.list_page(_after(listing, last, limit))
            return jobs

        last = await fill(
            page.jobs,
            read,
            lambda job: _fill_listed(page.jobs.add(), job),
            count=count,
            limits=self._limits.pages,
        )
        place = goes_on if last is None else (last.created_at_ms, last.job_id)
        page.next_page_token = "" if place is None else _make_token(place, digest)
        return page

    async def WatchJob(self, request: pb.WatchJobRequest) -> AsyncGenerator[pb.WatchJobResponse | bytes]:
        check_id("job_id", request.job_id)
        watch = self._tracker.watch(
            request.job_id,
            _watch_response,
            after_version=request.after_version,
            with_result=not request.omit_result,
            idle_seconds=self._idle_seconds(request),
        )
        async with aclosing(watch) as responses:
            async for response in responses:
                yield pb.WatchJobResponse() if response is None else response

    async def FollowJobs(self, requests: AsyncIterator[pb.FollowJobsRequest]) -> AsyncGenerator[pb.FollowJobsResponse]:
        with self._tracker.change_feed() as feed:
            reading = asyncio.create_task(_read_followed(requests, feed), name="jobstatus-follow")
            reading.add_done_callback(lambda _: feed.end())
            try:
                yield pb.FollowJobsResponse()
                while job_ids := await feed.changed():
                    yield pb.FollowJobsResponse(job_ids=job_ids)
                await reading
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def _batch_get_answers(self, request: pb.BatchGetJobsRequest) -> pb.BatchGetJobsResponse:
        answers = await self._tracker.answers(request.job_ids)
        return pb.BatchGetJobsResponse(
            answers=[answer_fields(answer) if isinstance(answer, Answer) else {} for answer in answers],
            unavailable_job_ids=_failed(request, answers),
        )

    def _idle_seconds(self, request: pb.WatchJobRequest) -> float | None:
        if not request.HasField("idle_interval"):
            return None
        interval_ms = ms_from_duration(request.idle_interval, "idle_interval")
        shortest_ms = self._limits.min_idle_ms
        if not shortest_ms <= interval_ms <= MAX_IDLE_MS:
            raise InvalidField.of("idle_interval", f"must be from {shortest_ms} ms to {MAX_IDLE_MS} ms")
        return interval_ms / 1000

    async def _applied(self, command: core.Command) -> bytes:
        """Return the response with the job as the command left it."""
        return single_response(await self._tracker.apply(command))


async def _read_followed(requests: AsyncIterator[pb.FollowJobsRequest], feed: ChangeFeed) -> None:
    """Follow the jobs that the client names, until it ends the stream. Raises InvalidField."""
    async for request in requests:
        if len(request.versions) > MAX_BATCH:
            raise InvalidField.of("versions", f"must have at most {MAX_BATCH} entries")
        for job_id in request.versions:
            check_id("versions", job_id)
        feed.forget(request.forgotten_job_ids)
        await feed.follow(dict(request.versions))


def _watch_response(job: Job) -> bytes:
    """Return the bytes of the response with this job, which all its watchers are sent."""
    response = pb.WatchJobResponse()
    fill_job(response.job, job)
    return response.SerializeToString()


def _failed(request: pb.BatchGetJobsRequest, found: Sequence[object]) -> list[str]:
    """Return the ids of the jobs that cannot be read now. Raise the first one's error unless a part will do."""
    failed = {job_id: item for job_id, item in zip(request.job_ids, found, strict=True) if isinstance(item, StoreError)}
    if failed and not request.allow_partial_success:
        raise next(iter(failed.values()))
    return list(failed)


def _check_size(outcome_bytes: int) -> None:
    if outcome_bytes > MAX_ANSWER_BYTES:
        raise InvalidField.of("job_ids", f"their results and errors exceed {MAX_ANSWER_BYTES} bytes: ask for fewer")


def _fill_listed(message: pb.Job, job: Job) -> pb.Job:
    """Fill a job of a listing: without an error that is too large for a page of many."""
    fill_job(message, job, omit_result=True)
    if message.error.ByteSize() > MAX_LISTED_ERROR_BYTES:
        message.ClearField("error")
    return message


def _check_filters(listing: Listing) -> None:
    """Raise InvalidField for a filter that no job can pass."""
    for field in ("virtual_key_id", "worker_id"):
        if (wanted := getattr(listing, field)) is not None:
            check_id(field, wanted)
    check_text("error_code", listing.error_code, MAX_CODE_CHARACTERS)
    if listing.error_code == "":
        raise InvalidField.of("error_code", "must not be empty")
    if listing.status_code is not None:
        check_status_code("status_code", listing.status_code)


def _after(listing: Listing, last: Job | None, limit: int) -> Listing:
    """Return the listing of `limit` jobs after the last one; None: from where the page begins."""
    before = listing.before if last is None else (last.created_at_ms, last.job_id)
    return replace(listing, limit=limit, before=before)


def _at(request: pb.ListJobsRequest, field: str) -> int | None:
    value = optional(request, field)
    return None if value is None else ms_from_timestamp(value, field)


def _make_token(place: Place, digest: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([*place, digest]).encode()).decode()


def _read_token(token: str, digest: str) -> Place:
    """Return where the last page ended. Raises InvalidField for a token that is invalid or belongs to other filters."""
    try:
        created_at_ms, job_id, made_for = json.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
        fits = type(created_at_ms) is int and 0 <= created_at_ms < 1 << 62 and is_valid_id(job_id)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        fits = False
    if not fits or made_for != digest:
        raise InvalidField.of("page_token", "must be the next_page_token of an answer to the same filters")
    return created_at_ms, job_id
