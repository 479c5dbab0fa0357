"""Kinds of metrics that prometheus-client lacks: cheap to count, or computed when the metrics are read.

They are used by the event loop's thread only, so they need no locks.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]
"""The values of the labels, in the order of their names."""

ANSWER_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
JOB_SECONDS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 10_800, 43_200, 86_400)


class Format(Enum):
    """A format of metrics, by its media type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def expose(registry: CollectorRegistry, form: Format) -> bytes:
    """Return all metrics of a registry in this format."""
    if form is Format.TEXT:
        return generate_latest(registry)
    text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]  # its annotations are partial
    return text


class Timings(Collector):
    """A histogram of seconds. prometheus-client's own would cost each poll and each RPC several microseconds."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        registry: CollectorRegistry,
        bounds: Sequence[float] = ANSWER_SECONDS,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._bounds = bounds
        self._counts: dict[Labels, list[int]] = {}
        self._seconds: dict[Labels, float] = {}
        registry.register(self)

    def observe(self, labels: Labels, seconds: float) -> None:
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
            self._seconds[labels] = 0.0
        counts[bisect_left(self._bounds, seconds)] += 1
        self._seconds[labels] += seconds

    def counts(self) -> dict[Labels, int]:
        """Return how many were observed."""
        return {labels: sum(counts) for labels, counts in self._counts.items()}

    def collect(self) -> Iterable[Metric]:
        """One family; its count is how often it was observed."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for labels, counts in self._counts.items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric(labels, buckets, self._seconds[labels])
        yield family


class Counts(Collector):
    """A counter with labels. With prometheus-client's own, the labels known from the start are a sixth of a start."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._counts: dict[Labels, int] = {}
        self._created: dict[Labels, float] = {}
        registry.register(self)

    def expect(self, labels: Iterable[Labels]) -> None:
        """Have these from now on, with 0 until the first is counted."""
        for each in labels:
            self.add(each, 0)

    def add(self, labels: Labels, count: int = 1) -> None:
        """Count so many more."""
        if labels not in self._counts:
            self._counts[labels], self._created[labels] = 0, time.time()
        self._counts[labels] += count

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, count in self._counts.items():
            family.add_metric(labels, count, created=self._created[labels])
        yield family


class Computed(Collector):
    """A gauge or counter that is computed whenever the metrics are read."""

    def __init__(
        self,
        name: str,
        documentation: str,
        values: Callable[[], Mapping[Labels, float]],
        registry: CollectorRegistry,
        *,
        labels: Sequence[str] = (),
        kind: type[CounterMetricFamily | GaugeMetricFamily] = GaugeMetricFamily,
    ) -> None:
        """`values` returns a value for each combination of labels that there is at present."""
        self._name = name
        self._documentation = documentation
        self._values = values
        self._labels = labels
        self._kind = kind
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        family = self._kind(self._name, self._documentation, labels=self._labels)
        for labels, value in self._values().items():
            family.add_metric(labels, value)
        yield family
