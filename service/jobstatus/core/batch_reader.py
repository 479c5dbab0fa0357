"""Joins point reads that come at the same time: what is asked while a read is under way is the next one.

Sixty-four polls at a time then cost one round trip, not sixty-four. A read is always begun after it was asked for, so
it sees all that was acknowledged before.

A caller waits on a future of its own: one that is cancelled takes nobody along. It does not wait for ever: while reads
under way get no answer others gather behind them, and would take their turns, each with a time limit of its own.
"""

import asyncio
import bisect
import operator
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from jobstatus.core.errors import JobStatusError, Overloaded, StoreUnavailable

Key = TypeVar("Key")
Found = TypeVar("Found")

MAX_BATCH: Final = 200
MAX_UNDER_WAY: Final = 2
"""Reads at a time. More would only make each smaller; one alone would let a slow one hold up all others."""
MAX_WAITING: Final = 20_000
WAIT_SECONDS: Final = 1.5
"""How long a caller waits for a read to begin: longer than a store takes to find out that a part of it is silent."""


class BatchReader(Generic[Key, Found]):
    """Reads one by one for its callers, and many at a time for the store."""

    def __init__(self, read: Callable[[Sequence[Key]], Awaitable[list[Found]]]) -> None:
        """`read` finds something for each of up to MAX_BATCH keys, in the order asked for, in limited time."""
        self._read_all = read
        self._waiting: list[tuple[Key, asyncio.Future[Found], float]] = []
        """Who waits for a read to begin, and since when; the first longest."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_due = False
        self._patience: asyncio.TimerHandle | None = None

    async def read(self, key: Key) -> Found:
        """What the store says of one key.

        Raises what the store raises, Overloaded when too many wait already, and StoreUnavailable when no read has
        begun within WAIT_SECONDS.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Found] = loop.create_future()
        self._waiting.append((key, future, loop.time()))
        if not self._is_due and len(self._tasks) < MAX_UNDER_WAY:
            self._is_due = True
            loop.call_soon(self._begin)  # whoever else asks in this turn of the loop comes along
        if self._patience is None:
            self._patience = loop.call_later(WAIT_SECONDS, self._fail_overdue)
        return await future

    def _begin(self) -> None:
        self._is_due = False
        while self._waiting and len(self._tasks) < MAX_UNDER_WAY:
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            task = asyncio.create_task(self._run(batch), name="jobstatus-group-read")
            self._tasks.add(task)
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._begin()

    def _fail_overdue(self) -> None:
        """Fail those who have waited too long. One timer serves all: it is set for whoever waits longest."""
        self._patience = None
        loop = asyncio.get_running_loop()
        since = loop.time() - WAIT_SECONDS
        count = bisect.bisect_right(self._waiting, since, key=operator.itemgetter(2))
        tired, self._waiting = self._waiting[:count], self._waiting[count:]
        for _, future, _ in tired:
            if not future.done():
                error = StoreUnavailable()
                error.__cause__ = TimeoutError("no read has begun")
                future.set_exception(error)
        if self._waiting:
            self._patience = loop.call_at(self._waiting[0][2] + WAIT_SECONDS, self._fail_overdue)

    async def _run(self, batch: "list[tuple[Key, asyncio.Future[Found], float]]") -> None:
        wanted = [(key, future) for key, future, _ in batch if not future.done()]
        if not wanted:
            return
        try:
            answers = await self._read_all([key for key, _ in wanted])
        except Exception as error:  # noqa: BLE001  # each caller is told, as if it had asked alone
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
    """An error for one caller alone: raised by many, one object would gather all their tracebacks."""
    if not isinstance(error, JobStatusError):
        return error
    copy = type(error)(error.message, **error.metadata)
    copy.__cause__ = error.__cause__
    return copy
