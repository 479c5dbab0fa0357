"""For log lines about what may happen a thousand times a second: said at once, and then once in a while."""

import time
from collections.abc import Callable
from typing import Final

EVERY_SECONDS: Final = 10.0


class LogThrottle:
    """Decides when a line is due. One of these for each kind of line."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._due_at = float("-inf")
        self._silent = 0

    def should_log(self) -> int:
        """To be called each time it happens: how often it has since the last line, this time included; 0: say nothing.

        The first time is said at once, and so is the first after a while of quiet.
        """
        self._silent += 1
        now = self._monotonic()
        if now < self._due_at:
            return 0
        self._due_at = now + EVERY_SECONDS
        count, self._silent = self._silent, 0
        return count
