"""Limits on large answers: how much memory they use together, and how long a client may take to read one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class NoRoomForLarge(Exception):
    """The large answers being sent use all of the memory that they may."""


class LargeResponses:
    """The large answers being sent, on all connections of one process."""

    def __init__(self, *, max_bytes: int, seconds: float) -> None:
        """`max_bytes` bounds their sum; a client must read each one within `seconds`."""
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._bytes = 0

    @asynccontextmanager
    async def sending(self, size: int) -> AsyncIterator[None]:
        """Reserve `size` bytes while the block sends them.

        Raise NoRoomForLarge before the block, or TimeoutError when it takes too long.
        """
        if self._bytes + size > self._max_bytes:
            raise NoRoomForLarge
        self._bytes += size
        try:
            async with asyncio.timeout(self._seconds):
                yield
        finally:
            self._bytes -= size
