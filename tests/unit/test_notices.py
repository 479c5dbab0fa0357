"""What processes tell each other of changes, and what a process makes of silence."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from harness.logged import events_logged
from harness.waiting import until
from jobstatus.core.errors import StoreUnavailable
from jobstatus.core.watching.notices import ChangeNotices, NoticeLimits
from jobstatus.core.watching.subscriptions import JobSubscriptions

SOON = NoticeLimits(sign_seconds=0.01, retry_seconds=0.01, silence_seconds=60, pause_seconds=0)
QUICK = NoticeLimits(sign_seconds=0.01, retry_seconds=0.01, silence_seconds=0.1, pause_seconds=0)


class Air:
    """What carries texts among processes, as long as it is not silent."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[str], None]] = []
        self.published: list[str] = []
        self.is_silent = False
        self.failure: StoreUnavailable | None = None

    async def publish(self, text: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.published.append(text)
        if not self.is_silent:
            for heard in self.listeners:
                heard(text)

    async def hear(self, heard: Callable[[str], None]) -> str:
        if self.failure is not None:
            raise self.failure
        self.listeners.append(heard)
        try:
            await asyncio.Event().wait()
        finally:
            self.listeners.remove(heard)
        return ""

    def named(self) -> list[set[str]]:
        """The ids of each text that has some."""
        return [set(ids.split(",")) for _, _, ids in (text.partition(" ") for text in self.published) if ids]


@asynccontextmanager
async def process(air: Air, limits: NoticeLimits = SOON) -> AsyncIterator[tuple[ChangeNotices, JobSubscriptions]]:
    subscriptions = JobSubscriptions()
    notices = ChangeNotices(air, subscriptions, limits)
    running = asyncio.create_task(notices.run())
    try:
        yield notices, subscriptions
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def meet(air: Air, *all_notices: ChangeNotices) -> None:
    """Return when each process hears the others."""
    await until(lambda: all(each.arrive for each in all_notices))
    before = len(air.published)
    await until(lambda: len({text.partition(" ")[0] for text in air.published[before:]}) == len(all_notices))


async def test_a_change_wakes_the_subscribers_of_the_other_process() -> None:
    """Those of the job that is named, once, and not the own ones."""
    air, woken = Air(), list[str]()
    async with process(air) as (one, own), process(air) as (other, others):
        await meet(air, one, other)
        own.add("a", lambda: woken.append("own"))
        others.add("a", lambda: woken.append("a"))
        others.add("b", lambda: woken.append("b"))
        one.announce({"a", "unknown"})
        await until(lambda: bool(woken))
        assert woken == ["a"]


async def test_alone_nothing_is_announced() -> None:
    """A process that hears itself and no other has nobody to tell; one that hears nothing tells all the same."""
    air = Air()
    async with process(air) as (alone, _):
        await until(lambda: alone.arrive)
        alone.announce({"a"})
        await settle()
        assert air.named() == []
    air.is_silent = True
    async with process(air) as (deaf, _):
        deaf.announce({"a"})
        await until(lambda: air.named() == [{"a"}])


async def test_what_changes_meanwhile_goes_together() -> None:
    """A notice names several jobs, in texts of a bounded length; beyond a bound the others are only told to ask."""
    air = Air()
    limits = NoticeLimits(sign_seconds=0.01, silence_seconds=60, ids_in_one=2, max_ids=3, pause_seconds=0)
    async with process(air, limits) as (one, _), process(air, SOON) as (other, _):
        await meet(air, one, other)
        for job_id in ("a", "b", "c"):
            one.announce({job_id})
        await until(lambda: len(air.named()) == 2)
        assert [len(ids) for ids in air.named()] == [2, 1]
        assert set.union(*air.named()) == {"a", "b", "c"}
        air.published.clear()
        while other.should_ask():
            pass
        one.announce({"a", "b", "c", "d"})
        await until(lambda: air.named() == [{"*"}])
        assert other.should_ask()


class JobId(str):
    """An id of which one can tell whether it is still kept."""

    __slots__ = ("__weakref__",)


async def test_what_cannot_be_sent_takes_bounded_memory() -> None:
    """Beyond the number that would be named, no ids are kept for the next notice."""
    notices = ChangeNotices(Air(), JobSubscriptions(), NoticeLimits(max_ids=3))
    kept: weakref.WeakSet[JobId] = weakref.WeakSet()
    for number in range(100):  # in one turn of the loop, in which nothing is sent
        job_id = JobId(number)
        kept.add(job_id)
        notices.announce({job_id})
    assert len(kept) <= 5


async def test_the_store_is_asked_more_seldom_while_notices_arrive() -> None:
    """At each check before, and again once the signs of life stay away."""
    air = Air()
    air.is_silent = True
    async with process(air, QUICK) as (notices, _):
        assert [notices.should_ask() for _ in range(5)] == [True] * 5
        air.is_silent = False
        await until(lambda: notices.arrive)
        asked = [notices.should_ask() for _ in range(28)]
        assert asked[0]  # for what happened before it could be heard
        assert sum(asked[1:]) == 3
        air.is_silent = True
        await until(lambda: not notices.arrive)
        assert [notices.should_ask() for _ in range(5)] == [True] * 5
        air.is_silent = False
        await until(lambda: notices.arrive)


async def test_a_channel_that_fails_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged once, writes go on, and notices arrive when it works again."""
    caplog.set_level("INFO")
    air = Air()
    air.failure = StoreUnavailable()
    async with process(air) as (notices, _):
        notices.announce({"a"})
        await until(lambda: "no_change_notices" in events_logged(caplog))
        await asyncio.sleep(0)
        air.failure = None
        await until(lambda: notices.arrive)
        assert events_logged(caplog).count("no_change_notices") == 1
