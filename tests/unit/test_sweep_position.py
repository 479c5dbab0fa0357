"""Where sweeps begin: to the right of what they have seen, and never to the right of a job that is still there."""

import pytest
from jobstatus.stores.postgresql.sweep_position import FULL_SCAN_MS, LEFT_END, OVERLAP_MS, SweepPosition

NOW = 1_000_000


@pytest.fixture
def position() -> SweepPosition:
    """One whose first scan found nothing."""
    one = SweepPosition()
    assert one.begin(NOW) == LEFT_END
    one.end(None)
    return one


def test_a_scan_begins_where_the_last_one_ended(position: SweepPosition) -> None:
    """A little before, because a commit may be under way."""
    assert position.begin(NOW + 1000) == NOW - OVERLAP_MS
    position.end(None)
    assert position.begin(NOW + 2000) == NOW + 1000 - OVERLAP_MS


def test_what_a_scan_may_have_left_is_scanned_again(position: SweepPosition) -> None:
    position.begin(NOW + 1000)
    position.end(NOW - 7)
    assert position.begin(NOW + 2000) == NOW - 7


def test_a_scan_that_failed_moves_nothing(position: SweepPosition) -> None:
    assert position.begin(NOW + 1000) == position.begin(NOW + 2000)


@pytest.mark.parametrize("times", [[None, NOW - 9000], [NOW, NOW - 9000]])
def test_a_job_added_to_the_left_is_not_passed_over(position: SweepPosition, times: list[int | None]) -> None:
    """Before a scan and during one."""
    position.add(times)
    assert position.begin(NOW + 1000) == NOW - 9000
    position.add(times)
    position.end(None)
    assert position.begin(NOW + 2000) == NOW - 9000
    position.end(None)
    assert position.begin(NOW + 3000) > NOW - 9000


def test_a_full_scan_comes_again_and_after_the_time_went_back(position: SweepPosition) -> None:
    assert position.begin(NOW + FULL_SCAN_MS - 1) > LEFT_END
    assert position.begin(NOW + FULL_SCAN_MS) == LEFT_END
    assert position.begin(NOW + FULL_SCAN_MS + 1) > LEFT_END
    assert position.begin(NOW) == LEFT_END
    assert position.begin(NOW + 1) == NOW - OVERLAP_MS


def test_a_full_scan_that_fails_does_not_keep_sweeps_from_going_on() -> None:
    """What ends from now on is found, though there is too much to the left to be scanned in time."""
    position = SweepPosition()
    assert position.begin(NOW) == LEFT_END
    assert position.begin(NOW + 1000) == NOW - OVERLAP_MS
