"""Who waits for which job: one registration for each waiter, no task, woken when the job changes."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from jobstatus.core.errors import Overloaded, ShuttingDown


class Watchers:
    """The waiters of one process."""

    def __init__(self, limit: int) -> None:
        """At most `limit` waiters are admitted at a time."""
        self._limit = limit
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._count = 0
        self._closed = False

    @contextmanager
    def waiting_for(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the job has changed, and when the service stops; clear it before you look.

        Raises Overloaded when too many wait already, ShuttingDown when the service stops.
        """
        self.check_open()
        if self._count >= self._limit:
            raise Overloaded
        event = asyncio.Event()
        self._waiting.setdefault(job_id, set()).add(event)
        self._count += 1
        try:
            yield event
        finally:
            self._count -= 1
            self._waiting[job_id].discard(event)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    def wake(self, job_ids: Iterable[str]) -> None:
        """Tell those who wait for these jobs to look again."""
        for job_id in job_ids:
            for event in self._waiting.get(job_id, ()):
                event.set()

    def close(self) -> None:
        """Wake all for the last time; check_open raises for them from now on."""
        self._closed = True
        self.wake(self._waiting)

    def check_open(self) -> None:
        """Raise ShuttingDown once the service stops."""
        if self._closed:
            raise ShuttingDown
