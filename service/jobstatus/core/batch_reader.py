"""Joins point reads that come at the same time: what is asked for during one read is in the next one.

Sixty-four polls at a time then cost one round trip instead of sixty-four. A read always begins after it was asked for,
so it sees everything that was acknowledged before.

Each caller awaits its own future, so cancelling one does not affect the others. The wait for a read to begin is
bounded, because reads that get no answer would otherwise make those behind them wait for several time limits in a row.
"""

import asyncio
import bisect
import operator
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from jobstatus.core.errors import JobStatusError, Overloaded, StoreUnavailable

Key = TypeVar("Key")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReaderLimits:
    """The bounds of a BatchReader."""

    max_batch: int = 200
    max_under_way: int = 2
    """Reads at a time. More would only make each smaller; with one alone a slow read would hold up all others."""
    late_seconds: float = 0.0
    """For so long those that wait stay together behind a read under way, unless they fill one. Worth it where a read
    costs much however few it is for."""
    max_waiting: int = 20_000
    wait_seconds: float = 1.5
    """How long a caller waits for a read to begin: longer than a store takes to find that a part of it is silent."""


class BatchReader(Generic[Key, Found]):
    """Takes reads one by one from its callers, and does many at a time."""

    def __init__(
        self,
        read: Callable[[Sequence[Key]], Awaitable[list[Found]]],
        limits: BatchReaderLimits = BatchReaderLimits(),
    ) -> None:
        """`read` finds something for each of up to `max_batch` keys, in the order asked for, in limited time."""
        self._read_all = read
        self._limits = limits
        self._waiting: list[tuple[Key, asyncio.Future[Found], float]] = []
        """Keys whose read has not begun, each with its caller's future and since when it waits; the oldest first."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._begun_at = 0.0
        """The loop's time at which the last read began."""
        self._due: asyncio.Handle | None = None
        """What begins the next read."""
        self._overdue_timer: asyncio.TimerHandle | None = None

    async def read(self, key: Key) -> Found:
        """Return what `read` finds for one key.

        Raises what `read` raises, Overloaded when `max_waiting` wait already, and StoreUnavailable when no read has
        begun within `wait_seconds`.
        """
        if len(self._waiting) >= self._limits.max_waiting:
            raise Overloaded
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Found] = loop.create_future()
        self._waiting.append((key, future, loop.time()))
        is_new = self._due is None or len(self._waiting) == self._limits.max_batch
        if is_new and len(self._tasks) < self._limits.max_under_way:
            self._schedule()
        if self._overdue_timer is None:
            self._overdue_timer = loop.call_later(self._limits.wait_seconds, self._fail_overdue)
        return await future

    def _schedule(self) -> None:
        """Have the next read begin when it is due: in the next turn of the loop at once, so that others can join."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if not self._waiting or len(self._tasks) >= self._limits.max_under_way:
            return
        loop = asyncio.get_running_loop()
        is_together = self._tasks and len(self._waiting) < self._limits.max_batch
        if is_together and (late_at := self._begun_at + self._limits.late_seconds) > loop.time():
            self._due = loop.call_at(late_at, self._begin)
        else:
            self._due = loop.call_soon(self._begin)

    def _begin(self) -> None:
        self._due = None
        most = self._limits.max_batch
        batch, self._waiting = self._waiting[:most], self._waiting[most:]
        if not batch:
            return
        task = asyncio.create_task(self._run(batch), name="jobstatus-batch-read")
        self._tasks.add(task)
        task.add_done_callback(self._end)
        self._begun_at = asyncio.get_running_loop().time()
        self._schedule()

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._schedule()

    def _fail_overdue(self) -> None:
        """Fail the callers that have waited too long. One timer serves all: it is set for the oldest."""
        self._overdue_timer = None
        loop = asyncio.get_running_loop()
        since = loop.time() - self._limits.wait_seconds
        count = bisect.bisect_right(self._waiting, since, key=operator.itemgetter(2))
        overdue, self._waiting = self._waiting[:count], self._waiting[count:]
        for _, future, _ in overdue:
            if not future.done():
                error = StoreUnavailable()
                error.__cause__ = TimeoutError("no read has begun")
                future.set_exception(error)
        if self._waiting:
            self._overdue_timer = loop.call_at(self._waiting[0][2] + self._limits.wait_seconds, self._fail_overdue)

    async def _run(self, batch: "list[tuple[Key, asyncio.Future[Found], float]]") -> None:
        wanted = [(key, future) for key, future, _ in batch if not future.done()]
        if not wanted:
            return
        try:
            answers = await self._read_all([key for key, _ in wanted])
        except Exception as error:  # noqa: BLE001  # raised to each caller, as if it had read alone
            for _, future in wanted:
                if not future.done():
                    future.set_exception(_clone_error(error))
            return
        except asyncio.CancelledError:
            for _, future in wanted:
                future.cancel()
            raise
        for (_, future), answer in zip(wanted, answers, strict=True):
            if not future.done():
                future.set_result(answer)


def _clone_error(error: Exception) -> Exception:
    """Copy an error for one caller: raised by many, one object would gather all their tracebacks."""
    if not isinstance(error, JobStatusError):
        return error
    copy = type(error)(error.message, **error.metadata)
    copy.__cause__ = error.__cause__
    return copy
