"""Merge the metrics of all children into one set, with metrics about the children, for the supervisor's admin port.

Counters, histograms and memory are summed. Of other gauges the largest value is taken: that of the process which is
nearest to its limit, the highest age, the worst health. The counts of a child that ended are kept, so that no sum ever
falls.
"""

import asyncio
from collections.abc import Collection, Iterable
from itertools import chain
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from jobstatus.processes.child import ChildProcess
from jobstatus.telemetry.collectors import Format, expose
from jobstatus.telemetry.metrics import NOT_READY

Labels = tuple[tuple[str, str], ...]
Figures = dict[tuple[str, Labels], float]
"""The samples of one family, by the sample's name and labels."""

SUMMED: Final = frozenset({"counter", "histogram"})
SUMMED_GAUGES: Final = frozenset({"process_resident_memory_bytes", "process_virtual_memory_bytes"})
SMALLEST: Final = frozenset({"jobstatus_certificate_days_left"})
CREATED: Final = "_created"


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
            of_family[key] = sample.value if before is None else _joined(family, sample.name, before, sample.value)
    for name, metric in merged.items():
        for (sample_name, labels), value in _grouped(figures[name]):
            metric.add_sample(sample_name, dict(labels), value)
    return list(merged.values())


def _grouped(figures: Figures) -> Iterable[tuple[tuple[str, Labels], float]]:
    """Return the samples with those of the same labels (but `le`) together, as OpenMetrics requires."""
    groups: dict[Labels, Figures] = {}
    for (name, labels), value in figures.items():
        group = groups.setdefault(tuple(label for label in labels if label[0] != "le"), {})
        group[name, labels] = value
    return chain.from_iterable(group.items() for group in groups.values())


def _joined(family: Metric, sample_name: str, one: float, other: float) -> float:
    if sample_name.endswith(CREATED) or family.name in SMALLEST:
        return min(one, other)
    return one + other if family.type in SUMMED or family.name in SUMMED_GAUGES else max(one, other)


def parse(exposition: str) -> list[Metric]:
    """Return the families of an exposition in Prometheus' text format 0.0.4.

    In that format the `_created` samples of a counter or histogram are a gauge of their own, whose name OpenMetrics
    does not allow beside it. Here they are samples of the family again.
    """
    families = {family.name: family for family in text_string_to_metric_families(exposition)}
    for name in [name for name in families if name.endswith(CREATED)]:
        owner = families.get(name.removesuffix(CREATED))
        if owner is not None and owner.type in SUMMED:
            owner.samples += families.pop(name).samples
    return list(families.values())


class MergedMetrics(Collector):
    """The latest metrics of each child, and the counts of those that ended."""

    def __init__(self) -> None:
        self._told: dict[int, str] = {}
        self._of_the_ended: list[Metric] = []
        self.not_ready = False
        """Whether a child is missing that should answer."""

    def tell(self, process_id: int, exposition: str) -> None:
        """Replace a child's metrics. `exposition` is in Prometheus' text format 0.0.4, and parsed when it is needed."""
        self._told[process_id] = exposition

    def end(self, process_id: int) -> None:
        """Keep the counters of a child that ended, and drop its gauges, which are no longer true."""
        ended = merge([*self._of_the_ended, *parse(self._told.pop(process_id, ""))])
        self._of_the_ended = [family for family in ended if family.type in SUMMED]

    def collect(self) -> Iterable[Metric]:
        health = [GaugeMetricFamily("jobstatus_health", "", NOT_READY)] if self.not_ready else []
        return merge([*self._of_the_ended, *chain.from_iterable(map(parse, self._told.values())), *health])


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

    async def exposition(self, children: Collection[ChildProcess], form: Format) -> bytes:
        """Ask these children, and return all metrics in this format."""
        silent = await self.ask(children)
        self._told.not_ready = not children or any(child.is_up for child in silent)
        return expose(self._registry, form)

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
