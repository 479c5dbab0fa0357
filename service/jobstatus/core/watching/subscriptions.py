"""Subscriptions to jobs: a few callbacks for each job, called when the job changes.

The subscribers are those that act for others: the reads that all waiters of a job share, and the feeds of edges.

Changes made by this process wake the subscribers at once. For changes made elsewhere the store is asked, several times
a second and about all jobs at a time, which of them are no longer at the version last seen.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from jobstatus.core.errors import Overloaded, ShuttingDown
from jobstatus.core.watching.fan_out import FanOut, Wake

UNSEEN: Final = -1
"""The version of a job not read since its subscribers were last woken: any version in the store is a change."""


class ConcurrencyLimit:
    """Bounds how many hold a place at a time: `limit` in all, `limit_each` of each owner."""

    def __init__(self, limit: int, limit_each: int | None = None) -> None:
        self.count = 0
        self._limit = limit
        self._limit_each = limit if limit_each is None else limit_each
        self._of_each: Counter[str | None] = Counter()

    @contextmanager
    def acquire(self, owner: str | None = None) -> Iterator[None]:
        """Hold a place while the block lasts. Raises Overloaded when all, or all of this owner, are taken."""
        self.take(owner)
        try:
            yield
        finally:
            self.give_back(owner)

    def take(self, owner: str | None = None) -> None:
        """Take a place until `give_back`. Raises Overloaded when all, or all of this owner, are taken."""
        if self.count >= self._limit or self._of_each[owner] >= self._limit_each:
            raise Overloaded
        self.count += 1
        self._of_each[owner] += 1

    def give_back(self, owner: str | None = None) -> None:
        """Undo `take`."""
        self.count -= 1
        self._of_each[owner] -= 1
        if not self._of_each[owner]:
            del self._of_each[owner]


class JobSubscriptions:
    """The subscriptions of one process."""

    def __init__(
        self,
        on_seen: Callable[[str, int], None] = lambda job_id, version: None,  # noqa: ARG005
        on_left: Callable[[str], None] = lambda job_id: None,  # noqa: ARG005
        fan_out: FanOut | None = None,
    ) -> None:
        """`on_seen` is called with each new version that is read, `on_left` with each job whose last subscriber left.

        `fan_out` is how subscribers wake those for whom they act.
        """
        self._wakes: dict[str, tuple[Wake, ...]] = {}
        """The subscribers of each job; tuples, because there are few of a job and many jobs."""
        self._versions: dict[str, int] = {}
        """The version of each of these jobs for which all were woken. A dict of its own, because it is copied often."""
        self._on_seen = on_seen
        self._on_left = on_left
        self.fan_out: Final = fan_out or FanOut()
        self.is_closed = False
        """Whether the service stops."""
        self.on_close: set[Wake] = set()
        """Called when the service stops."""

    def add(self, job_id: str, wake: Wake) -> None:
        """Call `wake` whenever the job has changed."""
        self._wakes[job_id] = (*self._wakes.get(job_id, ()), wake)
        self._versions.setdefault(job_id, UNSEEN)

    def remove(self, job_id: str, wake: Wake) -> None:
        """Undo `add`."""
        left = tuple(other for other in self._wakes[job_id] if other != wake)
        if left:
            self._wakes[job_id] = left
        else:
            del self._wakes[job_id], self._versions[job_id]
            self._on_left(job_id)

    def wake(self, job_ids: Iterable[str]) -> None:
        """Wake the subscribers of these jobs, which this process has just changed."""
        for job_id in job_ids:
            if job_id in self._wakes:
                self._wake(job_id, UNSEEN)

    def seen(self, job_id: str, version: int, by: Wake | None = None) -> bool:
        """Record that this version was read. Return whether another one was last seen: then all subscribers are woken.

        `by` is the subscriber that has read it: it is not woken.
        """
        before = self._versions.get(job_id)
        if before is None or before == version:
            return False
        if before == UNSEEN:
            self._versions[job_id] = version
        else:
            self._wake(job_id, version, by)
        self._on_seen(job_id, version)
        return before != UNSEEN

    def versions(self) -> dict[str, int]:
        """Return the version last seen of each job that has subscribers."""
        return self._versions.copy()

    def found(self, versions: Mapping[str, int]) -> None:
        """Wake the subscribers of these jobs, which the store has at these versions, other than those last seen."""
        for job_id, version in versions.items():
            if self._versions.get(job_id, version) != version:
                self._wake(job_id, version)

    def _wake(self, job_id: str, version: int, but: Wake | None = None) -> None:
        self._versions[job_id] = version  # before the calls, during which the last subscriber may leave
        for wake in self._wakes[job_id]:
            if wake != but:
                wake()

    def close(self) -> None:
        """Report the stop to `on_close`; `check_open` raises from now on."""
        self.is_closed = True
        for wake in tuple(self.on_close):
            wake()

    def check_open(self) -> None:
        """Raise ShuttingDown once the service stops."""
        if self.is_closed:
            raise ShuttingDown
