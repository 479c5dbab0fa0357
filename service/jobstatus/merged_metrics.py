"""One set of metrics of several processes: pure functions of what each of them tells.

Counters and histograms are summed, of gauges the largest counts. What a process that has ended had counted stays
counted, so that no sum ever falls.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Final

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

Labels = tuple[tuple[str, str], ...]
Figures = dict[tuple[str, Labels], float]
"""The samples of one family, by the sample's name and labels."""

SUMMED: Final = frozenset({"counter", "histogram"})


def merge(families: Iterable[Metric]) -> list[Metric]:
    """Families of several processes, each once."""
    merged: dict[str, Metric] = {}
    figures: dict[str, Figures] = {}
    for family in families:
        merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        of_family = figures.setdefault(family.name, {})
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            before = of_family.get(key)
            of_family[key] = sample.value if before is None else _joined(family, before, sample.value)
    for name, metric in merged.items():
        for (sample_name, labels), value in figures[name].items():
            metric.add_sample(sample_name, dict(labels), value)
    return list(merged.values())


def _joined(family: Metric, one: float, other: float) -> float:
    if family.type in SUMMED:
        return one + other
    return min(one, other) if family.name.endswith("_created") else max(one, other)


class WorkersMetrics(Collector):
    """What the workers told last, and what those that have ended had told."""

    def __init__(self) -> None:
        self._told: dict[int, list[Metric]] = {}
        self._of_the_ended: list[Metric] = []

    def tell(self, process_id: int, exposition: str) -> None:
        """A worker's metrics as of now, in Prometheus' text format 0.0.4."""
        self._told[process_id] = list(text_string_to_metric_families(exposition))

    def end(self, process_id: int) -> None:
        """A worker is gone: its counters stay as they were, its gauges are no longer true."""
        ended = merge([*self._of_the_ended, *self._told.pop(process_id, ())])
        self._of_the_ended = [family for family in ended if family.type in SUMMED]

    def collect(self) -> Iterable[Metric]:
        return merge([*self._of_the_ended, *chain.from_iterable(self._told.values())])
