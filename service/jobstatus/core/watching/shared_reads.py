"""One read of a job for all that wait for it, however many they are.

A change of a job leads to one read. Only the waiters that it concerns are woken, and all of them get the same reading,
so that what is made of it is made once too. A waiter does no read for a change; it reads by itself when it begins, and
whenever it wants to without a change.

A waiter never goes back in time: a reading that began before the waiter's own last read is not for it. If the two found
different versions, the job is read once more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, Protocol, TypeVar

from jobstatus.core.store import NOT_NOW, NotNow, StoreError
from jobstatus.core.watching.subscriptions import JobSubscriptions


class Versioned(Protocol):
    """What is read of a job: an Answer or a Job."""

    @property
    def version(self) -> int: ...


Found = TypeVar("Found", bound=Versioned)
Made = TypeVar("Made")


class Reading(Generic[Found]):
    """What one read found, and what has been made of it."""

    __slots__ = ("_error", "_found", "_made")

    def __init__(self, found: Found | StoreError | None = None, *, error: Exception | None = None) -> None:
        """`error` is what the read raised."""
        self._found = found
        self._error = error
        self._made: Any = None

    @property
    def found(self) -> Found | StoreError | None:
        """What the read returned; raises what it raised."""
        if self._error is not None:
            raise self._error.with_traceback(None)
        return self._found

    @property
    def job(self) -> Found | None:
        """The job that was found; None where there is none, or the read failed."""
        return None if self._error is not None or isinstance(self._found, Exception) else self._found

    def make(self, make: Callable[[], Made]) -> Made:
        """Return what the first call of this method made. All callers must want the same."""
        if self._made is None:
            self._made = make()
        made: Made = self._made
        return made


class Waiter(Generic[Found]):
    """One that waits for news of a job, from its making until `leave`. What is no job always is news."""

    __slots__ = ("_is_queued", "_reading", "_reads", "_since")

    def __init__(self, reads: "SharedReads[Found]", job_id: str) -> None:
        """Raises ShuttingDown when the service is stopping already."""
        self._reads = reads.of(job_id)
        self._reading: Reading[Found] | None = None
        self._since = 0
        self._is_queued = False
        self._reads.waiters[self] = None

    def concerns(self, found: Found) -> bool:
        """Whether this job is news."""
        raise NotImplementedError

    def wake(self) -> None:
        """Take notice of the news, or of what else has changed. Sets `_is_queued` to False."""
        raise NotImplementedError

    def leave(self) -> None:
        """Wait no longer."""
        self._reads.remove(self)

    def begin_own_read(self) -> None:
        """Drop the news so far: a read that begins now finds them, or newer ones."""
        self._since = self._reads.overtaken = self._reads.begun
        self._reading = None

    def end_own_read(self, version: int) -> None:
        """Report the version that was found. If another one was last seen, the job is read again for all waiters."""
        self._reads.end_own_read(version)

    def take(self) -> Reading[Found] | None:
        """Return the last news, once; None where there are none, so that the waiter has to read by itself."""
        reading, self._reading = self._reading, None
        return reading

    def must_be_woken(self) -> bool:
        """Return whether the caller is to have `wake` called, because nobody else is going to."""
        is_queued, self._is_queued = self._is_queued, True
        return not is_queued

    def offer(self, reading: Reading[Found], number: int) -> bool:
        """Keep the reading if it is news. Return whether the caller is to have `wake` called for it."""
        if number <= self._since:
            return False
        job = reading.job
        if job is not None and not self.concerns(job):
            self._reading = None  # an earlier one is no news any more
            return False
        self._reading = reading
        return self.must_be_woken()


class AwaitingWaiter(Waiter[Found]):
    """A waiter whose owner awaits the news. `concerns` says of a job whether it is news."""

    __slots__ = ("_concerns", "_future", "_is_woken")

    def __init__(self, reads: "SharedReads[Found]", job_id: str, concerns: Callable[[Found], bool]) -> None:
        super().__init__(reads, job_id)
        self._concerns = concerns
        self._is_woken = False
        self._future: asyncio.Future[None] | None = None

    def concerns(self, found: Found) -> bool:
        """Whether this job is news."""
        return self._concerns(found)

    async def wait(self, until: float | None) -> bool:
        """Return whether the waiter was woken: when it is, or at that time of the loop; None: at no time."""
        if not self._is_woken:
            loop = asyncio.get_running_loop()
            self._future = loop.create_future()
            timer = None if until is None else loop.call_at(until, self._end_wait)
            try:
                await self._future
            finally:
                self._future = None
                if timer is not None:
                    timer.cancel()
        is_woken, self._is_woken = self._is_woken, False
        return is_woken

    def wake(self) -> None:
        """End the wait, or the next one."""
        self._is_queued = False
        self._is_woken = True
        self._end_wait()

    def _end_wait(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)


class SharedReads(Generic[Found]):
    """The waiters of all jobs that want the same of a job."""

    def __init__(
        self,
        subscriptions: JobSubscriptions,
        read: Callable[[str], Awaitable[Found | StoreError | None]],
        try_read: Callable[[str], Found | StoreError | NotNow | None] = lambda _: NOT_NOW,
        is_same: Callable[[Found, Found], bool] = lambda before, now: False,  # noqa: ARG005
    ) -> None:
        """`read` finds a job; `try_read` does so without waiting, or returns NOT_NOW.

        `is_same` says of what two reads found, one after the other, that the second is no news for any waiter.
        """
        self.subscriptions: Final = subscriptions
        self.read: Final = read
        self.try_read: Final = try_read
        self.is_same: Final = is_same
        self._jobs: dict[str, JobReads[Found]] = {}
        subscriptions.on_close.add(self.wake_all)

    @contextmanager
    def waiting_for(
        self, job_id: str, concerns: Callable[[Found], bool] = lambda _: True
    ) -> Iterator[AwaitingWaiter[Found]]:
        """Yield a waiter that is woken by what concerns it, and when the service stops.

        Raises ShuttingDown when the service is stopping already.
        """
        waiter = AwaitingWaiter(self, job_id, concerns)
        try:
            yield waiter
        finally:
            waiter.leave()

    def of(self, job_id: str) -> "JobReads[Found]":
        """Return the reads of a job, for a waiter. Raises ShuttingDown when the service is stopping already."""
        self.subscriptions.check_open()
        reads = self._jobs.get(job_id)
        if reads is None:
            reads = self._jobs[job_id] = JobReads(self, job_id)
        return reads

    def forget(self, job_id: str) -> None:
        """Drop the reads of a job that nobody waits for any more."""
        del self._jobs[job_id]

    def wake_all(self) -> None:
        """Wake all waiters without news, because what they may read has changed."""
        waiters = [waiter for reads in self._jobs.values() for waiter in reads.waiters]
        self.subscriptions.fan_out.wake([waiter.wake for waiter in waiters if waiter.must_be_woken()])


class JobReads(Generic[Found]):
    """The waiters of one job, and the reads for them: one at a time, and one more for all changes meanwhile."""

    __slots__ = ("_is_stale", "_job_id", "_last", "_reads", "_task", "begun", "overtaken", "waiters")

    def __init__(self, reads: SharedReads[Found], job_id: str) -> None:
        self._reads = reads
        self._last: Found | None = None
        """The job as the last read found it; None if a waiter may have found another version by itself."""
        self._job_id = job_id
        self._is_stale = False
        self._task: asyncio.Task[None] | None = None
        self.waiters: dict[Waiter[Found], None] = {}
        self.begun = 0
        """The number of reads that have begun."""
        self.overtaken = 0
        """The last read that had begun when a waiter began one of its own. That may find less, as on another connection
        to the store."""
        reads.subscriptions.add(job_id, self._changed)

    def remove(self, waiter: Waiter[Found]) -> None:
        """Forget a waiter, and all else once it was the last one."""
        del self.waiters[waiter]
        if self.waiters:
            return
        self._reads.forget(self._job_id)
        self._reads.subscriptions.remove(self._job_id, self._changed)
        if self._task is not None:
            self._task.cancel()

    def end_own_read(self, version: int) -> None:
        """Note the version that a waiter has found by itself."""
        if self._last is not None and self._last.version != version:
            self._last = None
        self._reads.subscriptions.seen(self._job_id, version)

    def _changed(self) -> None:
        if self._is_stale:
            return  # a read is to begin anyhow
        self._is_stale = True
        if self._task is None:
            self._reads.subscriptions.fan_out.wake([self._begin])

    def _begin(self) -> None:
        """Read at once if that is possible; else begin a task that reads."""
        if not self.waiters:
            return
        number = self._next_number()
        try:
            found = self._reads.try_read(self._job_id)
        except Exception as error:  # noqa: BLE001  # raised to each waiter
            self._publish(Reading(error=error), number)
            return
        if found is NOT_NOW:
            self._task = asyncio.create_task(self._read_until_fresh(number), name="jobstatus-shared-read")
        else:
            self._publish(Reading(found), number)

    def _next_number(self) -> int:
        self._is_stale = False
        self.begun += 1
        return self.begun

    async def _read_until_fresh(self, number: int) -> None:
        while True:
            try:
                reading = Reading(await self._reads.read(self._job_id))
            except Exception as error:  # noqa: BLE001  # raised to each waiter
                reading = Reading(error=error)
            self._publish(reading, number)
            if not self._is_stale:
                break
            number = self._next_number()
        self._task = None

    def _publish(self, reading: Reading[Found], number: int) -> None:
        job, last = reading.job, self._last
        is_for_all = number > self.overtaken
        self._last = job if is_for_all else None
        if job is not None:
            is_other = self._reads.subscriptions.seen(self._job_id, job.version, self._changed)
            if is_other and not is_for_all:
                self._changed()  # so that those who have overtaken this read are shown what it found, or newer
            if last is not None and self._reads.is_same(last, job):
                return
        due = [waiter.wake for waiter in self.waiters if waiter.offer(reading, number)]
        if due:
            self._reads.subscriptions.fan_out.wake(due)
