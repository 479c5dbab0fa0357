"""Keeps an edge's subscriptions told of changes: one stream to the service, which follows what they wait for.

While there is no stream nobody begins to wait. Those who wait already go on: when it is there again the service is told
what they have seen, and answers at once what has changed since. A service that does not know the call is asked again
now and then, as it may be replaced by one that does.
"""

import asyncio
import logging
from itertools import islice
from typing import Final, NoReturn

import grpc

from jobstatus.client.connection import ServiceChannel, pauses
from jobstatus.core.watching.subscriptions import JobSubscriptions
from jobstatus.v1 import job_status_pb2 as pb

_IN_ONE_MESSAGE: Final = 1000
_UNKNOWN_CALL_SECONDS: Final = 30.0
_STEADY_SECONDS: Final = 2.0
"""A stream that ends sooner, again and again, is called for less and less often."""
_log = logging.getLogger(__name__)


class UpstreamFollower:
    """Follows what `subscriptions` wait for, while `run` runs."""

    def __init__(self, connection: ServiceChannel) -> None:
        self._connection = connection
        self.subscriptions: Final = JobSubscriptions(self._seen, self._left)
        self.is_connected = False
        """Whether the service tells of changes now."""
        self._unsent: dict[str, int | None] = {}
        """What the service does not know yet: the version that was read of a job, None where nobody waits any more."""
        self._has_unsent = asyncio.Event()

    async def run(self) -> NoReturn:
        """Keep the stream, for ever."""
        now = asyncio.get_running_loop().time
        delays, is_news = pauses(), True
        while True:
            began_at = now()
            code = await self._follow()
            was_steady = self.is_connected and now() - began_at >= _STEADY_SECONDS
            self.is_connected = False
            if was_steady:
                delays, is_news = pauses(), True
            elif is_news:
                _log.warning(
                    "The service reports no changes, so polls cannot wait.",
                    extra={"event": "polls_cannot_wait", "code": code.name},
                )
                is_news = False
            await asyncio.sleep(_UNKNOWN_CALL_SECONDS if code is grpc.StatusCode.UNIMPLEMENTED else next(delays))

    async def _follow(self) -> grpc.StatusCode:
        """One stream from its beginning to its end, and with what it ended."""
        self._unsent = dict(self.subscriptions.versions())
        self._has_unsent.set()
        stream = self._connection.jobs.FollowJobs()
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
