"""What happens by itself: leases and timeouts end, expired jobs leave the store.

Reads judge expiry by themselves, and every write settles what is overdue of its job first; so a sweep that comes late
delays only what nobody touches, and two sweepers harm nobody. Of many processes upon one store one sweeps at a time, so
that the work is not done, nor the store asked, once for each.
"""

import uuid
from collections.abc import Callable
from typing import Final

from jobstatus.core.commands import EnforceDeadlines
from jobstatus.core.errors import JobNotFound, JobStatusError
from jobstatus.core.observer import Observer, timed
from jobstatus.core.store import JobStore
from jobstatus.core.tracker import JobTracker

BATCH: Final = 500
MAX_BATCHES: Final = 20
"""A sweep stops after so many batches, so that a flood of work is spread over several."""


class Sweeper:
    """Settles what is due and purges what is expired."""

    def __init__(
        self,
        tracker: JobTracker,
        store: JobStore,
        *,
        clock: Callable[[], int],
        observer: Observer,
        every_seconds: float,
    ) -> None:
        """`every_seconds` is how often `sweep` will be called."""
        self._holder = uuid.uuid4().hex
        self._claim_ms = int(every_seconds * 2000) + 1000
        self.is_leader = False
        """Whether this is the one that sweeps, as far as it knows."""
        self._tracker = tracker
        self._store = store
        self._clock = clock
        self._observer = observer

    async def sweep(self) -> None:
        """Settle and purge what is due now, in batches, unless another process does. Raises what the store raises."""
        self.is_leader = False
        with timed(self._observer, "claim_sweep"):
            self.is_leader = await self._store.try_lead(self._holder, self._claim_ms)
        if not self.is_leader:
            return
        for _ in range(MAX_BATCHES):
            with timed(self._observer, "due"):
                job_ids = await self._store.due(self._clock(), BATCH)
            if job_ids:
                outcomes = await self._tracker.write([EnforceDeadlines(job_id=job_id) for job_id in job_ids])
                for outcome in outcomes:
                    if isinstance(outcome, JobStatusError) and not isinstance(outcome, JobNotFound):
                        raise outcome.with_traceback(None)
                self._observer.swept("settled", len(job_ids))
            if len(job_ids) < BATCH:
                break
        for _ in range(MAX_BATCHES):
            with timed(self._observer, "purge"):
                purged = await self._store.purge(self._clock(), BATCH)
            self._observer.swept("purged", purged)
            if purged < BATCH:
                break

    async def resign(self) -> None:
        """Let another process sweep at once. Raises what the store raises."""
        if self.is_leader:
            await self._store.try_lead(self._holder, 0)
