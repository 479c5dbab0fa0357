"""The report: a table for people, JSON for programs. Knows nothing of how the figures came to be."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from benchmarks.figures import Series, ratios, spread

_MANY = 100
_SOME = 10


@dataclass(frozen=True, slots=True)
class Report:
    """All that one run found. `titles` are the sections' by their names."""

    facts: Mapping[str, str]
    titles: Mapping[str, str]
    series: tuple[Series, ...]

    def reference_of(self, series: Series) -> Series | None:
        """What it is compared with, where that was measured."""
        wanted = (series.section, series.reference, series.measure)
        return next((one for one in self.series if (one.section, one.subject, one.measure) == wanted), None)

    def times(self, series: Series) -> tuple[float, ...]:
        """How many times its reference it is, round by round; empty where there is none."""
        reference = self.reference_of(series)
        return () if reference is None else ratios(series, reference)


def to_json(report: Report) -> str:
    """All values of all rounds, and what the table shows of them."""
    documents = [_document(report, series) for series in report.series]
    whole = {"facts": dict(report.facts), "titles": dict(report.titles), "series": documents}
    return json.dumps(whole, indent=1, ensure_ascii=False)


def from_json(text: str) -> Report:
    """The report that `to_json` wrote."""
    whole = json.loads(text)
    fields = ("section", "subject", "measure", "unit", "values", "reference")
    found = ({name: document[name] for name in fields} for document in whole["series"])
    series = tuple(Series(**(document | {"values": tuple(document["values"])})) for document in found)
    return Report(whole["facts"], whole["titles"], series)


def _document(report: Report, series: Series) -> dict[str, Any]:
    times = report.times(series)
    summary = {"spread": spread(series.values)._asdict(), "times_reference": spread(times)._asdict() if times else None}
    return asdict(series) | summary


def measures(report: Report, section: str) -> list[tuple[str, list[Series]]]:
    """The section's series by measure, in the order in which measures first appear."""
    mine = [series for series in report.series if series.section == section]
    order = list(dict.fromkeys(series.measure for series in mine))
    mine.sort(key=lambda series: order.index(series.measure))
    return [(measure, list(group)) for measure, group in groupby(mine, key=lambda series: series.measure)]


def tables(report: Report) -> Group:
    """Tables of each section, one for each measure, and one of the facts."""
    parts: list[RenderableType] = []
    for section, title in report.titles.items():
        parts += [
            Rule(),
            Text(f"{section}: {title}", "bold"),
            Text(),
            *(_table(report, *found) for found in measures(report, section)),
        ]
    named = Table("what", "which", title="measured on", title_justify="left", box=SIMPLE_HEAD)
    for name, value in report.facts.items():
        named.add_row(name, value)
    return Group(*parts, Rule(), named)


def _table(report: Report, measure: str, group: Sequence[Series]) -> Table:
    """A row for each subject: its values, and how many times those of its reference they are."""
    table = Table("", title=f"{measure} ({group[0].unit})", title_justify="left", box=SIMPLE_HEAD)
    compared = ("times", "least", "most") if any(map(report.times, group)) else ()
    for name in ("median", "least", "most", *compared):
        table.add_column(name, justify="right", no_wrap=True)
    for series in group:
        times = report.times(series)
        values = (figure(value) for value in spread(series.values))
        table.add_row(series.subject, *values, *((f"{value:.2f}" for value in spread(times)) if times else ()))
    return table


def figure(value: float) -> str:
    """With as many digits as one wants to read."""
    if abs(value) >= _MANY:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= _SOME else f"{value:.3g}"
