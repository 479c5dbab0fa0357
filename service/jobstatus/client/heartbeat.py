"""The heartbeats of one attempt: often enough to keep the lease, soon after a report, and at a bounded rate.

Those without news are sent at instants that all runs of an event loop share, so that one batch carries many of them.
"""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

from jobstatus.client.errors import LOST
from jobstatus.core.commands import HeartbeatJob

BEATS_PER_LEASE: Final = 3
INSTANTS_PER_LEASE: Final = 30
"""The instants at which runs send heartbeats are at most this part of a lease apart."""
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

    The lease is lost when the service says so. While attempts are left it is also lost when a whole lease has passed
    since the last heartbeat that the service confirmed was sent (the answer may have taken long, and the service counts
    from before it), because another worker may start the job. At the last attempt nobody else can, and the service lets
    leases run on after an outage, so the worker goes on until the service answers.

    Construct and `run` it on the loop; only `report` may be called from another thread.
    """

    def __init__(
        self,
        send: Send,
        *,
        job_id: str,
        attempt: int,
        lease_seconds: float,
        started_at: float,
        is_last_attempt: bool,
        on_lost: Callable[[Exception], None],
    ) -> None:
        """`started_at` is the loop's time when the lease was requested."""
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._lease_seconds = lease_seconds
        self._is_last_attempt = is_last_attempt
        self._is_failing = False
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
        due_at = self._usually_due_at()
        try:
            while True:
                await self._pause(due_at)
                due_at = await self._beat()
        except Exception as error:  # noqa: BLE001 (whatever ends the heartbeats, the lease is lost)
            self._on_lost(error)

    def _usually_due_at(self) -> float:
        """Return when the next heartbeat is due if this one succeeds."""
        gap_seconds = self._lease_seconds / BEATS_PER_LEASE * random.uniform(0.8, 1)  # noqa: S311 (no secret)
        return shared_instant(self._sent_at + gap_seconds, self._lease_seconds)

    async def _pause(self, due_at: float) -> None:
        """Wait until then or until there is a new report, but at least the shortest gap."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(due_at):
                await self._news.wait()
        await asyncio.sleep(self._sent_at + SHORTEST_GAP_SECONDS - self._loop.time())
        self._news.clear()

    async def _beat(self) -> float:
        """Send the latest report. Return when the next heartbeat is due."""
        self._sent_at = self._loop.time()
        try:
            await self._send(self._latest, limit_seconds=self._limit_seconds())
        except LOST:
            raise
        except Exception as error:  # the caller's interceptors and metadata may raise anything
            if self._loop.time() >= self._lease_ends_at and not self._is_last_attempt:
                raise
            if not self._is_failing:
                _logger.warning(
                    "A heartbeat of job %s failed and is retried: %s",
                    *(self._latest.job_id, error),
                    extra={"event": "heartbeat_failed", "job_id": self._latest.job_id},
                )
            self._is_failing = True
            return min(self._usually_due_at(), self._sent_at + LONGEST_GAP_AFTER_FAILURE_SECONDS)
        self._is_failing = False
        self._lease_ends_at = self._sent_at + self._lease_seconds
        return self._usually_due_at()

    def _limit_seconds(self) -> float:
        """Return how long the heartbeat that is sent now may take."""
        left_seconds = self._lease_ends_at - self._sent_at
        if left_seconds > 0:
            return left_seconds
        return self._lease_seconds if self._is_last_attempt else LIMIT_AFTER_LEASE_SECONDS


def shared_instant(at: float, lease_seconds: float) -> float:
    """Return the last instant until then that runs with such a lease share. The instants are a power of two apart, so
    those of longer leases are among those of shorter ones.
    """
    apart_seconds = 2.0 ** math.floor(math.log2(lease_seconds / INSTANTS_PER_LEASE))
    return at - at % apart_seconds
