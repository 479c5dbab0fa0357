"""Polls that wait for the end of a job, or follow its changes, instead of being repeated.

A waiting poll takes one place of the concurrency limit, but no task of its own. When the job changes, all polls that
wait for it share one read, and those that it does not concern sleep on: most changes are heartbeats, and only an end
answers a poll that waits. A poll reads the job by itself when it begins, when its time is up, and when a credential may
have changed, so that a client that may no longer read the job learns it then.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack
from typing import Final

from jobstatus.core.access import Principal
from jobstatus.core.errors import Overloaded, ShuttingDown
from jobstatus.core.job import RequestType, is_valid_id
from jobstatus.core.poll import Poll, Poller
from jobstatus.core.store import Answer
from jobstatus.core.watching.shared_reads import AwaitingWaiter, Reading, SharedReads
from jobstatus.core.watching.subscriptions import ConcurrencyLimit, JobSubscriptions
from jobstatus.core.watching.waits import Wait, WaitClient, WaitParts

Reauthenticate = Callable[[], Awaitable[Principal]]
"""Returns the principal that a request's credential stands for now; raises what refuses the credential."""


class CannotWait(Exception):
    """The poll must be answered at once: too many wait already, the service stops, or no change would be noticed."""


def _is_same(before: Answer, now: Answer) -> bool:
    """Whether there is no news between the two, for whoever waits: they differ by heartbeats only.

    So a heartbeat costs the same however many wait.
    """
    is_over = now.expires_at_ms is not None
    return not is_over and now.created_at_ms == before.created_at_ms and now.body == before.body


def _is_news(answer: Answer, known: Poll) -> bool:
    """Whether there is something to send to an event stream that has this poll: another document, an end, or another
    job, made anew under the same id, perhaps for another owner."""
    return answer.expires_at_ms is not None or answer.body != known.body or answer.created_at_ms != known.created_at_ms


class LongPoller:
    """Answers polls that wait."""

    def __init__(
        self,
        poller: Poller,
        subscriptions: JobSubscriptions,
        *,
        clock: Callable[[], int],
        limit: int,
        limit_each: int,
        hears_of_changes: Callable[[], bool] = lambda: True,
    ) -> None:
        """`clock` returns ms since the epoch.

        At most `limit` polls wait at a time, and at most `limit_each` of one virtual key, or of all admins together.
        No poll begins to wait for a malformed id, nor while `hears_of_changes` returns False, which means that nothing
        notifies the subscriptions.
        """
        self._poller = poller
        self._subscriptions = subscriptions
        self._reads = SharedReads(subscriptions, poller.read, poller.try_read, _is_same)
        self._concurrency = ConcurrencyLimit(limit, limit_each)
        self._parts = WaitParts(poller, subscriptions, self._reads, self._concurrency, clock)
        self._hears_of_changes = hears_of_changes
        self.check_credentials: Final = self._reads.wake_all
        """Have all credentials read again. Call it when any may have changed."""

    @property
    def count(self) -> int:
        """How many polls wait."""
        return self._concurrency.count

    def wait_for(
        self, job_id: str, request_type: RequestType, principal: Principal, seconds: float, client: WaitClient
    ) -> Wait:
        """Return a wait, still to begin, which `client` is answered once the job has ended, or `seconds` have passed,
        or the service stops. Raises CannotWait."""
        self._check(job_id)
        ends_at = asyncio.get_running_loop().time() + seconds
        try:
            return Wait(self._parts, client, principal, job_id=job_id, request_type=request_type, ends_at=ends_at)
        except (Overloaded, ShuttingDown) as error:
            raise CannotWait from error

    async def wait(
        self, job_id: str, request_type: RequestType, reauthenticate: Reauthenticate, seconds: float
    ) -> Poll:
        """Return the answer of `wait_for`. Raises CannotWait, and what `reauthenticate` and `Poller.poll` raise."""
        principal = await reauthenticate()
        client = _AwaitingClient(reauthenticate)
        wait = self.wait_for(job_id, request_type, principal, seconds, client)
        try:
            return wait.begin(principal) or await client.answered
        finally:
            wait.cancel()

    async def updates(
        self,
        job_id: str,
        request_type: RequestType,
        reauthenticate: Reauthenticate,
        next_at: Callable[[], float],
    ) -> AsyncGenerator[Poll]:
        """Yield the poll now, and again when there are news and at `next_at`, until the job ends or the service stops.

        `next_at` returns the loop's time at which to poll again at the latest. Raises CannotWait instead of the first
        poll, and at any time what `reauthenticate` and `Poller.poll` raise.
        """
        principal = await reauthenticate()
        poll: Poll | None = None
        with ExitStack() as stack:
            waiter = self._take_place(
                stack,
                principal,
                job_id,
                lambda answer: poll is None or _is_news(answer, poll),
            )
            reading: Reading[Answer] | None = None
            while True:
                if reading is None:
                    waiter.begin_own_read()
                    poll = await self._poller.poll(job_id, request_type, principal)
                    waiter.end_own_read(poll.version)
                else:
                    poll = self._parts.shared_poll(reading, job_id, request_type, principal)
                yield poll
                if poll.is_terminal or self._subscriptions.is_closed:
                    return
                await waiter.wait(self._parts.wake_at(next_at(), principal))
                principal = await reauthenticate()
                reading = waiter.take()

    def _take_place(
        self, stack: ExitStack, principal: Principal, job_id: str, concerns: Callable[[Answer], bool]
    ) -> AwaitingWaiter[Answer]:
        self._check(job_id)
        try:
            stack.enter_context(self._concurrency.acquire(principal.virtual_key_id))
            return stack.enter_context(self._reads.waiting_for(job_id, concerns))
        except (Overloaded, ShuttingDown) as error:
            raise CannotWait from error

    def _check(self, job_id: str) -> None:
        if not self._hears_of_changes() or not is_valid_id(job_id):
            raise CannotWait


class _AwaitingClient:
    """A client whose answer is awaited."""

    def __init__(self, reauthenticate: Reauthenticate) -> None:
        self._reauthenticate = reauthenticate
        self.answered: asyncio.Future[Poll] = asyncio.get_running_loop().create_future()

    def try_authenticate(self) -> None:
        """Leave it to `authenticate`."""

    async def authenticate(self) -> Principal:
        return await self._reauthenticate()

    def answer(self, found: Poll | Exception) -> None:
        if self.answered.done():
            return  # cancelled
        if isinstance(found, Exception):
            self.answered.set_exception(found)
        else:
            self.answered.set_result(found)
