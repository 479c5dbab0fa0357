"""Which subscribers are woken when."""

from contextlib import ExitStack
from functools import partial

import pytest
from jobstatus.core.errors import Overloaded, ShuttingDown
from jobstatus.core.watching.subscriptions import UNSEEN, ConcurrencyLimit, JobSubscriptions


class Woken:
    """Subscribers, and which of them were woken since that was last asked."""

    def __init__(self, subscriptions: JobSubscriptions, **job_ids: str) -> None:
        """Each has a name and a job."""
        self._names: list[str] = []
        for name, job_id in job_ids.items():
            subscriptions.add(job_id, partial(self._names.append, name))

    def since(self) -> list[str]:
        names, self._names[:] = sorted(self._names), []
        return names


def test_a_subscriber_is_woken_by_a_change_that_is_found_and_only_once() -> None:
    """A newer version wakes the subscribers of the job and no others; the same one again wakes none."""
    subscriptions = JobSubscriptions()
    woken = Woken(subscriptions, mine="a", other="b")
    subscriptions.seen("a", 1)
    subscriptions.seen("b", 1)
    assert subscriptions.versions() == {"a": 1, "b": 1}
    subscriptions.found({"a": 2, "nobody waits for this": 1})
    assert woken.since() == ["mine"]
    subscriptions.found({"a": 2})
    assert woken.since() == []


def test_whoever_read_an_older_version_is_woken_when_another_reads_a_newer_one() -> None:
    """Two that follow one job: what one has seen the other is not left without."""
    subscriptions = JobSubscriptions()
    woken = Woken(subscriptions, early="a", late="a")
    subscriptions.seen("a", 1)
    assert woken.since() == []
    subscriptions.seen("a", 2)
    assert woken.since() == ["early", "late"]
    assert subscriptions.versions() == {"a": 2}


def test_a_subscriber_is_not_woken_by_what_it_has_read_itself() -> None:
    """The others are, because they may know an older version."""
    subscriptions = JobSubscriptions()
    woken = Woken(subscriptions, other="a")
    mine: list[str] = []
    wake = partial(mine.append, "mine")
    subscriptions.add("a", wake)
    for version in (1, 2):
        subscriptions.seen("a", version, wake)
    assert (woken.since(), mine) == (["other"], [])


def test_a_change_of_this_process_wakes_once() -> None:
    """Subscribers that are woken read the change, and are not woken again for having read it."""
    subscriptions = JobSubscriptions()
    woken = Woken(subscriptions, mine="a")
    subscriptions.seen("a", 1)
    subscriptions.wake(["a", "nobody waits for this"])
    assert woken.since() == ["mine"]
    subscriptions.seen("a", 2)
    assert woken.since() == []


def test_only_news_of_what_was_read_is_passed_on() -> None:
    """A version is reported once, however often it is read, and once more after a wake."""
    seen: list[tuple[str, int]] = []
    left: list[str] = []
    subscriptions = JobSubscriptions(lambda job_id, version: seen.append((job_id, version)), left.append)
    wakes = [lambda: None, lambda: None]
    for wake in wakes:
        subscriptions.add("a", wake)
    for version in (1, 1, 2):
        subscriptions.seen("a", version)
    subscriptions.wake(["a"])
    subscriptions.seen("a", 2)
    subscriptions.seen("nobody waits for this", 1)
    subscriptions.remove("a", wakes[0])
    assert left == []
    subscriptions.remove("a", wakes[1])
    assert (seen, left, subscriptions.versions()) == ([("a", 1), ("a", 2), ("a", 2)], ["a"], {})


def test_a_job_that_was_not_read_yet_is_at_no_version() -> None:
    """Until it is read for the first time, whatever the store says is news."""
    subscriptions = JobSubscriptions()
    woken = Woken(subscriptions, mine="a")
    assert subscriptions.versions() == {"a": UNSEEN}
    subscriptions.found({"a": 1})
    assert woken.since() == ["mine"]


def test_a_subscriber_may_leave_when_it_is_woken() -> None:
    """The others are woken all the same."""
    subscriptions = JobSubscriptions()
    woken = Woken(subscriptions, before="a")

    def leave() -> None:
        subscriptions.remove("a", leave)

    subscriptions.add("a", leave)
    woken_too = Woken(subscriptions, after="a")
    subscriptions.wake(["a"])
    assert (woken.since(), woken_too.since()) == (["before"], ["after"])


def test_places_are_bounded_and_freed() -> None:
    """One more than the limit is refused, in all and of each; who leaves makes room."""
    places = ConcurrencyLimit(3, 2)
    with ExitStack() as stack:
        stack.enter_context(places.acquire("a"))
        stack.enter_context(places.acquire("a"))
        with pytest.raises(Overloaded), places.acquire("a"):
            pass
        stack.enter_context(places.acquire("b"))
        with pytest.raises(Overloaded), places.acquire("c"):
            pass
        assert places.count == 3
    assert places.count == 0
    with places.acquire("a"), places.acquire("c"):
        assert places.count == 2


def test_a_stop_is_reported_and_admits_no_more() -> None:
    """What was registered for it is called once, and no new subscriber is to begin."""
    subscriptions, stops = JobSubscriptions(), list[str]()
    subscriptions.check_open()
    subscriptions.on_close.add(partial(stops.append, "stop"))
    subscriptions.close()
    assert stops == ["stop"]
    with pytest.raises(ShuttingDown):
        subscriptions.check_open()
