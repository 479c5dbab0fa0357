"""Wakes an edge's subscriptions: one FollowJobs stream to the service, which names the jobs that have changed.

While there is no stream, no new poll waits. Polls that wait already go on: the next stream tells the service which
versions they have seen, and it names at once what has changed since. A service that does not know the call is tried
again now and then, because a newer version may replace it.
"""

import asyncio
import logging
from dataclasses import dataclass
from itertools import islice
from typing import Final, NoReturn

import grpc

from jobstatus.client.channel import ServiceChannel, pauses
from jobstatus.core.watching.subscriptions import JobSubscriptions
from jobstatus.v1 import job_status_pb2 as pb

_IN_ONE_MESSAGE: Final = 1000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowerLimits:
    """When a stream that has ended is opened again."""

    unknown_call_seconds: float = 30.0
    """The pause after a service that does not know the call."""
    steady_seconds: float = 2.0
    """A stream that has lasted so long is opened again soon; after shorter ones the pauses grow."""


class UpstreamFollower:
    """Follows the jobs that `subscriptions` wait for, while `run` runs."""

    def __init__(
        self,
        channel: ServiceChannel,
        limits: FollowerLimits = FollowerLimits(),  # a frozen value
    ) -> None:
        self._channel = channel
        self._limits = limits
        self.subscriptions: Final = JobSubscriptions(self._seen, self._left)
        self.is_connected = False
        """Whether there is a stream, so that changes are noticed."""
        self._unsent: dict[str, int | None] = {}
        """What the service has yet to be sent: the version that was read of a job, None for a job nobody waits for."""
        self._has_unsent = asyncio.Event()

    async def run(self) -> NoReturn:
        """Keep a stream open, forever. Log only the first of consecutive failures."""
        now = asyncio.get_running_loop().time
        delays, should_log = pauses(), True
        while True:
            began_at = now()
            code = await self._follow()
            _raise_swallowed_cancellation()
            was_steady = self.is_connected and now() - began_at >= self._limits.steady_seconds
            self.is_connected = False
            if was_steady:
                delays, should_log = pauses(), True
            elif should_log:
                _log.warning(
                    "The service reports no changes, so polls cannot wait.",
                    extra={"event": "polls_cannot_wait", "code": code.name},
                )
                should_log = False
            is_unknown = code is grpc.StatusCode.UNIMPLEMENTED
            await asyncio.sleep(self._limits.unknown_call_seconds if is_unknown else next(delays))

    async def _follow(self) -> grpc.StatusCode:
        """Follow one stream until it ends. Return the code that it ended with."""
        self._unsent = dict(self.subscriptions.versions())
        self._has_unsent.set()
        stream = self._channel.jobs.FollowJobs()
        sending = asyncio.create_task(self._send(stream), name="jobstatus-follow")
        try:
            async for response in stream:
                self.is_connected = True
                self.subscriptions.wake(response.job_ids)
        except grpc.aio.AioRpcError as error:
            return error.code()
        finally:
            stream.cancel()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)  # it fails with the stream
        return grpc.StatusCode.OK

    async def _send(self, stream: "grpc.aio.StreamStreamCall[pb.FollowJobsRequest, pb.FollowJobsResponse]") -> None:
        while True:
            await self._has_unsent.wait()
            self._has_unsent.clear()
            unsent, self._unsent = self._unsent, {}
            job_ids = iter(unsent)
            while part := list(islice(job_ids, _IN_ONE_MESSAGE)):
                seen = {job_id: version for job_id in part if (version := unsent[job_id]) is not None}
                left = [job_id for job_id in part if job_id not in seen]
                await stream.write(pb.FollowJobsRequest(versions=seen, forgotten_job_ids=left))

    def _seen(self, job_id: str, version: int) -> None:
        self._unsent[job_id] = version
        self._has_unsent.set()

    def _left(self, job_id: str) -> None:
        self._unsent[job_id] = None
        self._has_unsent.set()


def _raise_swallowed_cancellation() -> None:
    """Raise CancelledError if the current task was cancelled and gRPC reported the end of the call instead.

    A bidirectional call does so when the cancellation comes between the call's status and the end of the task that
    opened the call. A cancellation is delivered once, so without this check the task would go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
