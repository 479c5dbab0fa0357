"""Turns: long reads one after the other, with pauses in which other work goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

MAX_PAUSE_SECONDS: Final = 0.1
"""The longest pause, so that those who wait behind a store that does not answer learn of it."""


class ScanTurns:
    """Gives one turn at a time. After each there is a pause, which delays the next turn and nothing else."""

    def __init__(self, pause_share: float, min_pause_seconds: float = 0) -> None:
        """A pause takes this multiple of the turn's time, and at least `min_pause_seconds`."""
        self._pause_share = pause_share
        self._min_pause_seconds = min_pause_seconds
        self._free = asyncio.Semaphore()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold the turn while the block lasts, in the order of the calls."""
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        try:
            yield
        finally:
            pause = min((loop.time() - began_at) * self._pause_share, MAX_PAUSE_SECONDS)
            loop.call_later(max(pause, self._min_pause_seconds), self._free.release)
