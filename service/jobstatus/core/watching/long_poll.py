"""Polls that wait for the end of a job, or follow its changes, instead of asking again and again.

One that waits costs a place and a registration, no task of its own. It reads the job again when that has changed, when
its time is up, and when something has happened to credentials: whoever may not read the job any more is told so then.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, aclosing
from typing import Final

from jobstatus.core.access import Principal
from jobstatus.core.errors import Overloaded, ShuttingDown
from jobstatus.core.job import RequestType, is_valid_id
from jobstatus.core.poll import Poll
from jobstatus.core.watching.subscriptions import ConcurrencyLimit, JobSubscriptions

MIN_PAUSE_SECONDS: Final = 1.0
"""Between two updates at a credential that should have ended and is still accepted."""
Reauthenticate = Callable[[], Awaitable[Principal]]
"""Whom the credential of a request stands for now; raises what says that it stands for nobody."""


class CannotWait(Exception):
    """Too many wait already, or the service stops, or nobody would tell of a change: to be answered at once."""


class LongPoller:
    """Looks at jobs for those who wait."""

    def __init__(
        self,
        poll: Callable[[str, RequestType, Principal], Awaitable[Poll]],
        subscriptions: JobSubscriptions,
        *,
        clock: Callable[[], int],
        limit: int,
        limit_each: int,
        hears_of_changes: Callable[[], bool] = lambda: True,
    ) -> None:
        """`poll` is a Poller's, `clock` tells ms since the epoch.

        At most `limit` wait at a time, and at most `limit_each` of one virtual key, or of all admins; and nobody begins
        to while `hears_of_changes` says that the subscriptions are not told of any, nor for what can be no job's id.
        """
        self._poll = poll
        self._subscriptions = subscriptions
        self._clock = clock
        self._concurrency = ConcurrencyLimit(limit, limit_each)
        self._hears_of_changes = hears_of_changes

    @property
    def count(self) -> int:
        """How many wait."""
        return self._concurrency.count

    async def wait(
        self, job_id: str, request_type: RequestType, reauthenticate: Reauthenticate, seconds: float
    ) -> Poll:
        """The poll once the job has ended, `seconds` have passed or the service stops. Raises as `updates`."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + seconds
        async with aclosing(self.updates(job_id, request_type, reauthenticate, lambda: ends_at)) as updates:
            async for poll in updates:
                if poll.is_terminal or loop.time() >= ends_at:
                    break
        return poll

    async def updates(
        self, job_id: str, request_type: RequestType, reauthenticate: Reauthenticate, next_at: Callable[[], float]
    ) -> AsyncGenerator[Poll]:
        """The poll now, and again whenever it may have changed; ends with the job, or when the service stops.

        `next_at` says at what time of the loop to look again at the latest. Raises CannotWait instead of the first
        poll, and at any time what `reauthenticate` and `Poller.poll` raise.
        """
        principal = await reauthenticate()
        with ExitStack() as stack:
            changed = self._take_place(stack, principal, job_id)
            while True:
                changed.clear()
                poll = await self._poll(job_id, request_type, principal)
                self._subscriptions.seen(job_id, poll.version)
                yield poll
                if poll.is_terminal or self._subscriptions.is_closed:
                    return
                valid_seconds = max(MIN_PAUSE_SECONDS, principal.valid_until - self._clock() / 1000)
                await _set_or_at(changed, min(next_at(), asyncio.get_running_loop().time() + valid_seconds))
                principal = await reauthenticate()

    def _take_place(self, stack: ExitStack, principal: Principal, job_id: str) -> asyncio.Event:
        if not self._hears_of_changes() or not is_valid_id(job_id):
            raise CannotWait
        try:
            stack.enter_context(self._concurrency.acquire(principal.virtual_key_id))
            return stack.enter_context(self._subscriptions.waiting_for(job_id))
        except (Overloaded, ShuttingDown) as error:
            raise CannotWait from error


async def _set_or_at(event: asyncio.Event, at: float) -> None:
    """Return when the event is set, or at that time of the loop."""
    try:
        async with asyncio.timeout_at(at):
            await event.wait()
    except TimeoutError:
        return
