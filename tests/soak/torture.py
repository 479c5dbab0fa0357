"""Kills the service again and again while many clients write, and judges whether anything it had said was untrue.

    python tests/soak/torture.py --writers 500 --jobs 20000 --kills 20 [--seed N]

The clients create jobs, start them, send heartbeats, and race each other for how each job ends; others poll and watch.
The service (the installed command, on SQLite) gets SIGKILL at random moments, sometimes while it is starting. Calls
without an answer are repeated. What every client did and saw makes one history, which `harness.history` judges; a copy
of the file is checked after each kill. Exits with 0 when nothing was wrong, else with 1.

A killed process loses nothing that it had given to the kernel: this proves that changes are atomic, final, and seen by
everybody from the moment they are acknowledged. That they survive a power cut is for the tests of the SQLite store.
"""

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else it remarks on each start of the service

import uvloop
from harness.history import History
from harness.load import Load, until_cancelled
from harness.service import Process
from harness.tracking import integrity
from harness.verdict import verdict
from harness.waiting import until
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

STARTING_SECONDS: Final = 1.5
"""A kill during the start comes at a random moment within so much time, or earlier if the service is up before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How hard to be."""

    writers: int
    jobs: int
    kills: int
    seed: int
    pollers: int = 10
    limit_seconds: float = 3600


@dataclass(slots=True, kw_only=True)
class Report:
    """What was done, and what was wrong."""

    options: Options
    history: History
    kills: int = 0
    kills_while_starting: int = 0
    starts: list[float] = field(default_factory=list)
    files_checked: int = 0
    file_bytes: int = 0
    seconds: float = 0
    violations: list[str] = field(default_factory=list)


class Torture:
    """One run: the load, the kills, the judgement."""

    def __init__(self, options: Options, folder: Path, on_progress: Callable[[int, int], None] | None = None) -> None:
        """`folder` gets the service's files; `on_progress` is told how many jobs have ended and how many kills were."""
        self._options = options
        self._folder = folder
        self._on_progress = on_progress or (lambda *_: None)
        self._chance = random.Random(options.seed)
        self._process = Process(folder)
        self._report = Report(options=options, history=History())

    async def run(self) -> Report:
        """The report; what went wrong is in it. Raises TimeoutError when it takes longer than it may."""
        began, report = time.monotonic(), self._report
        async with asyncio.timeout(self._options.limit_seconds), self._process:
            load = Load(
                report.history, self._chance, http_port=self._process.port("HTTP"), grpc_port=self._process.port("GRPC")
            )
            try:
                await self._torture(load)
                await load.look_at(load.created)
            finally:
                await load.close()
            self._process.send(signal.SIGTERM)
            if code := await self._process.ended():
                report.history.faults.append(f"the service ended with {code} when it was told to stop")
        await asyncio.to_thread(self._check_file, self._folder)
        report.violations = await asyncio.to_thread(report.history.violations)
        report.seconds = time.monotonic() - began
        return report

    async def _torture(self, load: Load) -> None:
        """Let the clients work, and the service die, until every job has lived its life."""
        lives = self._lives()
        others = [asyncio.ensure_future(until_cancelled(load.poll)) for _ in range(self._options.pollers)]
        others.append(asyncio.ensure_future(until_cancelled(lambda: self._tell(load))))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._kill_again_and_again(load))
                for _ in range(self._options.writers):
                    group.create_task(self._write(load, lives))
        finally:
            for task in others:
                task.cancel()
            outcomes = await asyncio.gather(*others, return_exceptions=True)
        for outcome in outcomes:
            if not isinstance(outcome, asyncio.CancelledError) and isinstance(outcome, BaseException):
                raise outcome
        self._on_progress(load.ended, self._report.kills)

    def _lives(self) -> Iterator[list[str]]:
        """The jobs, most of them alone, some to be created three at a time."""
        number = 0
        while number < self._options.jobs:
            count = min(3 if self._chance.random() < 0.05 else 1, self._options.jobs - number)
            yield [f"job-{number + index}" for index in range(count)]
            number += count

    async def _write(self, load: Load, lives: Iterator[list[str]]) -> None:
        for job_ids in lives:
            await load.live(job_ids)

    async def _tell(self, load: Load) -> None:
        self._on_progress(load.ended, self._report.kills)
        await asyncio.sleep(0.2)

    async def _kill_again_and_again(self, load: Load) -> None:
        """Spread over the whole load, each at a random moment."""
        for number in range(self._options.kills):
            moment = (number + self._chance.random()) * self._options.jobs / self._options.kills
            await until(lambda: load.ended >= moment, self._options.limit_seconds)  # noqa: B023  # awaited at once
            await asyncio.sleep(self._chance.random() * 0.1)
            await self._kill()
            self._report.kills += 1
            if self._chance.random() < 0.3:
                await self._kill_while_starting()
            began = time.monotonic()
            await self._process.start()
            self._report.starts.append(time.monotonic() - began)
            await load.look_at(list(load.created))

    async def _kill(self) -> None:
        assert self._process.child is not None
        if self._process.child.returncode is not None:
            self._report.history.faults.append(f"the service ended by itself with {self._process.child.returncode}")
            return
        self._process.send(signal.SIGKILL)
        await self._process.ended()
        await asyncio.to_thread(self._check_copy)

    async def _kill_while_starting(self) -> None:
        await self._process.spawn()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._chance.random() * STARTING_SECONDS):
                await self._process.serves()
        self._report.kills_while_starting += 1
        await self._kill()

    def _check_copy(self) -> None:
        """Let SQLite recover a copy, so that the service itself still finds everything as the kill left it."""
        with tempfile.TemporaryDirectory(dir=self._folder) as copy:
            for name in ("jobs.db", "jobs.db-wal"):
                if (self._folder / name).exists():
                    shutil.copy(self._folder / name, copy)
            self._check_file(Path(copy))

    def _check_file(self, folder: Path) -> None:
        self._report.files_checked += 1
        self._report.file_bytes = (folder / "jobs.db").stat().st_size
        if (found := integrity(folder / "jobs.db")) != "ok":
            self._report.history.faults.append(f"the file is damaged: {found}")


def table_of(report: Report) -> Table:
    """The report for a person."""
    options, counts = report.options, report.history.count()
    clients = f"{options.writers} writers, {options.pollers} pollers"
    table = Table(title=f"{options.jobs} jobs, {clients}, seed {options.seed}")
    for name in ("call", "ok", "refused", "unknown"):
        table.add_column(name, justify="left" if name == "call" else "right")
    for kind in dict.fromkeys(kind for kind, _ in counts):
        table.add_row(kind, *(f"{counts[kind, ending]:,}" for ending in ("ok", "refused", "unknown")))
    table.add_section()
    facts = {
        "kills under load": f"{report.kills:,}",
        "kills during a start": f"{report.kills_while_starting:,}",
        "longest start": f"{max(report.starts, default=0):.2f} s",
        "files checked": f"{report.files_checked:,}",
        "size of the file": f"{report.file_bytes / 2**20:.1f} MiB",
        "calls": f"{len(report.history.calls):,}",
        "time": f"{report.seconds:.0f} s",
        "violations": f"{len(report.violations):,}",
    }
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writers", type=int, default=500, help="how many clients write at a time")
    parser.add_argument("--jobs", type=int, default=20_000, help="how many jobs live and end")
    parser.add_argument("--kills", type=int, default=20, help="how often the service is killed under load")
    parser.add_argument("--seed", type=int, default=None, help="repeats the choices of an earlier run")
    given = parser.parse_args()
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    options = Options(writers=given.writers, jobs=given.jobs, kills=given.kills, seed=seed)
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="torture-") as folder,
        Progress(*columns, console=console) as bars,
    ):
        jobs = bars.add_task("jobs ended", total=options.jobs)
        kills = bars.add_task("kills", total=options.kills)

        def show(ended: int, killed: int) -> None:
            bars.update(jobs, completed=ended)
            bars.update(kills, completed=killed)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report = runner.run(Torture(options, Path(folder), show).run())
    return verdict(console, table_of(report), report.violations)


if __name__ == "__main__":
    sys.exit(main())
