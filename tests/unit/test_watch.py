"""Who is woken when, of those who wait for a job."""

from contextlib import ExitStack

import pytest
from jobstatus.core.errors import Overloaded, ShuttingDown
from jobstatus.core.watching.subscriptions import UNSEEN, Places, Watchers


def test_a_waiter_is_woken_by_a_change_that_is_found_and_only_once() -> None:
    """A newer version wakes those who wait for the job, and nobody else; the same one again wakes nobody."""
    watchers = Watchers()
    with watchers.waiting_for("a") as mine, watchers.waiting_for("b") as other:
        watchers.seen("a", 1)
        watchers.seen("b", 1)
        assert watchers.versions() == {"a": 1, "b": 1}
        watchers.found({"a": 2})
        assert (mine.is_set(), other.is_set()) == (True, False)
        mine.clear()
        watchers.found({"a": 2})
        assert not mine.is_set()


def test_a_waiter_who_read_an_older_version_is_woken_when_another_reads_a_newer_one() -> None:
    """Two who wait for one job: what one has seen the other is not left without."""
    watchers = Watchers()
    with watchers.waiting_for("a") as early, watchers.waiting_for("a"):
        watchers.seen("a", 1)
        watchers.seen("a", 2)
        assert early.is_set()
        assert watchers.versions() == {"a": 2}


def test_a_change_of_this_process_wakes_once() -> None:
    """Those who are told of a change read it, and are not woken again for having read it."""
    watchers = Watchers()
    with watchers.waiting_for("a") as event:
        watchers.seen("a", 1)
        watchers.wake(["a", "nobody waits for this"])
        assert event.is_set()
        event.clear()
        watchers.seen("a", 2)
        assert not event.is_set()


def test_only_news_of_what_was_read_is_passed_on() -> None:
    """A version is told once, however many read it how often; and once more after a change was announced."""
    seen: list[tuple[str, int]] = []
    left: list[str] = []
    watchers = Watchers(lambda job_id, version: seen.append((job_id, version)), left.append)
    with watchers.waiting_for("a"), watchers.waiting_for("a"):
        for version in (1, 1, 2):
            watchers.seen("a", version)
        watchers.wake(["a"])
        watchers.seen("a", 2)
        watchers.seen("nobody waits for this", 1)
        assert left == []
    assert (seen, left) == ([("a", 1), ("a", 2), ("a", 2)], ["a"])


def test_a_job_that_was_not_read_yet_is_at_no_version() -> None:
    """Until the first waiter has read, whatever the store says is news."""
    watchers = Watchers()
    with watchers.waiting_for("a") as event:
        assert watchers.versions() == {"a": UNSEEN}
        watchers.found({"a": 1})
        assert event.is_set()


def test_places_are_bounded_and_freed() -> None:
    """One more than the limit is refused, in all and of each; who leaves makes room."""
    places = Places(3, 2)
    with ExitStack() as stack:
        stack.enter_context(places.taken("a"))
        stack.enter_context(places.taken("a"))
        with pytest.raises(Overloaded), places.taken("a"):
            pass
        stack.enter_context(places.taken("b"))
        with pytest.raises(Overloaded), places.taken("c"):
            pass
        assert places.count == 3
    assert places.count == 0
    with places.taken("a"), places.taken("c"):
        assert places.count == 2


def test_nothing_is_left_behind() -> None:
    """A job that nobody waits for any more is not looked for."""
    watchers = Watchers()
    with watchers.waiting_for("a"), watchers.waiting_for("a"):
        assert watchers.versions() == {"a": UNSEEN}
    assert watchers.versions() == {}


def test_all_can_be_told_to_look_again() -> None:
    """Whoever waits, for whatever, is woken."""
    watchers = Watchers()
    with watchers.waiting_for("a") as one, watchers.waiting_for("b") as two:
        watchers.wake_all()
        assert (one.is_set(), two.is_set()) == (True, True)


def test_all_are_woken_when_the_service_stops() -> None:
    """Whoever waits is woken to be told, and nobody is admitted any more."""
    watchers = Watchers()
    with watchers.waiting_for("a") as event:
        watchers.close()
        assert event.is_set()
    with pytest.raises(ShuttingDown), watchers.waiting_for("a"):
        pass
