"""Merge the metrics of all children into one set, with metrics about the children, for the supervisor's admin port.

Counters and histograms are summed; of gauges the largest value is taken. The counts of a child that ended are kept, so
that no sum ever falls.
"""

import asyncio
from collections.abc import Collection, Iterable
from itertools import chain
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from jobstatus.processes.child import ChildProcess

Labels = tuple[tuple[str, str], ...]
Figures = dict[tuple[str, Labels], float]
"""The samples of one family, by the sample's name and labels."""

SUMMED: Final = frozenset({"counter", "histogram"})


def merge(families: Iterable[Metric]) -> list[Metric]:
    """Merge the families of several processes, so that each family comes once."""
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


class MergedMetrics(Collector):
    """The latest metrics of each child, and the counts of those that ended."""

    def __init__(self) -> None:
        self._told: dict[int, list[Metric]] = {}
        self._of_the_ended: list[Metric] = []

    def tell(self, process_id: int, exposition: str) -> None:
        """Replace a child's metrics. `exposition` is in Prometheus' text format 0.0.4."""
        self._told[process_id] = list(text_string_to_metric_families(exposition))

    def end(self, process_id: int) -> None:
        """Keep the counters of a child that ended, and drop its gauges, which are no longer true."""
        ended = merge([*self._of_the_ended, *self._told.pop(process_id, ())])
        self._of_the_ended = [family for family in ended if family.type in SUMMED]

    def collect(self) -> Iterable[Metric]:
        return merge([*self._of_the_ended, *chain.from_iterable(self._told.values())])


class ChildMetrics:
    """The metrics of the supervisor's admin port. Build and use it inside the running loop."""

    def __init__(self, *, ask_seconds: float) -> None:
        """A child has `ask_seconds` to answer."""
        self._ask_seconds = ask_seconds
        self._registry = CollectorRegistry()
        self._told = MergedMetrics()
        self._registry.register(self._told)
        self.up = Gauge("jobstatus_workers", "Serving processes that are up.", registry=self._registry)
        self.restarts = Counter(
            "jobstatus_worker_restarts", "Serving processes that ended and were replaced.", registry=self._registry
        )
        self._asking = asyncio.Lock()

    async def exposition(self, children: Collection[ChildProcess]) -> bytes:
        """Ask these children, and return all metrics in Prometheus' text format 0.0.4."""
        await self.ask(children)
        return generate_latest(self._registry)

    async def ask(self, children: Collection[ChildProcess]) -> list[ChildProcess]:
        """Ask each child for its metrics and return the children that did not answer.

        Calls run one after the other, so that an older answer never replaces a newer one.
        """
        async with self._asking:
            answers = await asyncio.gather(*(child.ask("metrics", seconds=self._ask_seconds) for child in children))
            for child, answer in zip(children, answers, strict=True):
                if answer is None:
                    continue
                child.misses = 0
                if child.is_up:
                    self._told.tell(child.process.pid, answer)
        return [child for child, answer in zip(children, answers, strict=True) if answer is None]

    def end(self, child: ChildProcess) -> None:
        """Keep the counts of a child that ended."""
        self._told.end(child.process.pid)
