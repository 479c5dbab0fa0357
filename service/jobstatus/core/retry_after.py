"""When to ask again for a job under way, learned from how long the jobs of its type have lately taken.

Each process learns from the polls that it answers, and from nothing else: that works the same behind one service, many
replicas, or an edge without a store. A job counts once: when a poll finds it ended that an earlier poll, a waiting one
perhaps, found under way.

A poller is told the latest time at which it would hear of the end LATENESS_MS late on average, were its job any of
those that have lived as long. So it is asked to come back rarely where few jobs end (at first, most of the time) and
often where many do, whatever the shape of the times: several kinds of jobs in one type, a long tail. Outliers move the
answer little, since each is one of many.

A poller learns from this, in the whole seconds of Retry-After, roughly how long the jobs of a type take, others' jobs
included; never how many, when or whose they were. Who has most jobs of a type decides for all, within the bounds.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from jobstatus.core.job import RequestType

LATENESS_MS: Final = 500
"""How late the news of an end may come on average, over all jobs that have lived as long as the one asked for."""
FIRST_PAUSE_MS: Final = 5_000
AGE_PER_PAUSE: Final = 2
"""Whatever is known, a poller waits no longer than FIRST_PAUSE_MS and half of its job's age: what ends against all
expectation is told late by half of the time that it took, and those seconds, at most."""
UNLEARNED_AGE_PER_PAUSE: Final = 10
"""While too little is known a poller waits for a tenth of its job's age."""

MAX_KNOWN: Final = 200
"""How many jobs of a type are remembered: the latest."""
MIN_KNOWN: Final = 20
MIN_ALIVE: Final = 5
"""Of how many known jobs that have lived as long something is said. About older jobs nothing is known."""
LEARNED_TOGETHER: Final = 10
"""After how many ends the answers are worked out anew, so that an end costs next to nothing."""
MAX_ASKED_FOR: Final = 10_000
"""How many jobs that were found under way are remembered, at least: those asked for last; twice as many at most."""


def unlearned_retry_after_ms(age_ms: int) -> int:
    """After how long to ask again for a job of which nothing is known but its age."""
    return max(0, age_ms) // UNLEARNED_AGE_PER_PAUSE


def ages_to_ask_at(durations_ms: Sequence[int]) -> list[int]:
    """The age at which to ask again for a job that has outlived the first 0, 1, 2 … of these durations (sorted).

    To ask at age t is late by t - d for each of the others that takes d, if that is less. The age is the one for which
    the average over all the others is LATENESS_MS. It never falls from one to the next.
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
    """What is known of one type: the latest durations, and what follows from them."""

    __slots__ = ("_durations_ms", "_unheeded", "ages_ms", "sorted_ms")

    def __init__(self) -> None:
        self._durations_ms: deque[int] = deque(maxlen=MAX_KNOWN)
        self._unheeded = 0
        self.sorted_ms: list[int] = []
        self.ages_ms: list[int] = []
        """As `ages_to_ask_at` says, as long as enough of the known jobs live."""

    def add(self, duration_ms: int) -> None:
        self._durations_ms.append(duration_ms)
        self._unheeded += 1
        if self._unheeded >= LEARNED_TOGETHER and len(self._durations_ms) >= MIN_KNOWN:
            self._unheeded = 0
            self.sorted_ms = sorted(self._durations_ms)
            self.ages_ms = ages_to_ask_at(self.sorted_ms)[: 1 - MIN_ALIVE]


class RetryAfterEstimator:
    """What one process has learned; its memory is bounded."""

    def __init__(self) -> None:
        self._lately = {request_type: _RecentDurations() for request_type in RequestType}
        self._asked_for: set[str] = set()
        self._asked_for_before: set[str] = set()

    def retry_after_ms(self, job_id: str, request_type: RequestType, age_ms: int) -> int:
        """After how long to ask again for a job that has just been found under way."""
        if job_id not in self._asked_for:
            self._remember(job_id)
        lately = self._lately[request_type]
        outlived = bisect_right(lately.sorted_ms, age_ms)
        if outlived >= len(lately.ages_ms):
            return unlearned_retry_after_ms(age_ms)
        longest = FIRST_PAUSE_MS + age_ms // AGE_PER_PAUSE if age_ms > 0 else FIRST_PAUSE_MS
        return min(lately.ages_ms[outlived] - age_ms, longest)

    def first_seen_ended(self, job_id: str) -> bool:
        """Whether a job that has ended was asked for before that; it is so once."""
        if job_id not in self._asked_for and job_id not in self._asked_for_before:
            return False
        self._asked_for.discard(job_id)
        self._asked_for_before.discard(job_id)
        return True

    def learn(self, request_type: RequestType, duration_ms: int) -> None:
        """A job has ended so long after it was created."""
        self._lately[request_type].add(duration_ms)

    def _remember(self, job_id: str) -> None:
        if len(self._asked_for) >= MAX_ASKED_FOR:
            self._asked_for_before, self._asked_for = self._asked_for, set()
        self._asked_for.add(job_id)
