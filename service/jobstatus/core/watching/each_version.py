"""The loop of everything that follows one job: read it, yield it, wait until it may have changed."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Protocol, TypeVar

from jobstatus.core.watching.subscriptions import JobSubscriptions


class Versioned(Protocol):
    """What was read of a job: a Job or a Poll."""

    @property
    def version(self) -> int: ...

    @property
    def is_terminal(self) -> bool: ...


Read = TypeVar("Read", bound=Versioned)


async def each_version(
    subscriptions: JobSubscriptions,
    job_id: str,
    changed: asyncio.Event,
    read: Callable[[], Awaitable[Read]],
    wait: Callable[[asyncio.Event], Awaitable[bool]],
) -> AsyncGenerator[Read]:
    """Yield what `read` returns, now and after each `wait`, until the job is terminal or `wait` returns False.

    `changed` is the event of `JobSubscriptions.waiting_for`. It is cleared before each read, so a change during the
    read ends the next wait at once. Raises what `read` and `wait` raise.
    """
    while True:
        changed.clear()
        found = await read()
        subscriptions.seen(job_id, found.version)
        yield found
        if found.is_terminal or not await wait(changed):
            return
