"""What is measured, as values: every section makes Series, the report reads nothing else.

A section is a module with a NAME, a docstring whose first line is its title, and

    async def measure(options: Options) -> list[Series]

which starts what it needs in folders of its own below `options.folder`, lets all subjects take their turn in each of
`options.each_round()`, and stops everything again. Round 0 warms up and does not count.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")

CPU: Final = "CPU time a request"
"""User and system time of the serving process with its children; the measure that comes first in each section."""
RATE: Final = "throughput"
P50: Final = "latency, median"
P99: Final = "latency, 99 of 100"


@dataclass(frozen=True, slots=True)
class Series:
    """One measure of one subject: a value for each round.

    `reference` names the subject of the same section and measure whose values were taken in the same rounds.
    """

    section: str
    subject: str
    measure: str
    unit: str
    values: tuple[float, ...]
    reference: str | None = None


class Spread(NamedTuple):
    """The median of values, and how far they lie apart."""

    median: float
    least: float
    most: float


def spread(values: Iterable[float]) -> Spread:
    """Raises ValueError when there are none."""
    found = tuple(values)
    return Spread(median(found), min(found), max(found))


def ratios(series: Series, of: Series) -> tuple[float, ...]:
    """How many times the reference, round by round; empty where the reference was too small to be seen."""
    pairs = list(zip(series.values, of.values, strict=True))
    return tuple(one / other for one, other in pairs) if all(other for _, other in pairs) else ()


class Collected:
    """Gathers the values of a section while its rounds go on."""

    def __init__(self, section: str) -> None:
        self._section = section
        self._values: dict[tuple[str, str, str], list[float]] = {}
        self._not_compared: set[str] = set()

    def add(self, subject: str, measure: str, unit: str, value: float, *, is_compared: bool = True) -> None:
        """A value of one round. `is_compared`: it makes sense to ask how many times the reference's it is."""
        self._values.setdefault((subject, measure, unit), []).append(value)
        if not is_compared:
            self._not_compared.add(measure)

    def series(self, references: Mapping[str, str] | None = None) -> list[Series]:
        """All that was added, in the order of first appearance; `references` by subject."""
        named = references or {}
        return [
            Series(
                self._section,
                subject,
                measure,
                unit,
                tuple(values),
                None if measure in self._not_compared else named.get(subject),
            )
            for (subject, measure, unit), values in self._values.items()
        ]


def _silent(description: str, total: int) -> AbstractContextManager[Callable[[int], None]]:  # noqa: ARG001  # a Progress
    return nullcontext(lambda _: None)


Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows that something goes on: a description and how many steps, then a function that is told of steps done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much is measured. `folder` is empty, this run's alone, and goes when the run ends."""

    folder: Path
    rounds: int = 5
    jobs: int = 100_000
    credentials: int = 1000
    connections: int = 64
    seconds: int = 3
    waiters: int = 10_000
    stores: tuple[str, ...]
    quick: bool = False
    against: Path | None = None
    """Another checkout, with an environment of its own, beside which this one is measured."""
    rows: tuple[str, ...] = ()
    """Which figures are compared with those of the other checkout."""
    progress: Progress = field(default=_silent)

    def each_round(self, description: str) -> Iterator[int]:
        """The numbers of the rounds, 0 for the one that warms up and does not count; a quick try has none such."""
        return self.track(range(1 if self.quick else 0, self.rounds + 1), description)

    def track(self, items: Iterable[T], description: str) -> Iterator[T]:
        """The items, while whoever watches sees how far it is."""
        every = list(items)
        with self.progress(description, len(every)) as advance:
            for item in every:
                yield item
                advance(1)
