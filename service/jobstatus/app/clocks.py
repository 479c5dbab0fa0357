"""The clocks of a service, as a value: tests set clocks that they move."""

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from jobstatus.app.background import run_periodically
from jobstatus.core.timekeeper import SECOND_NS, Timekeeper, TimeLimits
from jobstatus.telemetry.metrics import Metrics

TICK_SECONDS: Final = 0.5
"""How often the clock is looked at; a process that is late by more than a few of these was paused."""


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """The wall clock in two units, which may step, and a monotonic one."""

    seconds: Callable[[], float] = time.time
    """Returns seconds since the epoch."""
    ms: Callable[[], int] = _wall_ms
    """Returns milliseconds since the epoch."""
    monotonic_ns: Callable[[], int] = time.monotonic_ns
    """Returns nanoseconds since any moment; never steps."""
    pulse: Callable[[], float] = time.monotonic
    """Returns seconds since any moment, by which the pauses of this process are measured."""
    follow_store: bool = True
    """Whether the store's clock, where it has one, counts instead of the wall clock."""

    def monotonic(self) -> float:
        """Return the monotonic clock in seconds."""
        return self.monotonic_ns() / SECOND_NS

    def timekeeper(self, limits: TimeLimits, metrics: Metrics) -> Timekeeper:
        """Return the time that counts by these clocks, and by what will be heard of the store's."""
        return Timekeeper(
            wall_ms=self.ms,
            monotonic_ns=self.monotonic_ns,
            pulse=self.pulse,
            follows_store=self.follow_store,
            limits=limits,
            on_offset=metrics.clock_compared,
        )


def keep_time(clock: Timekeeper, metrics: Metrics) -> Coroutine[Any, Any, NoReturn]:
    """Return the background work of a clock."""

    async def tick() -> None:
        clock.tick()

    return run_periodically(TICK_SECONDS, "tick", tick, metrics)
