"""Measure this machine and write one report: `python -m benchmarks`, or `make bench`.

Each server runs in a process of its own, as does the load generator; a machine with two cores or more and little else
to do is wanted. Figures of CPU time depend little on what else it does, throughput and latencies much. The report is a
table here and report.json, report.png and report.svg in the folder of --out, written anew after each section. Ctrl-C
ends the run and every server; the sections that were measured by then stay in the report.
"""

import argparse
import asyncio
import importlib
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, cast

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.against import ROWS, checkout
from benchmarks.facts import facts
from benchmarks.figures import Options, Series
from benchmarks.report import Report, tables, to_json
from benchmarks.servers import KINDS, ROOT

SECTIONS: Final = ("polls", "outcomes", "large", "writes", "beside_writes", "waiting", "processes", "growth")
AGAINST: Final = "against"
"""The only section of a run with --against."""
STOPPED: Final = 130
_WIDTH: Final = 110
"""Of what is printed into a file."""
_QUICK: Final = {"rounds": 1, "jobs": 2000, "seconds": 1, "credentials": 100, "waiters": 500}


def read_options(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION", help=_choice(SECTIONS)
    )
    parser.add_argument("--stores", nargs="+", choices=KINDS, default=KINDS, metavar="STORE", help=_choice(KINDS))
    parser.add_argument("--rounds", type=_positive, default=5, help="that count, after one that warms up (%(default)s)")
    parser.add_argument("--jobs", type=_positive, default=100_000, help="stored jobs that are polled (%(default)s)")
    parser.add_argument("--seconds", type=_positive, default=3, help="of load on each server in a round (%(default)s)")
    parser.add_argument("--connections", type=_positive, default=64, help="polls in flight (%(default)s)")
    parser.add_argument("--waiters", type=_positive, default=10_000, help="polls that wait at a time (%(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="a try: one short round with few jobs; no figures to quote"
    )
    parser.add_argument(
        "--against",
        type=checkout,
        metavar="DIR",
        help="compare with another checkout of this project, whose environment is in .venv, and measure nothing else",
    )
    parser.add_argument(
        "--rows", nargs="+", choices=tuple(ROWS), default=tuple(ROWS), metavar="ROW", help=_choice(ROWS)
    )
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "bench", help="folder of the report (var/bench)")
    return parser.parse_args(words)


def _choice(names: Iterable[str]) -> str:
    return f"some of {', '.join(names)} (all)"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


async def run(chosen: argparse.Namespace, console: Console) -> tuple[Report, list[str]]:
    """Measure the sections in turn; the report, written anew after each, and the names of those that failed.

    Why one failed is printed at once. The others are measured all the same, for a run is long.
    """
    chosen.out.mkdir(parents=True, exist_ok=True)
    names = [AGAINST] if chosen.against else [name for name in SECTIONS if name in chosen.only]
    report, failed = Report({}, {}, ()), []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="jobstatus-bench-") as folder,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        for number, name in enumerate(names, 1):
            console.print(f"[bold]{name}[/bold] ({number} of {len(names)})")
            section = importlib.import_module(f"benchmarks.{name}")
            options = _options(chosen, Path(folder) / name, progress)
            options.folder.mkdir()
            try:
                series: list[Series] = await section.measure(options)
            except Exception:  # noqa: BLE001  # whatever it is, it is told, and not the end of the others
                console.print_exception()
                failed.append(name)
                continue
            title = str(section.__doc__).partition("\n")[0].removesuffix(".")
            report = Report(facts(options), {**report.titles, name: title}, (*report.series, *series))
            write(report, chosen.out)
    return report, failed


def write(report: Report, folder: Path) -> None:
    """As report.json, report.png and report.svg."""
    from benchmarks.plot import plot  # noqa: PLC0415  # Matplotlib loads for longer than all else

    (folder / "report.json").write_text(to_json(report))
    plot(report, folder, "report")


def _options(chosen: argparse.Namespace, folder: Path, progress: Progress) -> Options:
    values: dict[str, Any] = {
        name: getattr(chosen, name) for name in ("rounds", "jobs", "seconds", "connections", "waiters")
    }
    if chosen.quick:
        values |= {name: min(values.get(name, most), most) for name, most in _QUICK.items()}
    return Options(
        folder=folder,
        stores=tuple(chosen.stores),
        quick=chosen.quick,
        against=chosen.against,
        rows=tuple(chosen.rows),
        progress=_shown_by(progress),
        **values,
    )


def _shown_by(progress: Progress) -> Callable[[str, int], AbstractContextManager[Callable[[int], None]]]:
    @contextmanager
    def show(description: str, total: int) -> Iterator[Callable[[int], None]]:
        task = progress.add_task(description, total=total)
        try:
            yield lambda done: progress.advance(task, done)
        finally:
            progress.remove_task(task)

    return show


async def _until_signal(chosen: argparse.Namespace, console: Console) -> tuple[Report, list[str]]:
    """The same; CancelledError after SIGINT or SIGTERM, once every server has ended."""
    task = cast("asyncio.Task[object]", asyncio.current_task())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await run(chosen, console)


def main() -> int:
    chosen = read_options()
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    try:
        report, failed = asyncio.Runner(loop_factory=uvloop.new_event_loop).run(_until_signal(chosen, console))
    except (asyncio.CancelledError, KeyboardInterrupt):
        console.print("stopped")
        return STOPPED
    console.print(tables(report))
    console.print(f"The report is in {chosen.out}")
    if failed:
        console.print(f"failed, see above: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
