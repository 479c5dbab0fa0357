"""Work on the event loop that takes long: step by step, and one step at a time for all calls."""

import asyncio
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")


class Pace:
    """Takes one step in each round of the event loop, of all that have steps to take, in turn."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def run(self, steps: Generator[None, None, T]) -> T:
        """Return the result of the steps. What ends at the first one takes no turn."""
        try:
            next(steps)
            while True:
                await self.turn()
                next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            steps.close()

    async def turn(self) -> None:
        """Return in a round of the event loop in which no other call has had a turn."""
        async with self._turn:
            await asyncio.sleep(0)
