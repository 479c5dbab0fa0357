"""An event loop that does not wait: where nothing happens, its time skips to the next timer."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _SkippingSelector(selectors.DefaultSelector):
    skipped_seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            self.skipped_seconds += timeout
            timeout = 0
        return super().select(timeout)


class SkippingLoop(asyncio.SelectorEventLoop):
    """For code that uses only timers and tasks. Its time stands still while something runs, and begins with 0."""

    def __init__(self) -> None:
        self._skipping = _SkippingSelector()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.skipped_seconds


def run_without_waiting(work: Coroutine[Any, Any, T]) -> T:
    """Run the coroutine on a loop of its own."""
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        return runner.run(work)
