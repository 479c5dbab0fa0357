"""One poll that waits for the end of a job: a small object that is called, without a task of its own.

It runs a task only while the store or an issuer has to be waited for: at its beginning, when its time is up, and when
its credential may have changed. Where all can be read at once there is none at all.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from jobstatus.core.access import Principal
from jobstatus.core.job import RequestType
from jobstatus.core.poll import Poll, Poller
from jobstatus.core.store import Answer
from jobstatus.core.watching.shared_reads import Reading, SharedReads, Waiter
from jobstatus.core.watching.subscriptions import ConcurrencyLimit, JobSubscriptions
from jobstatus.core.watching.timer_wheel import TimerWheel

MIN_PAUSE_SECONDS: Final = 1.0
"""Shortest time between two updates for a credential that has passed its end and is still accepted."""


class WaitClient(Protocol):
    """Who waits. Both ways to authenticate raise what refuses the credential."""

    def try_authenticate(self) -> Principal | None:
        """Return the principal that the credential stands for now, or None when only `authenticate` can tell."""
        ...

    async def authenticate(self) -> Principal: ...

    def answer(self, found: Poll | Exception) -> None:
        """Take the poll, or what it raised. Called once, unless the wait is cancelled before."""
        ...


class WaitParts:
    """What all waits of a process share."""

    def __init__(
        self,
        poller: Poller,
        subscriptions: JobSubscriptions,
        reads: SharedReads[Answer],
        concurrency: ConcurrencyLimit,
        clock: Callable[[], int],
    ) -> None:
        """`clock` returns ms since the epoch."""
        self.poller: Final = poller
        self.subscriptions: Final = subscriptions
        self.reads: Final = reads
        self.concurrency: Final = concurrency
        self.wheel: Final = TimerWheel(subscriptions.fan_out)
        self._clock = clock

    def wake_at(self, next_at: float, principal: Principal) -> float:
        """Return the loop's time at which to wake up at the latest, because the credential ends then."""
        valid_seconds = max(MIN_PAUSE_SECONDS, principal.valid_until - self._clock() / 1000)
        return min(next_at, asyncio.get_running_loop().time() + valid_seconds)

    def shared_poll(
        self, reading: Reading[Answer], job_id: str, request_type: RequestType, principal: Principal
    ) -> Poll:
        """Return what `Poller.poll` would return or raise, made of this reading once for all."""
        answer = self.poller.check(reading.found, request_type, principal)
        poll = reading.make(lambda: self.poller.make_poll(job_id, request_type, answer, principal))
        if poll.is_terminal and poll.reader != principal.virtual_key_id:
            return poll._replace(reader=principal.virtual_key_id)
        return poll


class Wait(Waiter[Answer]):
    """A wait that has a place and is subscribed to its job until it is answered or cancelled."""

    __slots__ = (
        "_client",
        "_created_at_ms",
        "_ends_at",
        "_is_over",
        "_is_woken",
        "_job_id",
        "_owner",
        "_parts",
        "_request_type",
        "_task",
        "_tick",
    )

    def __init__(
        self,
        parts: WaitParts,
        client: WaitClient,
        principal: Principal,
        *,
        job_id: str,
        request_type: RequestType,
        ends_at: float,
    ) -> None:
        """Take a place and subscribe. Raises Overloaded or ShuttingDown, and leaves nothing behind."""
        self._parts = parts
        self._job_id = job_id
        self._request_type = request_type
        self._owner = principal.virtual_key_id
        self._ends_at = ends_at
        self._client = client
        self._created_at_ms: int | None = None
        """Of the job that is waited for; None until it was read."""
        self._is_over = False
        self._is_woken = False
        self._task: asyncio.Task[None] | None = None
        self._tick = 0
        parts.concurrency.take(self._owner)
        try:
            super().__init__(parts.reads, job_id)
        except BaseException:
            parts.concurrency.give_back(self._owner)
            raise

    def begin(self, principal: Principal) -> Poll | None:
        """Read the job. Return the answer if there is one at once, after which the wait is over; None if not.

        Raises what reading raises at once.
        """
        try:
            poll = self._try_own_read(principal)
        except BaseException:
            self.cancel()
            raise
        if poll is None:
            self._run(principal)
        elif self._is_answer(poll):
            self.cancel()
        else:
            self._sleep(principal)
            poll = None
        return poll

    def cancel(self) -> None:
        """End the wait without an answer."""
        if self._is_over:
            return
        self._is_over = True
        self._parts.wheel.remove(self, self._tick)
        self._parts.concurrency.give_back(self._owner)
        self.leave()
        if self._task is not None:
            self._task.cancel()
        del self._client  # which has this wait, so that neither would be freed before the next collection

    def concerns(self, found: Answer) -> bool:
        """Whether the job has ended, or was removed and made anew, perhaps for another owner."""
        return found.expires_at_ms is not None or found.created_at_ms != self._created_at_ms

    def wake(self) -> None:
        """Answer if there is an answer by now; where a task runs, once it has ended."""
        self._is_queued = False
        if self._is_over:
            return
        if self._task is not None:
            self._is_woken = True
            return
        try:
            self._step()
        except Exception as error:  # noqa: BLE001  # it is the answer
            self._finish(error)

    on_time = wake

    def _step(self) -> None:
        """Go on with the news, or with a read of its own; in a task what cannot be done at once."""
        principal = self._client.try_authenticate()
        if principal is None:
            self._run(None)
            return
        reading = self.take()
        poll = self._try_own_read(principal) if reading is None else self._shared(reading, principal)
        if poll is None:
            self._run(principal)
        else:
            self._go_on(poll, principal)

    def _run(self, principal: Principal | None) -> None:
        self._task = asyncio.create_task(self._step_in_task(principal), name="jobstatus-wait")

    async def _step_in_task(self, principal: Principal | None) -> None:
        try:
            if principal is None:
                principal = await self._client.authenticate()
            reading = self.take()
            poll = await self._own_read(principal) if reading is None else self._shared(reading, principal)
        except Exception as error:  # noqa: BLE001  # it is the answer
            self._task = None
            self._finish(error)
        else:
            self._task = None
            self._go_on(poll, principal)

    def _try_own_read(self, principal: Principal) -> Poll | None:
        self.begin_own_read()
        poll = self._parts.poller.try_poll(self._job_id, self._request_type, principal)
        if poll is not None:
            self._end_own_read(poll)
        return poll

    async def _own_read(self, principal: Principal) -> Poll:
        self.begin_own_read()
        poll = await self._parts.poller.poll(self._job_id, self._request_type, principal)
        self._end_own_read(poll)
        return poll

    def _end_own_read(self, poll: Poll) -> None:
        self._created_at_ms = poll.created_at_ms
        self.end_own_read(poll.version)

    def _shared(self, reading: Reading[Answer], principal: Principal) -> Poll:
        poll = self._parts.shared_poll(reading, self._job_id, self._request_type, principal)
        self._created_at_ms = poll.created_at_ms
        return poll

    def _go_on(self, poll: Poll, principal: Principal) -> None:
        if self._is_answer(poll):
            self._finish(poll)
            return
        self._sleep(principal)
        if self._is_woken:  # while the task ran
            self._is_woken = False
            self.wake()

    def _is_answer(self, poll: Poll) -> bool:
        is_closed = self._parts.subscriptions.is_closed
        return poll.is_terminal or is_closed or asyncio.get_running_loop().time() >= self._ends_at

    def _sleep(self, principal: Principal) -> None:
        self._parts.wheel.remove(self, self._tick)
        self._tick = self._parts.wheel.add(self, self._parts.wake_at(self._ends_at, principal))

    def _finish(self, found: Poll | Exception) -> None:
        if not self._is_over:
            client = self._client
            self.cancel()
            client.answer(found)
