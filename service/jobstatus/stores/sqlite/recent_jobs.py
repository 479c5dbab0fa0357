"""Jobs under way as this process has written them last, so that their next write need not read them.

They are what the file holds as long as no other connection has committed since. The header of the wal-index shows that
(see `reader`): a process that finds the header of its own last commit knows that there was no later one. Ended jobs are
not kept: they are seldom written again, and a purge removes them.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from jobstatus.core.job import Job
from jobstatus.core.store import Change

NO_MARK: Final = b""
"""The mark where the wal-index cannot be read."""
_COMMITS: Final = struct.Struct("=8xI36x")  # iChange of the header, which each commit increases by one
_NOTHING: Final[Mapping[str, Job]] = {}


class RecentJobs:
    """At most `max_jobs` jobs. A mark is the header of the wal-index."""

    def __init__(self, max_jobs: int) -> None:
        self._max_jobs = max_jobs
        self._mark = NO_MARK
        self._jobs: dict[str, Job] = {}

    def as_of(self, mark: bytes) -> Mapping[str, Job]:
        """Return the jobs that are as they are here while this is the mark."""
        return self._jobs if mark == self._mark and mark else _NOTHING

    def follow(self, before: bytes, after: bytes) -> None:
        """Keep the jobs over a transaction of this process that changed none of them.

        `before` is the mark while it had the write lock, `after` one that was found when it had ended. Another
        connection's commit shows as another mark before, or as a second commit after.
        """
        if not before or before != self._mark:
            self._jobs.clear()
        is_own = before == after or (before and after and _commits(after) == (_commits(before) + 1) % (1 << 32))
        self._mark = after if is_own else NO_MARK

    def clear(self) -> None:
        """Keep none."""
        self._mark = NO_MARK
        self._jobs.clear()

    def put(self, changes: Sequence[Change]) -> None:
        """Take over the changes that the transaction which was followed last has committed."""
        jobs = self._jobs
        if len(jobs) + len(changes) > self._max_jobs:
            jobs.clear()
        for job_id, _, job, _ in changes[: self._max_jobs]:
            if job is None or job.is_terminal:
                jobs.pop(job_id, None)
            else:
                jobs[job_id] = job


def _commits(mark: bytes) -> int:
    number: int = _COMMITS.unpack(mark)[0]
    return number
