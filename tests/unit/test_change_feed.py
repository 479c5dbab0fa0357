"""One listener for many jobs: what it reports, and that it leaves nothing behind."""

import asyncio
from collections.abc import Sequence

import pytest
from harness.stores import job
from jobstatus.core.errors import Overloaded, ShuttingDown, StoreUnavailable
from jobstatus.core.job import Job
from jobstatus.core.store import StoreError
from jobstatus.core.watching.change_feed import ChangeFeed
from jobstatus.core.watching.subscriptions import UNSEEN, JobSubscriptions


class Jobs:
    """The jobs that there are, by their versions; a version of UNSEEN is one that cannot be read."""

    def __init__(self, **versions: int) -> None:
        self.versions = versions

    async def read(self, job_ids: Sequence[str]) -> list[Job | StoreError | None]:
        return [self._read(self.versions.get(job_id, 0)) for job_id in job_ids]

    def _read(self, version: int) -> Job | StoreError | None:
        if version == UNSEEN:
            return StoreUnavailable()
        return job(version=version) if version else None


async def told(feed: ChangeFeed) -> set[str]:
    """Return what it reports now; nothing when that would have to be awaited."""
    changed = asyncio.ensure_future(feed.changed())
    done, _ = await asyncio.wait((changed,), timeout=0)
    if not done:
        await asyncio.wait((changed,), timeout=0.01)
    if changed.done():
        return set(await changed)
    changed.cancel()
    return set()


@pytest.mark.parametrize(
    ("named", "present", "is_told"),
    [
        (1, 1, False),
        (1, 2, True),
        (0, 0, False),
        (0, 1, True),
        (2, 0, True),
        (UNSEEN, 1, True),
        (1, UNSEEN, True),
        (UNSEEN, UNSEEN, True),
    ],
)
async def test_what_has_changed_before_is_told_at_once(named: int, present: int, is_told: bool) -> None:
    """A job at another version than the client has read, one that is new or gone, and one that cannot be read."""
    subscriptions = JobSubscriptions()
    with ChangeFeed(subscriptions, Jobs(a=present).read) as feed:
        await feed.follow({"a": named})
        assert subscriptions.versions() == {"a": present}
        assert await told(feed) == ({"a"} if is_told else set())
        assert await told(feed) == set()


async def test_changes_are_told_once_until_the_next_one() -> None:
    """Of this process and of others, of the jobs that are followed and of no others."""
    subscriptions = JobSubscriptions()
    with ChangeFeed(subscriptions, Jobs(a=1, b=1).read) as feed:
        await feed.follow({"a": 1, "b": 1})
        subscriptions.wake(["a", "c"])
        assert await told(feed) == {"a"}
        subscriptions.found({"b": 2})
        assert await told(feed) == {"b"}
        subscriptions.found({"b": 2})
        assert await told(feed) == set()


async def test_a_version_that_was_read_since_is_what_the_next_look_compares_with() -> None:
    """Naming a job again says what was read of it, without a read."""
    subscriptions, jobs = JobSubscriptions(), Jobs(a=1)
    with ChangeFeed(subscriptions, jobs.read) as feed:
        await feed.follow({"a": 1})
        subscriptions.wake(["a"])
        assert await told(feed) == {"a"}
        assert subscriptions.versions() == {"a": UNSEEN}
        jobs.versions = {}
        await feed.follow({"a": 2})
        assert subscriptions.versions() == {"a": 2}
        assert await told(feed) == set()


async def test_what_is_forgotten_is_not_told_of() -> None:
    """Nor are their versions compared any more; forgetting what was never followed does nothing."""
    subscriptions = JobSubscriptions()
    with ChangeFeed(subscriptions, Jobs(a=1, b=1).read) as feed:
        await feed.follow({"a": 1, "b": 1})
        subscriptions.wake(["a", "b"])
        feed.forget(["a", "unknown"])
        assert await told(feed) == {"b"}
        assert subscriptions.versions().keys() == {"b"}


async def test_nothing_is_left_behind() -> None:
    """A listener that goes away is not called any more, not even for a stop."""
    subscriptions = JobSubscriptions()
    with ChangeFeed(subscriptions, Jobs(a=1).read) as feed:
        await feed.follow({"a": 1})
        assert len(subscriptions.on_close) == 1
    assert (subscriptions.versions(), subscriptions.on_close) == ({}, set())


async def test_jobs_are_bounded() -> None:
    """One more than `max_followed` is refused; naming one again is not one more, and forgetting makes room."""
    with ChangeFeed(JobSubscriptions(), Jobs().read, max_followed=2) as feed:
        await feed.follow({"a": 0, "b": 0})
        await feed.follow({"a": 0, "b": 0})
        with pytest.raises(Overloaded):
            await feed.follow({"c": 0})
        feed.forget(["a"])
        await feed.follow({"c": 0})


async def test_a_stop_is_told_to_who_follows_nothing_too() -> None:
    """A waiting listener raises ShuttingDown, and a new one cannot begin."""
    subscriptions = JobSubscriptions()
    with ChangeFeed(subscriptions, Jobs().read) as feed:
        changed = asyncio.ensure_future(feed.changed())
        await asyncio.wait((changed,), timeout=0)
        subscriptions.close()
        with pytest.raises(ShuttingDown):
            await changed
    with pytest.raises(ShuttingDown), ChangeFeed(subscriptions, Jobs().read):
        pass


async def test_an_end_is_no_news() -> None:
    """After the end, changes that were not reported yet are not reported either."""
    subscriptions = JobSubscriptions()
    with ChangeFeed(subscriptions, Jobs(a=1).read) as feed:
        await feed.follow({"a": 1})
        subscriptions.wake(["a"])
        feed.end()
        assert await feed.changed() == []
