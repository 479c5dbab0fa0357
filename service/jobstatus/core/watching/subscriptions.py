"""Subscriptions to jobs: a few callbacks for each job, called when the job changes.

The subscribers are those that act for others: the reads that all waiters of a job share, and the feeds of edges.

Changes made by this process wake the subscribers at once. For changes made elsewhere the store is asked, several times
a second and about all jobs at a time, which of them are no longer at the version last seen.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from jobstatus.core.errors import Overloaded, ShuttingDown
from jobstatus.core.watching.fan_out import FanOut, Wake

UNSEEN: Final = -1
"""The version of a job not read since its subscribers were last woken: any version in the store is a change."""


@dataclass(slots=True)
class _Watched:
    """The subscribers of one job, and the version for which all of them were woken."""

    wakes: tuple[Wake, ...] = ()
    """A tuple, because there are few of a job and many jobs."""
    version: int = UNSEEN

    def wake(self, but: Wake | None = None) -> None:
        for wake in self.wakes:
            if wake != but:
                wake()


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
        self._watched: dict[str, _Watched] = {}
        self._on_seen = on_seen
        self._on_left = on_left
        self.fan_out: Final = fan_out or FanOut()
        self.is_closed = False
        """Whether the service stops."""
        self.on_close: set[Wake] = set()
        """Called when the service stops."""

    def add(self, job_id: str, wake: Wake) -> None:
        """Call `wake` whenever the job has changed."""
        watched = self._watched.get(job_id)
        if watched is None:
            watched = self._watched[job_id] = _Watched()
        watched.wakes += (wake,)

    def remove(self, job_id: str, wake: Wake) -> None:
        """Undo `add`."""
        watched = self._watched[job_id]
        watched.wakes = tuple(other for other in watched.wakes if other != wake)
        if not watched.wakes:
            del self._watched[job_id]
            self._on_left(job_id)

    def wake(self, job_ids: Iterable[str]) -> None:
        """Wake the subscribers of these jobs, which this process has just changed."""
        for job_id in job_ids:
            if watched := self._watched.get(job_id):
                watched.version = UNSEEN
                watched.wake()

    def seen(self, job_id: str, version: int, by: Wake | None = None) -> bool:
        """Record that this version was read. Return whether another one was last seen: then all subscribers are woken.

        `by` is the subscriber that has read it: it is not woken.
        """
        watched = self._watched.get(job_id)
        if watched is None or watched.version == version:
            return False
        is_other = watched.version != UNSEEN
        if is_other:
            watched.wake(by)
        watched.version = version
        self._on_seen(job_id, version)
        return is_other

    def versions(self) -> dict[str, int]:
        """The version last seen of each job that has subscribers."""
        return {job_id: watched.version for job_id, watched in self._watched.items()}

    def found(self, versions: Mapping[str, int]) -> None:
        """Wake the subscribers of these jobs, which the store has at these versions, other than those last seen."""
        for job_id, version in versions.items():
            if (watched := self._watched.get(job_id)) and watched.version != version:
                watched.version = version
                watched.wake()

    def close(self) -> None:
        """Report the stop to `on_close`; `check_open` raises from now on."""
        self.is_closed = True
        for wake in tuple(self.on_close):
            wake()

    def check_open(self) -> None:
        """Raise ShuttingDown once the service stops."""
        if self.is_closed:
            raise ShuttingDown
