"""Counts of what happened lately, and the points of the curves, both bounded."""

import math
from collections import Counter, deque
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from jobstatus.telemetry.job_figures import BOUNDS

Counts: TypeAlias = Mapping[str, int]
"""As `JobFigures.counts` has them."""
FINISHED = ("completed",)
"""The outcomes that are no failure."""


class Growth:
    """Finds by how much the counts of all processes together have grown."""

    def __init__(self) -> None:
        self._known: dict[str, Counts] | None = None

    def since_last(self, of_processes: Mapping[str, Counts]) -> Counter[str]:
        """Return the growth since the last call: of a process that was not there then, all that it has.

        What a process counted after the last call and before it died is lost. The first call returns nothing.
        """
        grown: Counter[str] = Counter()
        for process, counts in of_processes.items():
            before = counts if self._known is None else self._known.get(process, {})
            for name, number in counts.items():
                if number > before.get(name, 0):
                    grown[name] += number - before.get(name, 0)
        self._known = dict(of_processes)
        return grown


class Recent:
    """The growth of the last so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._parts: deque[tuple[float, Counter[str]]] = deque()
        self._began: float | None = None

    def add(self, now: float, grown: Counter[str]) -> None:
        """Add what has grown until now, in seconds of a clock that never steps."""
        self._began = now if self._began is None else self._began
        if grown:
            self._parts.append((now, grown))
        while self._parts and self._parts[0][0] <= now - self._seconds:
            self._parts.popleft()

    def total(self, now: float, seconds: float) -> tuple[Counter[str], float]:
        """Return the growth of at most the last so many seconds, and of how many seconds it is."""
        total: Counter[str] = Counter()
        for at, grown in reversed(self._parts):
            if at <= now - seconds:
                break
            total.update(grown)
        return total, min(seconds, now - (now if self._began is None else self._began))


def ended_of(counts: Counts) -> dict[str, int]:
    """Return how many jobs ended, by outcome."""
    return {name.removeprefix("ended."): number for name, number in counts.items() if name.startswith("ended.")}


def failures_of(ended: Mapping[str, int]) -> int:
    """Return how many of these jobs did not complete."""
    return sum(number for outcome, number in ended.items() if outcome not in FINISHED)


class Percentiles(NamedTuple):
    """In seconds, of so many jobs."""

    p50: float
    p99: float
    jobs: int


def percentiles(counts: Counts, name: str) -> Percentiles | None:
    """Return the percentiles of `queued` or `run`; None without jobs. They are off by a tenth at most."""
    places = sorted(
        (int(key.removeprefix(f"{name}.")), number) for key, number in counts.items() if key.startswith(f"{name}.")
    )
    jobs = sum(number for _, number in places)
    if not jobs:
        return None
    return Percentiles(_at(places, jobs * 0.5), _at(places, jobs * 0.99), jobs)


def _at(places: list[tuple[int, int]], rank: float) -> float:
    """Return the middle of the interval in which the job of this rank is."""
    seen = 0
    for place, number in places:
        seen += number
        if seen >= rank:
            return BOUNDS[min(place, len(BOUNDS) - 1)] / math.sqrt(BOUNDS[1] / BOUNDS[0])
    return math.nan  # pragma: no cover  # the last place has every rank


class Point(NamedTuple):
    """One point of the curves: a time, jobs that wait and run, and what happened a second since the point before."""

    at_ms: int
    pending: int | None
    processing: int | None
    created: float
    completed: float
    failed: float
    queued_p50: float | None
    queued_p99: float | None
    run_p50: float | None
    run_p99: float | None


class Curves:
    """The last points, each with a number that only grows."""

    def __init__(self, limit: int) -> None:
        self._points: deque[Point] = deque(maxlen=limit)
        self.added = 0
        """How many points there have been."""

    def add(self, point: Point) -> None:
        self._points.append(point)
        self.added += 1

    def since(self, number: int) -> list[Point]:
        """Return the points after the first so many that there have been, as far as they are kept."""
        missing = min(self.added - number, len(self._points))
        return list(self._points)[len(self._points) - missing :] if missing > 0 else []
