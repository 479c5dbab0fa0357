"""Draw the Grafana dashboard from a running service under load, without Grafana: docs/dashboard.png.

    python tests/soak/dashboard.py [--seconds 420] [--output docs/dashboard.png]

Two replicas on a shared store get jobs, workers, pollers and some strangers, in waves; a real Prometheus scrapes them.
Then each panel of deploy/grafana/dashboard.json is drawn where the dashboard has it, from what Prometheus answers to
its queries. Prometheus is the one that `make deploy-check` has built.
"""

import argparse
import asyncio
import json
import math
import os
import random
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
import matplotlib as mpl
import uvloop
from harness.jobs import KINDS, complete, create, fail, number_of, start
from harness.service import Process, Service
from harness.tokens import admin_token, bearer, virtual_key_token
from harness.valkey import Server

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from soak.alerts import PROMETHEUS, prometheus

ROOT: Final = Path(__file__).resolve().parents[2]
DASHBOARD: Final = ROOT / "deploy" / "grafana" / "dashboard.json"
VARIABLES: Final = {"$__rate_interval": "30s", "$job": "jobstatus.*", "$instance": ".+"}
COLUMNS: Final = 24
INCHES: Final = (16.0, 0.3)
"""The width of all columns, and the height of one row of the grid."""
BACKGROUND, PANEL, TEXT, FAINT = "#111217", "#181b1f", "#ccccdc", "#8e8e9c"
COLOURS: Final = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#b877d9", "#f2495c", "#8ab8ff", "#c4162a", "#96d98d")
NAMED: Final = {"green": "#73bf69", "orange": "#ff780a", "red": "#f2495c"}
CAPTION: Final = (
    "two replicas on Valkey under load; the queries of deploy/grafana/dashboard.json, drawn by make dashboard"
)
ADMIN: Final = bearer(admin_token())
TENANT: Final = bearer(virtual_key_token("vk-1"))
FORGED: Final = bearer(admin_token(secret="a secret that the service does not know, 32 bytes"))
POLLS: Final = 1000
"""After so many polls of one job its client gives up."""
TYPES: Final = tuple(KINDS)[:3]


# --- the load ---


async def life(services: Sequence[Service], name: str, randomness: random.Random) -> None:
    """One job, from its creation to the poll that delivers its result, by the replicas in turn."""
    service, other = randomness.sample(list(services), 2)
    kind, waits = randomness.choice(TYPES), randomness.random() < 0.3
    await create(service, name, request_type=number_of(kind))
    async with asyncio.TaskGroup() as group:
        group.create_task(poll_until_ended(other, name, KINDS[kind], waits=waits))
        await asyncio.sleep(randomness.expovariate(1.5))
        await start(service, name, lease=timedelta(minutes=1))
        await asyncio.sleep(randomness.lognormvariate(1.0, 0.6))
        if randomness.random() < 0.06:
            await fail(service, name, attempt=1)
        else:
            result = b'{"text": "%s"}' % (b"x" * randomness.randrange(200, 4000))
            await complete(service, name, result, attempt=1)


async def poll_until_ended(service: Service, name: str, kind: str, *, waits: bool) -> None:
    """Poll as often as a lively client, or wait."""
    headers = (TENANT, "Prefer: wait=20") if waits else (TENANT,)
    for _ in range(POLLS):
        if (await service.poll(name, *headers, kind=kind)).status != 202:
            return
        await asyncio.sleep(0 if waits else 0.4)


async def in_waves(rate: float, work: Callable[[int], Awaitable[object]]) -> None:
    """Begin work at a rate that rises and falls; what a client is refused is no error here."""
    began, number = time.monotonic(), 0

    async def one(number: int) -> None:
        try:
            await work(number)
        except* (OSError, TimeoutError, AssertionError, grpc.aio.AioRpcError) as refused:
            sys.stderr.write(f"{refused.exceptions[0]!r}\n")

    async with asyncio.TaskGroup() as group:
        while True:
            group.create_task(one(number))
            number += 1
            wave = 1 + 0.7 * math.sin((time.monotonic() - began) / 28)
            await asyncio.sleep(1 / (rate * wave))


async def load(services: Sequence[Service]) -> None:
    """Keep both replicas busy."""
    randomness = random.Random(16)
    async with asyncio.TaskGroup() as group:
        group.create_task(in_waves(8, lambda number: life(services, f"job-{number}", randomness)))
        group.create_task(in_waves(50, lambda number: services[number % 2].poll(f"job-{number % 40}", ADMIN)))
        group.create_task(in_waves(1.5, lambda number: services[number % 2].poll("job-1", FORGED)))
        group.create_task(in_waves(0.7, lambda number: services[number % 2].poll("job-1")))


# --- the queries ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a panel: its name, times as matplotlib has them, and values."""

    name: str
    times: Sequence[float]
    values: Sequence[float]


def asked(port: int, query: str, legend: str, seconds: float) -> list[Series]:
    """Return what Prometheus answers for the last `seconds`."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    ends_at = time.time()
    given = {"query": query, "start": ends_at - seconds, "end": ends_at, "step": 5}
    url = f"http://127.0.0.1:{port}/api/v1/query_range?{urllib.parse.urlencode(given)}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        result = json.load(answer)["data"]["result"]
    return [_series(one, legend) for one in result]


def _series(one: Any, legend: str) -> Series:
    name = legend
    for label, value in one["metric"].items():
        name = name.replace(f"{{{{{label}}}}}", value)
    points = [(float(at), float(value)) for at, value in one["values"] if value not in {"NaN", "+Inf", "-Inf"}]
    return Series(name=name, times=[at / 86_400 for at, _ in points], values=[value for _, value in points])


# --- the picture ---


def worded(value: float, unit: str) -> str:
    """Return a value as Grafana writes it."""
    match unit:
        case "s":
            return f"{value:.3g} s" if value >= 1 or value == 0 else f"{value * 1000:.3g} ms"
        case "bytes":
            return f"{value / 1024**2:.0f} MiB"
        case "percentunit":
            return f"{value * 100:.3g} %"
        case "reqps":
            return f"{value:.3g}/s"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def draw_stat(axes: Axes, panel: Any, series: Sequence[Series]) -> None:
    """Draw the latest value in large letters, in the colour of its threshold, above its course."""
    defaults = panel["fieldConfig"]["defaults"]
    values = series[0].values if series and series[0].values else [0.0]
    colour = NAMED["green"]
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or values[-1] >= step["value"]:
            colour = NAMED[step["color"]]
    texts = {key: option["text"] for mapping in defaults["mappings"] for key, option in mapping["options"].items()}
    text = texts.get(f"{values[-1]:.0f}", worded(values[-1], defaults["unit"]))
    axes.axis("off")
    if series and series[0].values:
        axes.fill_between(series[0].times, values, color=colour, alpha=0.25, linewidth=0)
        axes.set_ylim(0, max(*values, 1e-9) * 3)
    axes.text(0.5, 0.6, text, transform=axes.transAxes, ha="center", va="center", fontsize=21, color=colour)


def draw_lines(axes: Axes, panel: Any, series: Sequence[Series]) -> None:
    """Draw lines, or areas on top of each other."""
    defaults = panel["fieldConfig"]["defaults"]
    lines = sorted((one for one in series if any(one.values)), key=lambda one: -sum(one.values))[: len(COLOURS)]
    if defaults["custom"]["stacking"]["mode"] == "normal" and lines:
        times = sorted({at for one in lines for at in one.times})
        rows = [[dict(zip(one.times, one.values, strict=True)).get(at, 0.0) for at in times] for one in lines]
        axes.stackplot(times, rows, colors=COLOURS, alpha=0.75, labels=[one.name for one in lines], linewidth=0)
    else:
        for one, colour in zip(lines, COLOURS, strict=False):
            axes.plot(one.times, one.values, color=colour, linewidth=1.2, label=one.name)
            axes.fill_between(one.times, one.values, color=colour, alpha=0.07, linewidth=0)
    top = axes.get_ylim()[1]
    axes.set_ylim(0, max(top, 1e-9) if lines else 1)
    axes.yaxis.set_major_formatter(lambda value, _: worded(value, defaults["unit"]))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))  # type: ignore[no-untyped-call]
    axes.tick_params(labelsize=6.5, colors=FAINT, length=0)
    axes.set_axisbelow(True)
    axes.grid(color="#2a2d33", linewidth=0.6)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if lines:
        axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.13),
            ncol=4,
            fontsize=6.5,
            frameon=False,
            labelcolor=TEXT,
            handlelength=1,
            columnspacing=1,
        )


def draw(port: int, seconds: float, output: Path) -> None:
    """Draw all panels in their places."""
    dashboard = json.loads(DASHBOARD.read_text())
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"]) + 2
    width, height = INCHES[0], INCHES[1] * rows
    figure = plt.figure(figsize=(width, height), facecolor=BACKGROUND)
    figure.text(0.008, 1 - 1.1 / rows, dashboard["title"], color=TEXT, fontsize=15, va="center")
    figure.text(0.992, 1 - 1.1 / rows, CAPTION, color=FAINT, fontsize=8, va="center", ha="right")
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        left, bottom = at["x"] / COLUMNS, 1 - (at["y"] + at["h"] + 2) / rows
        if panel["type"] == "row":
            figure.text(left + 0.008, bottom + 0.4 / rows, panel["title"], color=TEXT, fontsize=10, weight="bold")
            continue
        box = (left + 0.003, bottom + 0.12 / rows, at["w"] / COLUMNS - 0.006, (at["h"] - 0.24) / rows)
        figure.add_artist(Rectangle(box[:2], box[2], box[3], color=PANEL, zorder=0, transform=figure.transFigure))
        figure.text(box[0] + 0.005, box[1] + box[3] - 0.55 / rows, panel["title"], color=TEXT, fontsize=8, va="center")
        found = [asked(port, target["expr"], target["legendFormat"], seconds) for target in panel["targets"]]
        series = [one for answer in found for one in answer]
        if panel["type"] == "stat":
            draw_stat(figure.add_axes((box[0], box[1], box[2], box[3] - 1 / rows)), panel, series)
        else:
            place = (box[0] + 0.034, box[1] + 1.9 / rows, box[2] - 0.042, box[3] - 3 / rows)
            draw_lines(figure.add_axes(place, facecolor=PANEL), panel, series)
    figure.savefig(output, dpi=85, facecolor=BACKGROUND)


async def run(seconds: float, output: Path, folder: Path) -> None:
    """Serve, load, scrape and draw."""
    async with AsyncExitStack() as stack:
        store = Server().start()
        stack.callback(store.remove)
        services, targets = [], []
        for name in ("a", "b"):
            (folder / name).mkdir()
            process = await stack.enter_async_context(Process(folder / name, STORE=store.url()))
            services.append(await stack.enter_async_context(process.connected()))
            targets.append(process.port("ADMIN"))
        watching = await stack.enter_async_context(prometheus(folder, {"replicas": targets}))
        loading = asyncio.create_task(load(services))
        await asyncio.wait({loading}, timeout=seconds)
        await asyncio.to_thread(draw, watching.port, seconds - 40, output)
        loading.cancel()
        await asyncio.wait({loading})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=420, help="how long the load lasts (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "dashboard.png")
    given = parser.parse_args()
    if not PROMETHEUS.exists():
        sys.stderr.write("There is no Prometheus: run `make deploy-check` first, which builds it.\n")
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="dashboard-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(run(given.seconds, given.output, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
