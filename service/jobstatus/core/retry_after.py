"""Retry-After for a job in progress, estimated from how long recent jobs of its type have taken.

Each process learns only from the polls that it answers, which works the same for one service, many replicas, or an edge
without a store. A job counts once: when a poll finds it ended that an earlier poll found in progress.

The estimate is the latest time at which the poller would learn of the end LATENESS_MS late on average, over all recent
jobs that have lived as long as its own. So it is long where few jobs end (at first, most of the time) and short where
many do, whatever the distribution: several kinds of jobs in one type, a long tail. Outliers change it little, because
each is one of many.

Retry-After, in whole seconds, reveals roughly how long the jobs of a type take, including those of others; it never
reveals how many there were, when, or whose. The owner of most jobs of a type determines the estimate for all, within
the bounds.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from jobstatus.core.job import RequestType

LATENESS_MS: Final = 500
"""How late a poller learns of an end on average, over all recent jobs that have lived as long as its own."""
FIRST_PAUSE_MS: Final = 5_000
AGE_PER_PAUSE: Final = 2
"""Upper bound on the interval: FIRST_PAUSE_MS + age / 2, so a job that ends unexpectedly is reported at most that
late."""
UNLEARNED_AGE_PER_PAUSE: Final = 10
"""While too little is known the interval is a tenth of the job's age."""

MAX_KNOWN: Final = 200
"""How many recent durations of a type are kept."""
MIN_KNOWN: Final = 20
MIN_ALIVE: Final = 5
"""The least number of kept durations that are longer than the job's age; with fewer, too little is known."""
LEARNED_TOGETHER: Final = 10
"""After how many ends the estimates are recomputed, so that an end costs almost nothing."""
MAX_SEEN: Final = 10_000
"""How many jobs found in progress are kept, at least; at most twice as many. The oldest are dropped."""


def unlearned_retry_after_ms(age_ms: int) -> int:
    """Return the interval for a job of which only the age is known."""
    return max(0, age_ms) // UNLEARNED_AGE_PER_PAUSE


def ages_to_poll_at(durations_ms: Sequence[int]) -> list[int]:
    """Return the ages at which to poll again a job that has outlived the first 0, 1, 2 … of these durations (sorted).

    A poll at age t is late by t - d for each of the other durations d that is less. The age is the one for which the
    average over all others is LATENESS_MS. The ages never decrease.
    """
    sums = [0, *accumulate(durations_ms)]
    count = len(durations_ms)
    ages = []
    end = 0
    for begin in range(count):
        lateness = LATENESS_MS * (count - begin)
        end = max(end, begin + 1)
        while end < count and (end - begin) * durations_ms[end] - (sums[end] - sums[begin]) < lateness:
            end += 1
        ages.append((lateness + sums[end] - sums[begin]) // (end - begin))
    return ages


class _RecentDurations:
    """The recent durations of one type, and the estimates from them."""

    __slots__ = ("_durations_ms", "_unused", "ages_ms", "sorted_ms")

    def __init__(self) -> None:
        self._durations_ms: deque[int] = deque(maxlen=MAX_KNOWN)
        self._unused = 0
        self.sorted_ms: list[int] = []
        self.ages_ms: list[int] = []
        """As `ages_to_poll_at` returns, while at least MIN_ALIVE durations are longer."""

    def add(self, duration_ms: int) -> None:
        self._durations_ms.append(duration_ms)
        self._unused += 1
        if self._unused >= LEARNED_TOGETHER and len(self._durations_ms) >= MIN_KNOWN:
            self._unused = 0
            self.sorted_ms = sorted(self._durations_ms)
            self.ages_ms = ages_to_poll_at(self.sorted_ms)[: 1 - MIN_ALIVE]


class RetryAfterEstimator:
    """The estimates of one process, in bounded space."""

    def __init__(self) -> None:
        self._lately = {request_type: _RecentDurations() for request_type in RequestType}
        self._seen: set[str] = set()
        self._seen_before: set[str] = set()

    def retry_after_ms(self, job_id: str, request_type: RequestType, age_ms: int) -> int:
        """Return the interval for a job that was just found in progress."""
        if job_id not in self._seen:
            self._see(job_id)
        lately = self._lately[request_type]
        outlived = bisect_right(lately.sorted_ms, age_ms)
        if outlived >= len(lately.ages_ms):
            return unlearned_retry_after_ms(age_ms)
        longest = FIRST_PAUSE_MS + age_ms // AGE_PER_PAUSE if age_ms > 0 else FIRST_PAUSE_MS
        return min(lately.ages_ms[outlived] - age_ms, longest)

    def first_seen_ended(self, job_id: str) -> bool:
        """Return whether a job that has ended was seen in progress before; True once for each job."""
        if job_id not in self._seen and job_id not in self._seen_before:
            return False
        self._seen.discard(job_id)
        self._seen_before.discard(job_id)
        return True

    def learn(self, request_type: RequestType, duration_ms: int) -> None:
        """Record how long after its creation a job has ended."""
        self._lately[request_type].add(duration_ms)

    def _see(self, job_id: str) -> None:
        if len(self._seen) >= MAX_SEEN:
            self._seen_before, self._seen = self._seen, set()
        self._seen.add(job_id)
