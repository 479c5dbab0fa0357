"""The order of one job's writes, without calls."""

import asyncio
from typing import Final

from jobstatus.client.turns import JobTurns

LIMIT_SECONDS: Final = 30.0


class Writer:
    """A write that lasts until it is told to end."""

    def __init__(self, turns: JobTurns, limit_seconds: float = 2 * LIMIT_SECONDS) -> None:
        self.began = asyncio.Event()
        self.end = asyncio.Event()
        self._turns = turns
        self._limit_seconds = limit_seconds
        self.task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        async with self._turns.turn_of("job", self._limit_seconds):
            self.began.set()
            await self.end.wait()


async def test_a_write_that_is_cancelled_before_its_turn_lets_nobody_pass() -> None:
    """The write after it waits for the one before it."""
    turns = JobTurns(LIMIT_SECONDS)
    first, second, third = (Writer(turns) for _ in range(3))
    await first.began.wait()
    second.task.cancel()
    await asyncio.wait((second.task,))
    await turns_of_the_loop()
    assert not third.began.is_set()
    await all_end(first, third)


async def test_a_write_whose_time_ends_before_its_turn_lets_nobody_pass() -> None:
    """It fails at its own deadline, and nobody takes its place."""
    turns = JobTurns(LIMIT_SECONDS)
    first, hasty, third = Writer(turns), Writer(turns, 0.001), Writer(turns)
    hasty.end.set()
    await hasty.task
    await turns_of_the_loop()
    assert first.began.is_set()
    assert not third.began.is_set()
    await all_end(first, third)


async def test_a_write_that_is_cancelled_in_its_turn_ends_it() -> None:
    """There is nothing left that a later one had to wait for."""
    turns = JobTurns(LIMIT_SECONDS)
    first, second = Writer(turns), Writer(turns)
    await first.began.wait()
    first.task.cancel()
    await all_end(second)


async def turns_of_the_loop() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def all_end(*writers: Writer) -> None:
    for writer in writers:
        async with asyncio.timeout(LIMIT_SECONDS):
            await writer.began.wait()
        writer.end.set()
        await writer.task
