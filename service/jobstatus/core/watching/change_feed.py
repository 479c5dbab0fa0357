"""One listener for the changes of many jobs: what an edge needs, whose clients wait there.

The listener receives the ids of the jobs to read again. Spurious notifications cost one read and are allowed; a missed
one would leave a client waiting.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Self

from jobstatus.core.errors import Overloaded
from jobstatus.core.job import Job
from jobstatus.core.store import StoreError
from jobstatus.core.watching.fan_out import Wake
from jobstatus.core.watching.subscriptions import UNSEEN, JobSubscriptions


class ChangeFeed:
    """Follows at most `max_followed` jobs while its context is entered."""

    def __init__(
        self,
        subscriptions: JobSubscriptions,
        read: Callable[[Sequence[str]], Awaitable[list[Job | StoreError | None]]],
        max_followed: int = 100_000,
    ) -> None:
        """`read` finds jobs, as JobTracker.get_many does."""
        self._max_followed = max_followed
        self._subscriptions = subscriptions
        self._read = read
        self._wakes: dict[str, Wake] = {}
        self._changed: set[str] = set()
        self._has_changed = asyncio.Event()
        self._is_ended = False

    def __enter__(self) -> Self:
        self._subscriptions.check_open()
        self._subscriptions.on_close.add(self._has_changed.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._subscriptions.on_close.discard(self._has_changed.set)
        self.forget(list(self._wakes))

    async def follow(self, versions: Mapping[str, int]) -> None:
        """Report these jobs once they are at other versions than these, or if they are already.

        Raises Overloaded, and follows none of them, when there would be more than `max_followed`.
        """
        new = [job_id for job_id in versions if job_id not in self._wakes]
        if len(self._wakes) + len(new) > self._max_followed:
            raise Overloaded
        for job_id in new:
            wake = self._wakes[job_id] = partial(self._report, job_id)
            self._subscriptions.add(job_id, wake)
        for job_id in versions.keys() - new:
            self._subscriptions.seen(job_id, versions[job_id])
        if new:  # they may have changed between the client's read and now
            await self._compare({job_id: versions[job_id] for job_id in new})

    def forget(self, job_ids: Collection[str]) -> None:
        """Stop following these jobs; ids that are not followed are ignored."""
        for job_id in job_ids:
            if wake := self._wakes.pop(job_id, None):
                self._subscriptions.remove(job_id, wake)
                self._changed.discard(job_id)

    async def changed(self) -> list[str]:
        """Return the jobs to read again, once there are any; none after `end`. Raises ShuttingDown on a stop."""
        while not self._changed and not self._is_ended and not self._subscriptions.is_closed:
            self._has_changed.clear()
            await self._has_changed.wait()
        self._subscriptions.check_open()
        job_ids, self._changed = list(self._changed), set()
        return [] if self._is_ended else job_ids

    def end(self) -> None:
        """Have `changed` return nothing from now on."""
        self._is_ended = True
        self._has_changed.set()

    async def _compare(self, versions: Mapping[str, int]) -> None:
        for job_id, job in zip(versions, await self._read(list(versions)), strict=True):
            version = UNSEEN if isinstance(job, StoreError) else 0 if job is None else job.version
            if version != versions[job_id] or version == UNSEEN:
                self._report(job_id)
            if version != UNSEEN:
                self._subscriptions.seen(job_id, version)

    def _report(self, job_id: str) -> None:
        self._changed.add(job_id)
        self._has_changed.set()
