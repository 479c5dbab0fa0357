"""Waiting for what nobody announces: a condition, and a limit. The only place where a test lets time pass."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Final

LIMIT_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.01


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = LIMIT_SECONDS) -> None:
    """Return as soon as the condition holds; TimeoutError when it does not in time."""
    async with asyncio.timeout(seconds):
        while True:
            outcome = condition()
            if await outcome if inspect.isawaitable(outcome) else outcome:
                return
            await asyncio.sleep(_PAUSE_SECONDS)
