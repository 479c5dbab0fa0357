"""The figures of one process for consoles, and the counts of the store by the process that leads.

While a page is open the store is counted as often as that takes a small part of the time; otherwise the count for the
metrics, which is rarer, is all there is.
"""

import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final

from jobstatus.console.limits import ConsoleLimits
from jobstatus.console.messages import Watch
from jobstatus.core.store import JobCount, JobStore
from jobstatus.core.timekeeper import Timekeeper
from jobstatus.telemetry.job_figures import JobFigures

WATCHED_SECONDS: Final = 10.0
"""How long a page counts as open after figures were collected for it."""


class Census:
    """Collects figures. Call `refresh` every second."""

    def __init__(
        self,
        store: JobStore,
        *,
        leads: Callable[[], bool],
        clock: Timekeeper,
        monotonic: Callable[[], float],
        jobs: JobFigures,
        waiters: Callable[[], int],
        limits: ConsoleLimits,
    ) -> None:
        """`leads` returns whether this process sweeps; `waiters` how many clients wait for jobs."""
        self._store = store
        self._leads = leads
        self._clock = clock
        self._monotonic = monotonic
        self._jobs = jobs
        self._waiters = waiters
        self._limits = limits
        self._process = uuid.uuid4().hex
        self._watched_until = self._alone_until = self._count_at = self._signs_at = self._types_at = float("-inf")
        self._count: dict[str, Any] | None = None
        self._signs: dict[str, Any] | None = None
        self._types: dict[str, Any] | None = None

    def note(self, count: JobCount | None) -> None:
        """Take over a count for the metrics; None where another process leads."""
        if count is None:
            if self._monotonic() > self._alone_until:
                self._count = self._signs = self._types = None
        else:
            self._count = self._of(count)

    async def figures(self, watch: str) -> str:
        """Return the figures of this process as a JSON object, at once. `watch` is a Watch as text."""
        is_open, is_alone = Watch.from_text(watch)
        now = self._monotonic()
        if is_open:
            self._watched_until = now + WATCHED_SECONDS
        if is_alone:
            self._alone_until = now + 2 * self._limits.stale_seconds
        return json.dumps(
            {
                "process": self._process,
                "jobs": self._jobs.counts(),
                "waiters": self._waiters(),
                "count": self._count,
                "signs": self._signs,
                "types": self._types,
            }
        )

    async def refresh(self) -> None:
        """Count what is due, if a page is open and it is for this process to count. Raises what the store raises."""
        now = self._monotonic()
        if now > self._watched_until or not (self._leads() or now <= self._alone_until):
            return
        limits = self._limits
        if now >= self._count_at:
            self._count_at = await self._timed(self._count_jobs, limits.count_share)
        if now >= self._signs_at:
            self._signs_at = await self._timed(self._look_for_signs, limits.count_share)
        if now >= self._types_at:
            self._types_at = await self._timed(self._count_types, limits.types_share)

    async def _count_jobs(self) -> None:
        self._count = self._of(await self._store.count_jobs(self._clock.leases_count_from_ms()))

    async def _look_for_signs(self) -> None:
        at_ms = self._clock.ms()
        self._signs = {"at_ms": at_ms, **(await self._store.worker_signs())._asdict()}

    async def _count_types(self) -> None:
        counts = await self._store.count_types()
        types = [[state.value, request_type.value, number] for (state, request_type), number in counts.items()]
        self._types = {"at_ms": self._clock.ms(), "counts": types}

    async def _timed(self, work: Callable[[], Awaitable[None]], share: float) -> float:
        """Do the work and return when to do it again, for it to take this part of the time."""
        began = self._monotonic()
        await work()
        ended = self._monotonic()
        return ended + (ended - began) / share

    def _of(self, count: JobCount) -> dict[str, Any]:
        return {
            "at_ms": self._clock.ms(),
            "by_state": {state.value: number for state, number in count.by_state.items()},
            "oldest_created_ms": count.oldest_created_ms,
            "leased_until_ms": count.leased_until_ms,
        }
