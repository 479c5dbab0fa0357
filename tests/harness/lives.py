"""Workers that keep to their leases, and workers that vanish: does the one lose its job, is the other found out?"""

import asyncio
import itertools
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.duration_pb2 import Duration
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub

from harness.jobs import creation
from harness.wire import refusal_of

BEATS: Final = 3
"""Heartbeats in the time of a lease, as the client sends them."""
CALL_SECONDS: Final = 1.0
"""A call that has no answer by then is repeated, on a new connection, to the next address."""
PAUSE_SECONDS: Final = 0.05
_AGAIN: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))


def lease_of(seconds: float) -> Duration:
    """Return the lease as a message."""
    lease = Duration()
    lease.FromMilliseconds(int(seconds * 1000))
    return lease


class Lines:
    """Connections to some addresses, used in turn. One that does not answer is given up for a new one."""

    def __init__(self, ports: Sequence[int], *, patience_seconds: float = CALL_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._ports = itertools.cycle(ports)
        self._channels: dict[int, grpc.aio.Channel] = {}
        self._given_up: list[grpc.aio.Channel] = []

    async def call(self, method: str, request: object) -> Any:
        """Repeat the call until it is answered. Raises AioRpcError when it is refused."""
        while True:
            port = next(self._ports)
            channel = self._channels.get(port)
            if channel is None:
                channel = self._channels[port] = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS)
            try:
                return await getattr(JobStatusStub(channel), method)(request, timeout=self._patience_seconds)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _AGAIN:
                    raise
                if self._channels.get(port) is channel:
                    self._given_up.append(self._channels.pop(port))  # closed later: others may have calls on it
                await asyncio.sleep(PAUSE_SECONDS)

    async def close(self) -> None:
        for channel in (*self._channels.values(), *self._given_up):
            await channel.close()


@dataclass(slots=True, kw_only=True)
class Life:
    """One worker and its job. `lost_after` is when the worker was told that the job is no longer its own."""

    job_id: str
    lines: Lines
    lease_seconds: float
    started_at: float = 0.0
    attempt: int = 0
    beats: int = 0
    lost_after: float | None = None
    reason: str = ""
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def start(self) -> pb.Job:
        """Create the job and start it; the time of the lease runs from now."""
        await self.lines.call("CreateJob", creation(self.job_id))
        request = pb.StartJobRequest(
            job_id=self.job_id, worker_id=f"of-{self.job_id}", lease=lease_of(self.lease_seconds)
        )
        answer = await self.lines.call("StartJob", request)
        self.started_at, self.attempt = time.monotonic(), answer.job.attempt
        job: pb.Job = answer.job
        return job

    async def beat(self) -> None:
        """Send heartbeats until the life has ended, or the job is lost."""
        while not self.ended.is_set():
            request = pb.HeartbeatJobRequest(job_id=self.job_id, attempt=self.attempt)
            try:
                await self.lines.call("HeartbeatJob", request)
            except grpc.aio.AioRpcError as error:
                self.lost_after = time.monotonic() - self.started_at
                self.reason = refusal_of(error).reason
                return
            self.beats += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), self.lease_seconds / BEATS)
