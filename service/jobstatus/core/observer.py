"""What the core tells whoever keeps the metrics. It must not know how they are kept."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Observer(Protocol):
    def batch_written(self, commands: int) -> None:
        """A batch of this many commands was decided and committed."""
        ...

    def races_lost(self, commands: int) -> None:
        """This many commands are decided anew, since another process changed their jobs meanwhile."""
        ...

    def swept(self, what: str, jobs: int) -> None:
        """A sweep `settled` or `purged` this many jobs."""
        ...

    def store_answered(self, operation: str, seconds: float) -> None:
        """The store took this long, whether it succeeded or not."""
        ...


@contextmanager
def timed(observer: Observer, operation: str) -> Iterator[None]:
    """Report how long the block took as the store's time."""
    started = time.perf_counter()
    try:
        yield
    finally:
        observer.store_answered(operation, time.perf_counter() - started)
