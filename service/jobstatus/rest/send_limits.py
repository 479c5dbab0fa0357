"""What bounds large answers: how much memory they may take together, and how long a client may take to read one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

SEND_SECONDS: Final = 30.0
"""How long a large answer may take to be read; a client that is slower is cut off."""
MAX_LARGE_BYTES: Final = 256 * 1024 * 1024
"""How much memory the large answers under way may take together, on all connections of this process."""

_under_way = 0


class NoRoomForLarge(Exception):
    """Too many large answers are under way."""


@asynccontextmanager
async def sending_large(size: int) -> AsyncIterator[None]:
    """Around the sending of so many bytes. Raises NoRoomForLarge before, or TimeoutError when it takes too long."""
    global _under_way  # noqa: PLW0603  # connections are many, memory is one
    if _under_way + size > MAX_LARGE_BYTES:
        raise NoRoomForLarge
    _under_way += size
    try:
        async with asyncio.timeout(SEND_SECONDS):
            yield
    finally:
        _under_way -= size
