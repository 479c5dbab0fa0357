"""What became of jobs in one process since its start, counted finely enough for the percentiles of a console.

The histograms of `metrics` have few bounds, which are far apart. Here neighbouring bounds differ by a fifth, so that a
percentile is off by a tenth at most. Counts only grow: a reader keeps those of before and subtracts.
"""

from bisect import bisect_left
from collections import Counter
from typing import Final

from jobstatus.core.job import RequestType
from jobstatus.core.rules import JobOutcome

BOUNDS: Final = tuple(0.005 * 1.2**step for step in range(96))
"""In seconds: from 5 ms to two days."""


class JobFigures:
    """Counts jobs. Used by the event loop's thread only, so it needs no locks."""

    def __init__(self) -> None:
        self._created: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._queued: Counter[int] = Counter()
        self._run: Counter[int] = Counter()

    @property
    def created(self) -> dict[tuple[str, ...], float]:
        """Return how many jobs of each type were created."""
        return {(request_type,): number for request_type, number in self._created.items()}

    def expect(self) -> None:
        """Have the counts of created jobs from the start, as counters of metrics need it."""
        self._created.update(dict.fromkeys((request_type.value for request_type in RequestType), 0))

    def job_created(self, request_type: RequestType) -> None:
        self._created[request_type] += 1

    def job_started(self, queued_seconds: float) -> None:
        self._queued[bisect_left(BOUNDS, queued_seconds)] += 1

    def job_ended(self, outcome: JobOutcome, run_seconds: float | None) -> None:
        self._ended[outcome] += 1
        if run_seconds is not None:
            self._run[bisect_left(BOUNDS, run_seconds)] += 1

    def counts(self) -> dict[str, int]:
        """Return all counts: of `created`, of `ended.` and an outcome, of `queued.` or `run.` and a place of BOUNDS."""
        return {
            "created": sum(self._created.values()),
            **{f"ended.{outcome}": number for outcome, number in self._ended.items()},
            **{f"queued.{place}": number for place, number in self._queued.items()},
            **{f"run.{place}": number for place, number in self._run.items()},
        }
