"""Limits log lines about events that can occur thousands of times a second: one at once, then one per interval."""

import time
from collections.abc import Callable
from typing import Final

EVERY_SECONDS: Final = 10.0


class LogThrottle:
    """Decides when to log one kind of line."""

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, *, every_seconds: float = EVERY_SECONDS
    ) -> None:
        self._monotonic = monotonic
        self._every_seconds = every_seconds
        self._due_at = float("-inf")
        self._silent = 0

    def should_log(self) -> int:
        """Count an event. Return how many occurred since the last line, this one included, or 0 to log nothing.

        The first event is logged at once, and so is the first one after `every_seconds` without a line.
        """
        self._silent += 1
        now = self._monotonic()
        if now < self._due_at:
            return 0
        self._due_at = now + self._every_seconds
        count, self._silent = self._silent, 0
        return count
