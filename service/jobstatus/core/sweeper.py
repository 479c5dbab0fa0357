"""Periodic work: applies ended leases and timeouts, and removes expired jobs.

Each read compares expiry with the clock, and each write first applies the ended deadlines of its job. So a late sweep
delays only jobs that are not used, and two sweepers do no harm. Of all processes that share a store only the leader
sweeps, so that the work is done once.

A job whose lease was renewed is due earlier than its lease ends. The sweep then writes the true end into `due_at_ms`,
and the next sweep does not find the job again.
"""

import uuid
from typing import Final

from jobstatus.core.commands import EnforceDeadlines
from jobstatus.core.errors import JobNotFound, JobStatusError
from jobstatus.core.job import Job
from jobstatus.core.observer import Observer, timed
from jobstatus.core.store import JobStore
from jobstatus.core.timekeeper import Timekeeper
from jobstatus.core.tracker import JobTracker

BATCH: Final = 500
MAX_BATCHES: Final = 20
"""The most batches of a sweep, so that a large amount of work is spread over several sweeps."""


class Sweeper:
    """Applies ended deadlines and purges expired jobs, while this process leads."""

    def __init__(
        self,
        tracker: JobTracker,
        store: JobStore,
        *,
        clock: Timekeeper,
        observer: Observer,
        every_seconds: float,
    ) -> None:
        """`every_seconds`: how often `sweep` is called."""
        self._holder = uuid.uuid4().hex
        self._claim_ms = int(every_seconds * 2000) + 1000
        self.is_leader = False
        """Whether this process led at the last sweep."""
        self._tracker = tracker
        self._store = store
        self._clock = clock
        self._observer = observer

    async def sweep(self) -> None:
        """Apply and purge what is due now, in batches, unless another process leads. Raises what the store raises."""
        leads = False
        try:
            leads = await self._try_lead(self._claim_ms)
        finally:
            self.is_leader = leads
        if not self.is_leader:
            return
        for _ in range(MAX_BATCHES):
            with timed(self._observer, "due"):
                job_ids = await self._store.due(self._clock.ms(), BATCH)
            if job_ids:
                outcomes = await self._tracker.write([EnforceDeadlines(job_id=job_id) for job_id in job_ids])
                for outcome in outcomes:
                    if isinstance(outcome, JobStatusError) and not isinstance(outcome, JobNotFound):
                        raise outcome.with_traceback(None)
                ended = [outcome for outcome in outcomes if isinstance(outcome, Job) and outcome.is_terminal]
                self._observer.swept("settled", len(ended))
            if len(job_ids) < BATCH:
                break
        if self._clock.ms() < self._clock.timeouts_count_from_ms():
            return
        for _ in range(MAX_BATCHES):
            with timed(self._observer, "purge"):
                purged = await self._store.purge(self._clock.ms(), BATCH)
            self._observer.swept("purged", purged)
            if purged < BATCH:
                break

    async def resign(self) -> None:
        """Let another process lead at once. Raises what the store raises."""
        if self.is_leader:
            await self._try_lead(0)

    async def ask_time(self) -> None:
        """Take over the time of the store's clock, if it has one. Raises what the store raises."""
        await self._try_lead(0)

    async def _try_lead(self, for_ms: int) -> bool:
        asked_at_ns = self._clock.monotonic_ns()
        with timed(self._observer, "claim_sweep"):
            claim = await self._store.try_lead(self._holder, for_ms)
        self._clock.observe_store(claim.now_ms, asked_at_ns)
        return claim.leads
