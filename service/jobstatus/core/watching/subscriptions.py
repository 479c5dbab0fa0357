"""Who waits for which job: one registration for each waiter, no task, woken when the job changes.

Changes that this process makes are told at once. For those made elsewhere the store is asked, several times a second
and for all jobs at a time, which of them are no longer at the version that was last seen.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from jobstatus.core.errors import Overloaded, ShuttingDown

Wake = Callable[[], None]
UNSEEN: Final = -1
"""The version of a job that nobody has read since its waiters were last woken: whatever the store says is news."""


@dataclass(slots=True)
class _Watched:
    """The waiters of one job, and the version that all of them have been woken for."""

    wakes: set[Wake] = field(default_factory=set)
    version: int = UNSEEN

    def wake(self) -> None:
        for wake in self.wakes:
            wake()


class ConcurrencyLimit:
    """How many may wait at a time, in all and for each who asks."""

    def __init__(self, limit: int, limit_each: int | None = None) -> None:
        self.count = 0
        self._limit = limit
        self._limit_each = limit if limit_each is None else limit_each
        self._of_each: Counter[str | None] = Counter()

    @contextmanager
    def acquire(self, owner: str | None = None) -> Iterator[None]:
        """A place, while the block lasts. Raises Overloaded when there is none, or the owner has too many already."""
        if self.count >= self._limit or self._of_each[owner] >= self._limit_each:
            raise Overloaded
        self.count += 1
        self._of_each[owner] += 1
        try:
            yield
        finally:
            self.count -= 1
            self._of_each[owner] -= 1
            if not self._of_each[owner]:
                del self._of_each[owner]


class JobSubscriptions:
    """The waiters of one process."""

    def __init__(
        self,
        on_seen: Callable[[str, int], None] = lambda job_id, version: None,  # noqa: ARG005
        on_left: Callable[[str], None] = lambda job_id: None,  # noqa: ARG005
    ) -> None:
        """`on_seen` is told of each new version that is read, `on_left` of each job that nobody waits for any more."""
        self._watched: dict[str, _Watched] = {}
        self._on_seen = on_seen
        self._on_left = on_left
        self.is_closed = False
        """Whether the service stops."""
        self.on_close: set[Wake] = set()
        """Who wants to be told when it does, whatever they wait for."""

    @contextmanager
    def waiting_for(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever the job has changed, and when the service stops; clear it before you look.

        Raises ShuttingDown when the service stops already.
        """
        self.check_open()
        event = asyncio.Event()
        self.add(job_id, event.set)
        try:
            yield event
        finally:
            self.remove(job_id, event.set)

    def add(self, job_id: str, wake: Wake) -> None:
        """Call `wake` whenever the job has changed, and when the service stops."""
        self._watched.setdefault(job_id, _Watched()).wakes.add(wake)

    def remove(self, job_id: str, wake: Wake) -> None:
        """Call it no more."""
        watched = self._watched[job_id]
        watched.wakes.discard(wake)
        if not watched.wakes:
            del self._watched[job_id]
            self._on_left(job_id)

    def wake_all(self) -> None:
        """Tell everybody to look again: what they may see has changed."""
        for watched in self._watched.values():
            watched.wake()

    def wake(self, job_ids: Iterable[str]) -> None:
        """Tell those who wait for these jobs, which this process has just changed, to look again."""
        for job_id in job_ids:
            if watched := self._watched.get(job_id):
                watched.version = UNSEEN
                watched.wake()

    def seen(self, job_id: str, version: int) -> None:
        """A waiter has read this version. Where others wait who have read another one, all look again."""
        if (watched := self._watched.get(job_id)) and watched.version != version:
            if watched.version != UNSEEN:
                watched.wake()
            watched.version = version
            self._on_seen(job_id, version)

    def versions(self) -> dict[str, int]:
        """The jobs that are waited for, and the version last seen of each."""
        return {job_id: watched.version for job_id, watched in self._watched.items()}

    def found(self, versions: Mapping[str, int]) -> None:
        """These jobs are at these versions now, others than `versions` said: their waiters look again."""
        for job_id, version in versions.items():
            if (watched := self._watched.get(job_id)) and watched.version != version:
                watched.version = version
                watched.wake()

    def close(self) -> None:
        """Wake all for the last time; check_open raises for them from now on."""
        self.is_closed = True
        self.wake_all()
        for tell in self.on_close:
            tell()

    def check_open(self) -> None:
        """Raise ShuttingDown once the service stops."""
        if self.is_closed:
            raise ShuttingDown
