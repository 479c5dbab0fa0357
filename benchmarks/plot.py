"""The report as a picture: a panel for each measure, a bar for each subject, a line from the least to the most."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from benchmarks.figures import Series, spread
from benchmarks.report import Report, figure, measures

KINDS: Final = ("png", "svg")
_COLUMNS: Final = 3
_WIDTH: Final = 19.0
_BAR_HEIGHT: Final = 0.3
_PANEL_HEIGHT: Final = 0.9
_TITLE_HEIGHT: Final = 0.5
_OURS: Final = "#2b6cb0"
_REFERENCES: Final = "#a0aec0"
_ROOM: Final = 1.35
"""How far an axis reaches beyond the longest bar, where its label stands."""


def plot(report: Report, folder: Path, name: str) -> list[Path]:
    """Write the picture as PNG and SVG; where they are."""
    every = {section: measures(report, section) for section in report.titles}
    heights = [_height(panels) for panels in every.values()]
    picture = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    parts = picture.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)
    for part, (section, panels) in zip(parts[:, 0], every.items(), strict=True):
        _draw_section(part, report, f"{section}: {report.titles[section]}", panels)
    paths = [folder / f"{name}.{kind}" for kind in KINDS]
    for path in paths:
        picture.savefig(path)
    return paths


def _rows(panels: Sequence[tuple[str, list[Series]]]) -> list[int]:
    """How many bars the tallest panel of each row has."""
    counts = [len(group) for _, group in panels]
    return [max(counts[first : first + _COLUMNS]) for first in range(0, len(counts), _COLUMNS)]


def _height(panels: Sequence[tuple[str, list[Series]]]) -> float:
    """Of a section, in inches."""
    return _TITLE_HEIGHT + sum(_PANEL_HEIGHT + _BAR_HEIGHT * bars for bars in _rows(panels))


def _draw_section(part: SubFigure, report: Report, title: str, panels: Sequence[tuple[str, list[Series]]]) -> None:
    part.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
    rows = _rows(panels)
    ratios = [_PANEL_HEIGHT + _BAR_HEIGHT * bars for bars in rows]
    places = part.subplots(len(rows), _COLUMNS, squeeze=False, height_ratios=ratios).flatten()
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    for axes, (measure, group) in zip(places, panels, strict=False):
        _draw_panel(axes, report, measure, group)


def _draw_panel(axes: Axes, report: Report, measure: str, group: Sequence[Series]) -> None:
    spreads = [spread(series.values) for series in group]
    references = {series.reference for series in report.series if series.section == group[0].section}
    axes.barh(
        [series.subject for series in group],
        [one.median for one in spreads],
        xerr=[[one.median - one.least for one in spreads], [one.most - one.median for one in spreads]],
        color=[_REFERENCES if series.subject in references else _OURS for series in group],
        ecolor="#1a202c",
        capsize=3,
    )
    for place, (series, one) in enumerate(zip(group, spreads, strict=True)):
        times = report.times(series)
        label = f"{figure(one.median)} ({spread(times).median:.2f} times)" if times else figure(one.median)
        axes.annotate(label, (one.most, place), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(min(0, *(one.least for one in spreads)), max(one.most for one in spreads) * _ROOM or 1)
    axes.set_title(f"{measure} ({group[0].unit})", fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
