"""What the console makes of figures: growth, percentiles, curves and the likely cause of a wait."""

import json
from collections import Counter
from typing import Any

import pytest
from harness.faults import Clock
from jobstatus.console.cause import NOTHING_RUNS, SILENT, likely_cause
from jobstatus.console.history import Curves, Growth, Point, Recent, failures_of, percentiles
from jobstatus.console.limits import ConsoleLimits
from jobstatus.console.messages import Watch
from jobstatus.console.pulse import Pulse
from jobstatus.core.job import RequestType
from jobstatus.core.rules import JobOutcome
from jobstatus.telemetry.job_figures import JobFigures


def test_growth_is_that_of_all_processes_and_never_negative() -> None:
    """What there was at first does not count; a new process counts from nothing, one that is gone no more."""
    growth = Growth()
    assert growth.since_last({"a": {"created": 5}}) == {}
    assert growth.since_last({"a": {"created": 7}, "b": {"created": 3}}) == {"created": 5}
    assert growth.since_last({"b": {"created": 3}}) == {}
    assert growth.since_last({"b": {"created": 2}, "c": {"created": 1}}) == {"created": 1}


def test_recent_growth_is_forgotten() -> None:
    """A total is that of the seconds that it is about, or of as many as there have been."""
    recent = Recent(300)
    recent.add(0, Counter())
    recent.add(10, Counter(created=1))
    assert recent.total(20, 60) == (Counter(created=1), 20)
    recent.add(200, Counter(created=2))
    assert recent.total(200, 60) == (Counter(created=2), 60)
    recent.add(310, Counter())
    assert recent.total(310, 300) == (Counter(created=2), 300)


@pytest.mark.parametrize("seconds", [0.01, 0.3, 4.0, 70.0, 5000.0])
def test_percentiles_are_nearly_exact(seconds: float) -> None:
    """Within a tenth, whatever the scale; a hundredth of the jobs that take ten times as long is the p99."""
    figures = JobFigures()
    for number in range(1000):
        figures.job_started(seconds * 10 if number % 50 == 0 else seconds)
    found = percentiles(figures.counts(), "queued")
    assert found is not None
    assert found.p50 == pytest.approx(seconds, rel=0.1)
    assert found.p99 == pytest.approx(seconds * 10, rel=0.1)
    assert found.jobs == 1000
    assert percentiles(figures.counts(), "run") is None


def test_times_beyond_all_bounds_are_counted() -> None:
    figures = JobFigures()
    figures.job_started(0)
    figures.job_ended(JobOutcome.COMPLETED, 10**9)
    for name in ("queued", "run"):
        assert percentiles(figures.counts(), name) is not None


def test_whatever_did_not_complete_is_a_failure() -> None:
    assert failures_of({"completed": 5, "failed": 2, "worker_lost": 1}) == 3


def test_curves_are_bounded_and_told_from_where_one_was() -> None:
    curves, point = Curves(3), Point(0, 0, 0, 0, 0, 0, None, None, None, None)
    assert curves.since(0) == []
    for at in range(5):
        curves.add(point._replace(at_ms=at))
    assert [each.at_ms for each in curves.since(0)] == [2, 3, 4]
    assert [each.at_ms for each in curves.since(4)] == [4]
    assert curves.since(5) == []


GONE: dict[str, Any] = {
    "pending": 142,
    "oldest_created_ms": 0,
    "heard_ms": 640_000,
    "is_on_time": False,
    "unleased": 0,
}
"""At 1,000,000 ms: a fleet that was heard six minutes ago."""


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({}, NOTHING_RUNS),
        ({"heard_ms": None}, NOTHING_RUNS),
        ({"pending": 0, "oldest_created_ms": None}, None),
        ({"oldest_created_ms": 996_000}, None),
        ({"heard_ms": 991_000}, None),
        ({"is_on_time": True}, None),
        ({"unleased": 3}, SILENT),
        ({"unleased": 3, "heard_ms": 950_000}, None),
        ({"unleased": 3, "oldest_created_ms": 950_000}, None),
    ],
)
def test_the_likely_cause_of_a_wait(changes: dict[str, Any], cause: str | None) -> None:
    """Said only when work waits, nobody has been heard, and no worker with a lease is on time."""
    assert likely_cause(1_000_000, **(GONE | changes)) == cause


async def test_a_count_is_wanted_of_this_machine_when_no_process_has_a_recent_one() -> None:
    """As with replicas, of which another one leads; but only while a page is open."""
    clock, asked = Clock(), list[Watch]()
    count = {"at_ms": 0, "by_state": {"pending": 1}, "oldest_created_ms": None, "leased_until_ms": None}

    async def figures(watch: Watch) -> list[str]:
        asked.append(watch)
        told = {"process": "a", "jobs": {}, "waiters": 0, "count": count, "signs": None, "types": None}
        return [json.dumps(told)]

    pulse = Pulse(figures, clock=lambda: clock.ms, monotonic=clock.time, limits=ConsoleLimits())
    await pulse.refresh()
    pulse.open_pages = 1
    await pulse.refresh()
    count["at_ms"] = clock.ms
    await pulse.refresh()
    await pulse.refresh()
    assert [watch.is_alone for watch in asked] == [False, True, True, False]


async def test_figures_are_collected_less_often_while_no_page_is_open() -> None:
    """But they are, so that the curves are there for who comes; what was not counted is not drawn."""
    clock, figures = Clock(), JobFigures()

    async def ask(_: Watch) -> list[str]:
        told = {"process": "a", "jobs": figures.counts(), "waiters": 0, "count": None, "signs": None, "types": None}
        return [json.dumps(told)]

    pulse = Pulse(ask, clock=lambda: clock.ms, monotonic=clock.time, limits=ConsoleLimits())
    for _ in range(20):
        await pulse.refresh()
        clock.move(seconds=1)
        figures.job_created(RequestType.OCR)
    points = pulse.curves.since(0)
    assert [point.created for point in points] == [0, 1, 1, 1]
    assert {point.pending for point in points} == {None}
