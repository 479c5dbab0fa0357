"""What the core reports to the metrics. It must not know how they are kept."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from jobstatus.core.job import RequestType
from jobstatus.core.rules import JobOutcome


class Observer(Protocol):
    def job_created(self, request_type: RequestType) -> None:
        """A job was created."""
        ...

    def job_started(self, request_type: RequestType, queued_seconds: float) -> None:
        """A job was started for the first time, so long after it was created."""
        ...

    def job_ended(self, request_type: RequestType, outcome: JobOutcome, run_seconds: float | None) -> None:
        """A job ended, so long after its start; None where it was never started."""
        ...

    def batch_written(self, commands: int) -> None:
        """A batch of this many commands was decided and committed."""
        ...

    def races_lost(self, commands: int) -> None:
        """This many commands are decided again, because another process changed their jobs."""
        ...

    def swept(self, what: str, jobs: int) -> None:
        """A sweep has `settled` (applied the deadlines of) or `purged` this many jobs."""
        ...

    def store_answered(self, operation: str, seconds: float) -> None:
        """An operation of the store took this long, successful or not."""
        ...


@contextmanager
def timed(observer: Observer, operation: str) -> Iterator[None]:
    """Report the duration of the block as the store's."""
    started = time.perf_counter()
    try:
        yield
    finally:
        observer.store_answered(operation, time.perf_counter() - started)
