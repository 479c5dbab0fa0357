"""Polls that wait for the end of a job, or follow its changes, instead of being repeated.

A waiting poll takes one place of the concurrency limit, but no task of its own. When the job changes, all polls that
wait for it share one read, and those that it does not concern sleep on: most changes are heartbeats, and only an end
answers a poll that waits. A poll reads the job by itself when it begins, when its time is up, and when a credential may
have changed, so that a client that may no longer read the job learns it then.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, aclosing
from functools import partial
from typing import Final

from jobstatus.core.access import Principal
from jobstatus.core.errors import Overloaded, ShuttingDown
from jobstatus.core.job import RequestType, is_valid_id
from jobstatus.core.poll import Poll, Poller
from jobstatus.core.store import Answer
from jobstatus.core.watching.shared_reads import Reading, SharedReads, Waiter
from jobstatus.core.watching.subscriptions import ConcurrencyLimit, JobSubscriptions

MIN_PAUSE_SECONDS: Final = 1.0
"""Shortest time between two updates for a credential that has passed its end and is still accepted."""
IsNews = Callable[[Answer, Poll], bool]
"""Whether what was read is news for a client that has this poll."""
Reauthenticate = Callable[[], Awaitable[Principal]]
"""Returns the principal that a request's credential stands for now; raises what refuses the credential."""


class CannotWait(Exception):
    """The poll must be answered at once: too many wait already, the service stops, or no change would be noticed."""


def has_ended(answer: Answer, known: Poll) -> bool:  # noqa: ARG001  # one of IsNews
    """Whether the job has ended: what answers a poll that waits."""
    return answer.expires_at_ms is not None


def has_new_document(answer: Answer, known: Poll) -> bool:
    """Whether there is another document: what an event stream sends."""
    return answer.expires_at_ms is not None or answer.body != known.body


def _is_same(before: Answer, now: Answer) -> bool:
    """Whether there is no news between the two, for whoever waits: they differ by heartbeats only.

    So a heartbeat costs the same however many wait.
    """
    is_over = now.expires_at_ms is not None
    return not is_over and now.created_at_ms == before.created_at_ms and now.body == before.body


def _is_other(answer: Answer, known: Poll) -> bool:
    """Whether the job was removed and made anew, perhaps for another owner."""
    return answer.created_at_ms != known.created_at_ms


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
        self._clock = clock
        self._concurrency = ConcurrencyLimit(limit, limit_each)
        self._hears_of_changes = hears_of_changes
        self.check_credentials: Final = self._reads.wake_all
        """Have all credentials read again. Call it when any may have changed."""

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
        waiting = self.updates(job_id, request_type, reauthenticate, lambda: ends_at, is_news=has_ended)
        async with aclosing(waiting) as updates:
            async for poll in updates:
                if poll.is_terminal or loop.time() >= ends_at:
                    break
        return poll

    async def updates(
        self,
        job_id: str,
        request_type: RequestType,
        reauthenticate: Reauthenticate,
        next_at: Callable[[], float],
        is_news: IsNews = has_new_document,
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
                lambda answer: poll is None or _is_other(answer, poll) or is_news(answer, poll),
            )
            reading: Reading[Answer] | None = None
            while True:
                if reading is None:
                    waiter.begin_own_read()
                    poll = await self._poller.poll(job_id, request_type, principal)
                    waiter.end_own_read(poll.version)
                else:
                    poll = self._shared_poll(reading, job_id, request_type, principal)
                yield poll
                if poll.is_terminal or self._subscriptions.is_closed:
                    return
                await waiter.wait(self._wake_at(next_at(), principal))
                principal = await reauthenticate()
                reading = waiter.take()

    def _wake_at(self, next_at: float, principal: Principal) -> float:
        """Return the loop's time at which to wake up at the latest, because the credential ends then."""
        valid_seconds = max(MIN_PAUSE_SECONDS, principal.valid_until - self._clock() / 1000)
        return min(next_at, asyncio.get_running_loop().time() + valid_seconds)

    def _shared_poll(
        self, reading: Reading[Answer], job_id: str, request_type: RequestType, principal: Principal
    ) -> Poll:
        """Return what `Poller.poll` would return or raise, made of this reading once for all."""
        answer = self._poller.check(reading.found, request_type, principal)
        poll = reading.make(partial(self._poller.make_poll, job_id, request_type, answer, principal))
        if poll.is_terminal and poll.reader != principal.virtual_key_id:
            return poll._replace(reader=principal.virtual_key_id)
        return poll

    def _take_place(
        self, stack: ExitStack, principal: Principal, job_id: str, concerns: Callable[[Answer], bool]
    ) -> Waiter[Answer]:
        if not self._hears_of_changes() or not is_valid_id(job_id):
            raise CannotWait
        try:
            stack.enter_context(self._concurrency.acquire(principal.virtual_key_id))
            return stack.enter_context(self._reads.waiting_for(job_id, concerns))
        except (Overloaded, ShuttingDown) as error:
            raise CannotWait from error
