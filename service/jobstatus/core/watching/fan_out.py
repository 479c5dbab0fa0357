"""Wakes many waiters in slices, so that a change which concerns thousands does not keep the event loop to itself.

A wake is cheap, but what it sets going is not: a task that writes an answer. So only a few waiters are woken in one
turn of the loop. Between two turns the loop runs what they do and whatever else there is to do, such as polls.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

Wake = Callable[[], None]
MAX_AT_A_TIME: Final = 32
"""Wakes in one turn of the loop: some milliseconds of work, beside which the turn itself costs little."""


class FanOut:
    """The wakes of one event loop that are still to be made."""

    def __init__(self, max_at_a_time: int = MAX_AT_A_TIME) -> None:
        self._max_at_a_time = max_at_a_time
        self._rows: deque[Iterator[Wake]] = deque()

    def wake(self, wakes: Iterable[Wake]) -> None:
        """Make these calls from the next turn of the loop on, in order, and in turn with those asked for before.

        So a job with one waiter does not queue behind a job with thousands. One that raises is told to the loop's
        exception handler, and the others are made.
        """
        if not self._rows:
            asyncio.get_running_loop().call_soon(self._wake_some)
        self._rows.append(iter(wakes))

    def _wake_some(self) -> None:
        left = self._max_at_a_time
        try:
            while self._rows and left:
                wake = next(self._rows[0], None)
                if wake is None:
                    self._rows.popleft()
                    continue
                left -= 1
                self._rows.rotate(-1)
                wake()
        finally:
            if self._rows:
                asyncio.get_running_loop().call_soon(self._wake_some)
