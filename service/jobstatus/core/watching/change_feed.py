"""One listener for the changes of many jobs: what an edge of its own needs, whose clients wait there.

It is told which jobs to read again. To be told once too often costs a read, so nothing is done to prevent it; to be
told too seldom would leave somebody waiting.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final, Self

from jobstatus.core.errors import Overloaded
from jobstatus.core.job import Job
from jobstatus.core.store import StoreError
from jobstatus.core.watching.subscriptions import UNSEEN, JobSubscriptions, Wake

MAX_FOLLOWED: Final = 100_000


class ChangeFeed:
    """Follows jobs while its context is entered."""

    def __init__(
        self, subscriptions: JobSubscriptions, read: Callable[[Sequence[str]], Awaitable[list[Job | StoreError | None]]]
    ) -> None:
        """`read` finds jobs, as JobTracker.get_many does."""
        self._subscriptions = subscriptions
        self._read = read
        self._wakes: dict[str, Wake] = {}
        self._news: set[str] = set()
        self._has_news = asyncio.Event()
        self._is_over = False

    def __enter__(self) -> Self:
        self._subscriptions.check_open()
        self._subscriptions.on_close.add(self._has_news.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._subscriptions.on_close.discard(self._has_news.set)
        self.forget(list(self._wakes))

    async def follow(self, versions: Mapping[str, int]) -> None:
        """Tell of these jobs once they are, or if they are already, at other versions.

        Raises Overloaded when they would be more than MAX_FOLLOWED.
        """
        new = [job_id for job_id in versions if job_id not in self._wakes]
        if len(self._wakes) + len(new) > MAX_FOLLOWED:
            raise Overloaded
        for job_id in new:
            wake = self._wakes[job_id] = partial(self._tell, job_id)
            self._subscriptions.add(job_id, wake)
        for job_id in versions.keys() - new:
            self._subscriptions.seen(job_id, versions[job_id])
        if new:  # they may have changed between the client's read and now
            await self._compare({job_id: versions[job_id] for job_id in new})

    def forget(self, job_ids: Collection[str]) -> None:
        """Follow these no more; those that are not followed are passed over."""
        for job_id in job_ids:
            if wake := self._wakes.pop(job_id, None):
                self._subscriptions.remove(job_id, wake)
                self._news.discard(job_id)

    async def changed(self) -> list[str]:
        """The jobs to read again, once there are any; none when it is over. Raises ShuttingDown on a stop."""
        while not self._news and not self._is_over and not self._subscriptions.is_closed:
            self._has_news.clear()
            await self._has_news.wait()
        self._subscriptions.check_open()
        job_ids, self._news = list(self._news), set()
        return [] if self._is_over else job_ids

    def end(self) -> None:
        """No more is to be told."""
        self._is_over = True
        self._has_news.set()

    async def _compare(self, versions: Mapping[str, int]) -> None:
        for job_id, job in zip(versions, await self._read(list(versions)), strict=True):
            version = UNSEEN if isinstance(job, StoreError) else 0 if job is None else job.version
            if version != versions[job_id] or version == UNSEEN:
                self._tell(job_id)
            if version != UNSEEN:
                self._subscriptions.seen(job_id, version)

    def _tell(self, job_id: str) -> None:
        self._news.add(job_id)
        self._has_news.set()
