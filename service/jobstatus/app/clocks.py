"""The clocks of a service, as a value: tests set clocks that they move."""

import time
from collections.abc import Callable
from dataclasses import dataclass


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """The wall clock in two units, which may step, and a monotonic one."""

    seconds: Callable[[], float] = time.time
    """Returns seconds since the epoch."""
    ms: Callable[[], int] = _wall_ms
    """Returns milliseconds since the epoch."""
    monotonic: Callable[[], float] = time.monotonic
    """Returns seconds since any moment; never steps."""
    pulse: Callable[[], float] = time.monotonic
    """Returns seconds since any moment, by which the pauses of this process are measured."""
    follow_store: bool = True
    """Whether the store's clock, where it has one, counts instead of the wall clock."""
