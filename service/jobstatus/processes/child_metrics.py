"""The metrics of all serving processes as one set, and those about the processes, for the supervisor's admin port.

Counters and histograms are summed, of gauges the largest counts. What a process that has ended had counted stays
counted, so that no sum ever falls.
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


class MergedMetrics(Collector):
    """What the workers told last, and what those that have ended had told."""

    def __init__(self) -> None:
        self._told: dict[int, list[Metric]] = {}
        self._of_the_ended: list[Metric] = []

    def tell(self, process_id: int, exposition: str) -> None:
        """A worker's metrics as of now, in Prometheus' text format 0.0.4."""
        self._told[process_id] = list(text_string_to_metric_families(exposition))

    def end(self, process_id: int) -> None:
        """A child is gone: its counters stay as they were, its gauges are no longer true."""
        ended = merge([*self._of_the_ended, *self._told.pop(process_id, ())])
        self._of_the_ended = [family for family in ended if family.type in SUMMED]

    def collect(self) -> Iterable[Metric]:
        return merge([*self._of_the_ended, *chain.from_iterable(self._told.values())])


class ChildMetrics:
    """Build and use it inside the running loop."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._told = MergedMetrics()
        self._registry.register(self._told)
        self.up = Gauge("jobstatus_workers", "Workers that are up.", registry=self._registry)
        self.restarts = Counter(
            "jobstatus_worker_restarts", "Workers that ended and were replaced.", registry=self._registry
        )
        self._asking = asyncio.Lock()

    async def exposition(self, children: Collection[ChildProcess]) -> bytes:
        """What all of these tell now, in Prometheus' text format 0.0.4."""
        await self.ask(children)
        return generate_latest(self._registry)

    async def ask(self, children: Collection[ChildProcess]) -> list[ChildProcess]:
        """Have each worker tell its metrics; those that did not.

        One time after the other: what was asked for earlier must not take the place of what was asked for later.
        """
        async with self._asking:
            answers = await asyncio.gather(*(child.ask("/metrics") for child in children))
            for child, answer in zip(children, answers, strict=True):
                if answer is None:
                    continue
                child.misses = 0
                status, text = answer
                if status == 200 and child.is_up:
                    self._told.tell(child.process.pid, text)
        return [child for child, answer in zip(children, answers, strict=True) if answer is None]

    def end(self, child: ChildProcess) -> None:
        """The child is gone; what it had counted stays counted."""
        self._told.end(child.process.pid)
