"""The clocks of a service, as a value: tests set clocks that they move."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """The wall clock, which may step, and a monotonic one."""

    wall_ns: Callable[[], int] = time.time_ns
    """Returns ns since the epoch."""
    monotonic: Callable[[], float] = time.monotonic
    """Returns seconds since any moment; never steps."""

    def seconds(self) -> float:
        """Return seconds since the epoch."""
        return self.wall_ns() / 1_000_000_000

    def ms(self) -> int:
        """Return milliseconds since the epoch."""
        return self.wall_ns() // 1_000_000
