"""Who is woken when, of those who wait for a job."""

from contextlib import ExitStack

import pytest
from jobstatus.core.errors import Overloaded, ShuttingDown
from jobstatus.core.watching.subscriptions import UNSEEN, ConcurrencyLimit, JobSubscriptions


def test_a_waiter_is_woken_by_a_change_that_is_found_and_only_once() -> None:
    """A newer version wakes the waiters of the job and no others; the same one again wakes none."""
    subscriptions = JobSubscriptions()
    with subscriptions.waiting_for("a") as mine, subscriptions.waiting_for("b") as other:
        subscriptions.seen("a", 1)
        subscriptions.seen("b", 1)
        assert subscriptions.versions() == {"a": 1, "b": 1}
        subscriptions.found({"a": 2})
        assert (mine.is_set(), other.is_set()) == (True, False)
        mine.clear()
        subscriptions.found({"a": 2})
        assert not mine.is_set()


def test_a_waiter_who_read_an_older_version_is_woken_when_another_reads_a_newer_one() -> None:
    """Two who wait for one job: what one has seen the other is not left without."""
    subscriptions = JobSubscriptions()
    with subscriptions.waiting_for("a") as early, subscriptions.waiting_for("a"):
        subscriptions.seen("a", 1)
        subscriptions.seen("a", 2)
        assert early.is_set()
        assert subscriptions.versions() == {"a": 2}


def test_a_change_of_this_process_wakes_once() -> None:
    """Waiters that are woken read the change, and are not woken again for having read it."""
    subscriptions = JobSubscriptions()
    with subscriptions.waiting_for("a") as event:
        subscriptions.seen("a", 1)
        subscriptions.wake(["a", "nobody waits for this"])
        assert event.is_set()
        event.clear()
        subscriptions.seen("a", 2)
        assert not event.is_set()


def test_only_news_of_what_was_read_is_passed_on() -> None:
    """A version is reported once, however often it is read, and once more after a wake."""
    seen: list[tuple[str, int]] = []
    left: list[str] = []
    subscriptions = JobSubscriptions(lambda job_id, version: seen.append((job_id, version)), left.append)
    with subscriptions.waiting_for("a"), subscriptions.waiting_for("a"):
        for version in (1, 1, 2):
            subscriptions.seen("a", version)
        subscriptions.wake(["a"])
        subscriptions.seen("a", 2)
        subscriptions.seen("nobody waits for this", 1)
        assert left == []
    assert (seen, left) == ([("a", 1), ("a", 2), ("a", 2)], ["a"])


def test_a_job_that_was_not_read_yet_is_at_no_version() -> None:
    """Until the first waiter has read, whatever the store says is news."""
    subscriptions = JobSubscriptions()
    with subscriptions.waiting_for("a") as event:
        assert subscriptions.versions() == {"a": UNSEEN}
        subscriptions.found({"a": 1})
        assert event.is_set()


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


def test_nothing_is_left_behind() -> None:
    """A job without waiters is not compared."""
    subscriptions = JobSubscriptions()
    with subscriptions.waiting_for("a"), subscriptions.waiting_for("a"):
        assert subscriptions.versions() == {"a": UNSEEN}
    assert subscriptions.versions() == {}


def test_all_can_be_told_to_look_again() -> None:
    """All waiters are woken, whatever they wait for."""
    subscriptions = JobSubscriptions()
    with subscriptions.waiting_for("a") as one, subscriptions.waiting_for("b") as two:
        subscriptions.wake_all()
        assert (one.is_set(), two.is_set()) == (True, True)


def test_all_are_woken_when_the_service_stops() -> None:
    """All waiters are woken, and no new one is admitted."""
    subscriptions = JobSubscriptions()
    with subscriptions.waiting_for("a") as event:
        subscriptions.close()
        assert event.is_set()
    with pytest.raises(ShuttingDown), subscriptions.waiting_for("a"):
        pass
