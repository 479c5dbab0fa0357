"""The order of one job's writes: a later one begins when the earlier ones have ended."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class JobTurns:
    """Which jobs have a write under way. A job that has none costs nothing."""

    def __init__(self, limit_seconds: float) -> None:
        """A write waits for earlier ones for at most so long: a heartbeat that hangs must not hold back an outcome."""
        self._limit_seconds = limit_seconds
        self._last: dict[str, asyncio.Future[None]] = {}
        """What ends with the last write of each job."""

    @asynccontextmanager
    async def turn_of(self, job_id: str, limit_seconds: float) -> AsyncIterator[float]:
        """Begin the block when the job's earlier writes have ended. Yield how many of the seconds are left."""
        loop = asyncio.get_running_loop()
        previous, mine = self._last.get(job_id), loop.create_future()
        self._last[job_id] = mine
        try:
            left_seconds = limit_seconds
            if previous is not None:
                began_at = loop.time()
                await asyncio.wait((previous,), timeout=min(limit_seconds, self._limit_seconds))
                left_seconds -= loop.time() - began_at
            yield left_seconds
        finally:
            mine.set_result(None)
            if self._last.get(job_id) is mine:
                del self._last[job_id]
