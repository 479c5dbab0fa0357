"""The heartbeats of one attempt: often enough to keep the lease, soon after a report, and at a bounded rate."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

from jobstatus.client.errors import LOST
from jobstatus.core.commands import HeartbeatJob

BEATS_PER_LEASE: Final = 3
SHORTEST_GAP_SECONDS: Final = 0.25
LONGEST_GAP_AFTER_FAILURE_SECONDS: Final = 1.0
LIMIT_AFTER_LEASE_SECONDS: Final = 1.0
"""How long a worker that slept through the end of its lease asks whether the job is still its own."""

_logger = logging.getLogger(__name__)


class Send(Protocol):
    """Sends one heartbeat, trying for at most so many seconds."""

    def __call__(self, command: HeartbeatJob, *, limit_seconds: float) -> Awaitable[object]: ...


class Heartbeat:
    """Sends heartbeats until it is cancelled or the lease is lost, and then calls `on_lost` once.

    The lease is lost when the service says so, or when a whole lease has passed since the last heartbeat that it
    confirmed was sent. The answer may have taken long, and the service counts from before it. Construct and `run` it on
    the loop; only `report` may be called from another thread.
    """

    def __init__(
        self,
        send: Send,
        *,
        job_id: str,
        attempt: int,
        lease_seconds: float,
        started_at: float,
        on_lost: Callable[[Exception], None],
    ) -> None:
        """`started_at` is the loop's time when the lease was requested."""
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._lease_seconds = lease_seconds
        self._on_lost = on_lost
        self._news = asyncio.Event()
        self._latest = HeartbeatJob(job_id=job_id, attempt=attempt)
        self._sent_at = started_at
        self._lease_ends_at = started_at + lease_seconds

    def report(self, progress: float | None, message: str | None) -> None:
        """Set what the next heartbeat carries; None leaves a field as it was. Raises InvalidField."""
        latest = self._latest
        self._latest = HeartbeatJob(
            job_id=latest.job_id,
            attempt=latest.attempt,
            progress=latest.progress if progress is None else progress,
            message=latest.message if message is None else message,
        )
        with suppress(RuntimeError):  # a thread may outlive the loop
            self._loop.call_soon_threadsafe(self._news.set)

    async def run(self) -> None:
        gap_seconds = self._usual_gap_seconds()
        try:
            while True:
                await self._pause(gap_seconds)
                gap_seconds = await self._beat()
        except Exception as error:  # noqa: BLE001 (whatever ends the heartbeats, the lease is lost)
            self._on_lost(error)

    def _usual_gap_seconds(self) -> float:
        return self._lease_seconds / BEATS_PER_LEASE * random.uniform(0.8, 1)  # noqa: S311 (no secret)

    async def _pause(self, gap_seconds: float) -> None:
        """Wait until the gap has passed or there is a new report, but at least the shortest gap."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._sent_at + gap_seconds):
                await self._news.wait()
        await asyncio.sleep(self._sent_at + SHORTEST_GAP_SECONDS - self._loop.time())
        self._news.clear()

    async def _beat(self) -> float:
        """Send the latest report. Return the seconds until the next heartbeat."""
        self._sent_at = self._loop.time()
        left_seconds = self._lease_ends_at - self._sent_at
        limit_seconds = left_seconds if left_seconds > 0 else LIMIT_AFTER_LEASE_SECONDS
        try:
            await self._send(self._latest, limit_seconds=limit_seconds)
        except LOST:
            raise
        except Exception as error:  # the caller's interceptors and metadata may raise anything
            if self._loop.time() >= self._lease_ends_at:
                raise
            _logger.warning(
                "A heartbeat of job %s failed and is retried while the lease lasts: %s",
                *(self._latest.job_id, error),
                extra={"event": "heartbeat_failed", "job_id": self._latest.job_id},
            )
            return min(self._usual_gap_seconds(), LONGEST_GAP_AFTER_FAILURE_SECONDS)
        self._lease_ends_at = self._sent_at + self._lease_seconds
        return self._usual_gap_seconds()
