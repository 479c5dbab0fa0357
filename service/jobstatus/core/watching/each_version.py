"""The loop of everything that follows one job: read it, yield it, wait until it may have changed."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from enum import Enum
from typing import Protocol, TypeVar

from jobstatus.core.watching.subscriptions import JobSubscriptions


class Versioned(Protocol):
    """What was read of a job: a Job or a Poll."""

    @property
    def version(self) -> int: ...

    @property
    def is_terminal(self) -> bool: ...


class Waited(Enum):
    """What a wait ended with."""

    CHANGED = "the job may have changed"
    QUIET = "nothing has happened for as long as it may"
    OVER = "nothing is to follow"


Read = TypeVar("Read", bound=Versioned)


async def each_version(
    subscriptions: JobSubscriptions,
    job_id: str,
    changed: asyncio.Event,
    read: Callable[[], Awaitable[Read]],
    wait: Callable[[asyncio.Event], Awaitable[Waited]],
) -> AsyncGenerator[Read | None]:
    """Yield what `read` returns, now and after each `wait`, until the job is terminal or `wait` says that it is over.

    Yield None each time that `wait` says that nothing has happened. `changed` is the event of
    `JobSubscriptions.waiting_for`. It is cleared before each read, so a change during the read ends the next wait at
    once. Raises what `read` and `wait` raise.
    """
    while True:
        changed.clear()
        found = await read()
        subscriptions.seen(job_id, found.version)
        yield found
        if found.is_terminal:
            return
        while (waited := await wait(changed)) is Waited.QUIET:
            yield None
        if waited is Waited.OVER:
            return


async def set_or_at(event: asyncio.Event, at: float | None) -> bool:
    """Return whether the event is set: when it is, or at that time of the loop; None: at no time."""
    try:
        async with asyncio.timeout_at(at):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
