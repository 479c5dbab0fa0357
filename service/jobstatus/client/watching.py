"""Watching a job over gRPC: each of its versions, or only its end.

A stream that breaks is opened again, whether the service went away or a proxy took the stream for idle. Signs of life
that the service sends where it is asked for them keep a proxy from that; a service that does not know them ignores the
request.

A caller that wants only the end gets it also from a service that has no room for another watch, or is too old to know
WatchJob: the job is then polled with growing pauses, and watched as soon as there is room.
"""

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration

from jobstatus.client import errors
from jobstatus.client.channel import LONGEST_PAUSE_SECONDS, ServiceChannel, pauses
from jobstatus.core.errors import JobStatusError, Overloaded
from jobstatus.core.job import Job
from jobstatus.core.retry_after import unlearned_retry_after_ms
from jobstatus.rpc.messages import job_from_message
from jobstatus.v1 import job_status_pb2 as jobs_v1


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchLimits:
    """How often a job that cannot be watched is polled, and when a watch is tried again.

    The pause between two polls is a tenth of the time waited so far, within the two bounds, lengthened by up to
    `jitter` so that clients that were refused together do not come back together.
    """

    shortest_pause_seconds: float = 1.0
    longest_pause_seconds: float = 30.0
    jitter: float = 0.1
    watch_again_seconds: float = 30.0
    """After how long a service without room for a watch is asked for one again."""
    proven_seconds: float = 45.0
    """A stream that has lasted so long was alive, with or without a response: keepalive ends dead ones before that."""
    broken_proven_seconds: float = 1.0
    """The same for a stream that a living peer has ended. A proxy that reaches no service says so with a status."""


class Patience:
    """Bounds how long a service that is away is waited for, counted from when it went away."""

    def __init__(self, seconds: float, limits: WatchLimits, *, now: Callable[[], float], at_first: bool) -> None:
        """With `at_first` False a service that was never there is not waited for."""
        self._now = now
        self._seconds = seconds
        self._limits = limits
        self._left = seconds if at_first else 0
        self._away_since: float | None = None
        self._pauses = pauses()
        self.begin_try()

    def begin_try(self) -> None:
        """Note that a call begins now."""
        self._try_began_at = self._now()

    def note_response(self) -> None:
        """Note that the service is there."""
        self._left = self._seconds
        self._away_since = None

    def pause_after(self, error: JobStatusError) -> float:
        """Return the seconds until the next try. Raise the error once the service has been away for too long."""
        lasted_seconds = self._now() - self._try_began_at
        if lasted_seconds >= self._proven_seconds(error):
            self.note_response()
        if lasted_seconds >= LONGEST_PAUSE_SECONDS:
            self._pauses = pauses()
        if self._away_since is None:
            self._away_since = self._now()
        if self._now() - self._away_since >= self._left:
            raise error
        return next(self._pauses)

    def _proven_seconds(self, error: JobStatusError) -> float:
        is_broken = isinstance(error, errors.StreamBroken)
        return self._limits.broken_proven_seconds if is_broken else self._limits.proven_seconds


async def versions_of(
    channel: ServiceChannel,
    job_id: str,
    *,
    after_version: int | None,
    omit_result: bool,
    idle_interval: Duration | None,
    patience_seconds: float,
    limits: WatchLimits,
) -> AsyncGenerator[Job]:
    """Yield the job now, then its newer versions; end after the terminal one. See `JobStatusClient.watch_job`."""
    patience = Patience(patience_seconds, limits, now=asyncio.get_running_loop().time, at_first=channel.retry)
    while True:
        request = jobs_v1.WatchJobRequest(
            job_id=job_id, after_version=after_version, omit_result=omit_result, idle_interval=idle_interval
        )
        patience.begin_try()
        try:
            async with aclosing(channel.stream(channel.jobs.WatchJob, request)) as responses:
                async for response in responses:
                    if response.HasField("job"):
                        job = job_from_message(response.job)
                        yield job
                        if job.is_terminal:
                            return
                        after_version = job.version
                    patience.note_response()
        except errors.TRANSIENT as error:
            pause_seconds = patience.pause_after(error)
        await asyncio.sleep(pause_seconds)


async def end_of(
    channel: ServiceChannel,
    job_id: str,
    *,
    omit_result: bool,
    idle_interval: Duration | None,
    patience_seconds: float,
    limits: WatchLimits,
) -> Job:
    """Return the job once it has ended. See `JobStatusClient.wait_for_job`."""
    now = asyncio.get_running_loop().time
    began_at = watches_at = now()
    patience = Patience(patience_seconds, limits, now=now, at_first=channel.retry)
    request = jobs_v1.WatchJobRequest(job_id=job_id, omit_result=omit_result, idle_interval=idle_interval)
    while True:
        patience.begin_try()
        is_watching = now() >= watches_at
        try:
            if is_watching:
                return await _watched_to_its_end(channel, request, patience)
            job = await _job_now(channel, job_id, omit_result)
        except (*errors.TRANSIENT, errors.ServiceFailed) as error:
            if is_watching and isinstance(error, Overloaded):
                watches_at = now() + limits.watch_again_seconds
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
            patience.note_response()
            pause_seconds = _poll_pause_seconds(now() - began_at, limits)
        await asyncio.sleep(pause_seconds)


async def _watched_to_its_end(channel: ServiceChannel, request: jobs_v1.WatchJobRequest, patience: Patience) -> Job:
    """Return the ended job. Raise what ends the stream before that."""
    async with aclosing(channel.stream(channel.jobs.WatchJob, request)) as responses:
        async for response in responses:
            patience.note_response()
            if response.HasField("job") and (job := job_from_message(response.job)).is_terminal:
                return job
    raise AssertionError("a stream never ends without an error")


async def _job_now(channel: ServiceChannel, job_id: str, omit_result: bool) -> Job:
    request = jobs_v1.GetJobRequest(job_id=job_id, omit_result=omit_result)
    return job_from_message((await channel.call(channel.jobs.GetJob, request)).job)


def _is_unknown_call(error: JobStatusError) -> bool:
    cause = error.__cause__
    return isinstance(cause, grpc.aio.AioRpcError) and cause.code() is grpc.StatusCode.UNIMPLEMENTED


def _poll_pause_seconds(waited_seconds: float, limits: WatchLimits) -> float:
    pause_seconds = unlearned_retry_after_ms(int(waited_seconds * 1000)) / 1000
    bounded = min(max(pause_seconds, limits.shortest_pause_seconds), limits.longest_pause_seconds)
    return bounded * random.uniform(1, 1 + limits.jitter)  # noqa: S311 (no secret)
