"""Polls that wait for the end of a job, or follow its changes, instead of being repeated.

A waiting poll takes one place of the concurrency limit and one subscription, but no task of its own. It reads the job
again when the job has changed, when its time is up, and when a credential may have changed, so that a client that may
no longer read the job learns it then.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, aclosing
from typing import Final

from jobstatus.core.access import Principal
from jobstatus.core.errors import Overloaded, ShuttingDown
from jobstatus.core.job import RequestType, is_valid_id
from jobstatus.core.poll import Poll
from jobstatus.core.watching.each_version import Waited, each_version, set_or_at
from jobstatus.core.watching.subscriptions import ConcurrencyLimit, JobSubscriptions

MIN_PAUSE_SECONDS: Final = 1.0
"""Shortest time between two updates for a credential that has passed its end and is still accepted."""
Reauthenticate = Callable[[], Awaitable[Principal]]
"""Returns the principal that a request's credential stands for now; raises what refuses the credential."""


class CannotWait(Exception):
    """The poll must be answered at once: too many wait already, the service stops, or no change would be noticed."""


class LongPoller:
    """Answers polls that wait."""

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
        """`poll` is a Poller's, `clock` returns ms since the epoch.

        At most `limit` polls wait at a time, and at most `limit_each` of one virtual key, or of all admins together.
        No poll begins to wait for a malformed id, nor while `hears_of_changes` returns False, which means that nothing
        notifies the subscriptions.
        """
        self._poll = poll
        self._subscriptions = subscriptions
        self._clock = clock
        self._concurrency = ConcurrencyLimit(limit, limit_each)
        self._hears_of_changes = hears_of_changes

    @property
    def count(self) -> int:
        """How many polls wait."""
        return self._concurrency.count

    async def wait(
        self, job_id: str, request_type: RequestType, reauthenticate: Reauthenticate, seconds: float
    ) -> Poll:
        """Return the poll once the job has ended, `seconds` have passed or the service stops. Raises as `updates`."""
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
        """Yield the poll now, and again whenever it may have changed, until the job has ended or the service stops.

        `next_at` returns the loop's time at which to poll again at the latest. Raises CannotWait instead of the first
        poll, and at any time what `reauthenticate` and `Poller.poll` raise.
        """
        principal = await reauthenticate()

        async def poll() -> Poll:
            return await self._poll(job_id, request_type, principal)

        async def wait(changed: asyncio.Event) -> Waited:
            nonlocal principal
            if self._subscriptions.is_closed:
                return Waited.OVER
            valid_seconds = max(MIN_PAUSE_SECONDS, principal.valid_until - self._clock() / 1000)
            await set_or_at(changed, min(next_at(), asyncio.get_running_loop().time() + valid_seconds))
            principal = await reauthenticate()
            return Waited.CHANGED

        with ExitStack() as stack:
            changed = self._take_place(stack, principal, job_id)
            async with aclosing(each_version(self._subscriptions, job_id, changed, poll, wait)) as polls:
                async for found in polls:
                    if found is not None:
                        yield found

    def _take_place(self, stack: ExitStack, principal: Principal, job_id: str) -> asyncio.Event:
        if not self._hears_of_changes() or not is_valid_id(job_id):
            raise CannotWait
        try:
            stack.enter_context(self._concurrency.acquire(principal.virtual_key_id))
            return stack.enter_context(self._subscriptions.waiting_for(job_id))
        except (Overloaded, ShuttingDown) as error:
            raise CannotWait from error
