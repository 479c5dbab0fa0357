"""Following a job over gRPC: each of its versions, or only the last one.

Whoever wants the last one alone can have it of a service that has no room for another watch, or is too old to know of
any: it is asked again and again then, as a polite client would, and is watched as soon as there is room.
"""

import asyncio
import math
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import grpc

from jobstatus.client import errors
from jobstatus.client.connection import ServiceChannel, pauses
from jobstatus.core.errors import JobStatusError, Overloaded
from jobstatus.core.job import Job
from jobstatus.core.retry_after import unlearned_retry_after_ms
from jobstatus.rpc.messages import job_from_message
from jobstatus.v1 import job_status_pb2 as jobs_v1

SHORTEST_PAUSE_SECONDS: Final = 1.0
LONGEST_PAUSE_SECONDS: Final = 30.0
"""Between two questions for a job that cannot be watched; within these a tenth of the time waited so far, and a little
more, so that those who were refused together do not come back together."""
JITTER: Final = 0.1
WATCH_AGAIN_SECONDS: Final = 30.0
"""After how long a service without room for a watch is asked for it again."""
PROVEN_SECONDS: Final = 60.0
"""A stream that has lasted so long was alive, with or without an answer: keepalive ends dead ones before that."""


class _Patience:
    """How long a service that is away is waited for, counted from when it went away."""

    def __init__(self, seconds: float, *, at_first: bool) -> None:
        """`at_first` False: not at all until it has answered once."""
        self._now = asyncio.get_running_loop().time
        self._seconds = seconds
        self._left = seconds if at_first else 0
        self._away_since: float | None = None
        self.try_begins()

    def try_begins(self) -> None:
        """The service is about to be asked."""
        self._try_began_at = self._now()

    def answered(self) -> None:
        """The service is there."""
        self._left = self._seconds
        self._away_since = None

    def pause_after(self, error: JobStatusError) -> float:
        """Seconds until the next try. Raises the error once the service has been away for too long."""
        if self._away_since is None or self._now() - self._try_began_at >= PROVEN_SECONDS:
            self._away_since = self._now()
            self._pauses = pauses()
        if self._now() - self._away_since >= self._left:
            raise error
        return next(self._pauses)


async def versions_of(
    connection: ServiceChannel, job_id: str, *, after_version: int | None, omit_result: bool, patience_seconds: float
) -> AsyncGenerator[Job]:
    """The job now, then its newer versions; ends after the terminal one. See `JobStatusClient.watch_job`."""
    patience = _Patience(patience_seconds, at_first=connection.retry)
    while True:
        request = jobs_v1.WatchJobRequest(job_id=job_id, after_version=after_version, omit_result=omit_result)
        patience.try_begins()
        try:
            async with aclosing(connection.stream(connection.jobs.WatchJob, request)) as answers:
                async for answer in answers:
                    job = job_from_message(answer.job)
                    yield job
                    if job.is_terminal:
                        return
                    after_version = job.version
                    patience.answered()
        except errors.TRANSIENT as error:
            pause_seconds = patience.pause_after(error)
        await asyncio.sleep(pause_seconds)


async def end_of(connection: ServiceChannel, job_id: str, *, omit_result: bool, patience_seconds: float) -> Job:
    """The job once it has ended. See `JobStatusClient.wait_for_job`."""
    now = asyncio.get_running_loop().time
    began_at = watches_at = now()
    patience = _Patience(patience_seconds, at_first=connection.retry)
    while True:
        patience.try_begins()
        is_watching = now() >= watches_at
        try:
            if is_watching:
                return await _watched_to_its_end(connection, job_id, omit_result, patience)
            job = await _as_it_is(connection, job_id, omit_result)
        except (*errors.TRANSIENT, errors.ServiceFailed) as error:
            if is_watching and isinstance(error, Overloaded):
                watches_at = now() + WATCH_AGAIN_SECONDS
                continue
            if is_watching and _is_unknown_call(error):
                watches_at = math.inf
                continue
            if isinstance(error, errors.ServiceFailed):
                raise
            pause_seconds = patience.pause_after(error)
        else:
            if job.is_terminal:
                return job
            patience.answered()
            pause_seconds = _polite_pause_seconds(now() - began_at)
        await asyncio.sleep(pause_seconds)


async def _watched_to_its_end(connection: ServiceChannel, job_id: str, omit_result: bool, patience: _Patience) -> Job:
    """Raises what ends the stream before the job has ended."""
    request = jobs_v1.WatchJobRequest(job_id=job_id, omit_result=omit_result)
    async with aclosing(connection.stream(connection.jobs.WatchJob, request)) as answers:
        async for answer in answers:
            patience.answered()
            job = job_from_message(answer.job)
            if job.is_terminal:
                return job
    raise errors.ServiceUnreachable("The service ended the stream.")


async def _as_it_is(connection: ServiceChannel, job_id: str, omit_result: bool) -> Job:
    request = jobs_v1.GetJobRequest(job_id=job_id, omit_result=omit_result)
    return job_from_message((await connection.call(connection.jobs.GetJob, request)).job)


def _is_unknown_call(error: JobStatusError) -> bool:
    cause = error.__cause__
    return isinstance(cause, grpc.aio.AioRpcError) and cause.code() is grpc.StatusCode.UNIMPLEMENTED


def _polite_pause_seconds(waited_seconds: float) -> float:
    pause_seconds = unlearned_retry_after_ms(int(waited_seconds * 1000)) / 1000
    within = min(max(pause_seconds, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
    return within * random.uniform(1, 1 + JITTER)  # noqa: S311 (no secret)
