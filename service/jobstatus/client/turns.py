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
        has_begun = False
        try:
            left_seconds = limit_seconds
            if previous is not None:
                began_at = loop.time()
                await asyncio.wait((previous,), timeout=min(limit_seconds, self._limit_seconds))
                left_seconds -= loop.time() - began_at
            has_begun = previous is None or previous.done() or limit_seconds > self._limit_seconds
            yield left_seconds
        finally:
            if previous is None or has_begun:
                self._end(job_id, mine)
            else:  # cancelled, or out of time, before its turn: later writes wait for the same earlier one
                previous.add_done_callback(lambda _: self._end(job_id, mine))

    def _end(self, job_id: str, turn: "asyncio.Future[None]") -> None:
        turn.set_result(None)
        if self._last.get(job_id) is turn:
            del self._last[job_id]
