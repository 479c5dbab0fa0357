"""One timer of the event loop for many that have a time.

A timer of its own would cost each of them more memory than all else it has. Times are rounded up to a tick, which is
short compared with what is timed, and those of one tick share a set: to add and to remove costs the same however many
there are.
"""

import asyncio
import heapq
import math
from collections.abc import Callable
from typing import Final, Protocol

from jobstatus.core.watching.fan_out import FanOut

TICK_SECONDS: Final = 1 / 16
_TIMER_SECONDS: Final = 0.002
"""A timer of the loop may end this much early."""


class Timed(Protocol):
    """What has a time. It is not told of its tick alone: it may have been removed between the tick and the call."""

    def on_time(self) -> None: ...


class TimerWheel:
    """Calls `on_time`, never early and at most a tick late, in slices of a FanOut."""

    def __init__(self, fan_out: FanOut) -> None:
        self._fan_out = fan_out
        self._at_tick: dict[int, set[Timed]] = {}
        self._ticks: list[int] = []
        """A heap of the ticks in use; one whose set became empty stays until its time."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_tick = 0

    def add(self, timed: Timed, at: float) -> int:
        """Call `on_time` at this time of the loop. Return the tick, with which to remove it."""
        tick = math.ceil(at / TICK_SECONDS)
        due = self._at_tick.get(tick)
        if due is None:
            due = self._at_tick[tick] = set()
            heapq.heappush(self._ticks, tick)
            self._set_timer()
        due.add(timed)
        return tick

    def remove(self, timed: Timed, tick: int) -> None:
        """Undo `add`. A call that is under way already may still come."""
        if due := self._at_tick.get(tick):
            due.discard(timed)

    def _set_timer(self) -> None:
        tick = self._ticks[0]
        if self._timer is not None:
            if self._timer_tick <= tick:
                return
            self._timer.cancel()
        self._timer_tick = tick
        self._timer = asyncio.get_running_loop().call_at(tick * TICK_SECONDS + _TIMER_SECONDS, self._on_tick)

    def _on_tick(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._ticks and self._ticks[0] * TICK_SECONDS <= now:
            if due := self._at_tick.pop(heapq.heappop(self._ticks)):
                self._fan_out.wake(_call(timed) for timed in due)
        if self._ticks:
            self._set_timer()


def _call(timed: Timed) -> Callable[[], None]:
    return timed.on_time
