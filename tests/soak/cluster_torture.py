"""Kills one primary of a cluster after the other while clients write and poll, and judges whether anything was untrue.

    python tests/soak/cluster_torture.py --runs 20 [--writers 30] [--seed N]

The service (the installed command) is on a Valkey cluster of three primaries with a replica each, and acknowledges a
write once one replica has it. In each run a random primary gets SIGKILL under load; once its replica has taken over it
is started again, and joins as a replica. The service is never restarted. Polls are told apart by whose jobs they ask
for: those of the other primaries must go on, those of the killed one may be answered 503 with Retry-After for ten
seconds at most, and never 404. What every client did and saw makes one history, which `harness.history` judges at the
end. Exits with 0 when nothing was wrong, else with 1.
"""

import argparse
import asyncio
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else it remarks on each start of the service

import uvloop
from harness import valkey
from harness.history import History
from harness.patient_load import LIMIT_SECONDS, PatientLoad, Polled, clients, ended, writes_in_words
from harness.service import Process
from harness.verdict import verdict
from harness.waiting import until
from jobstatus.stores.redis.keys import Keys, bucket_of
from rich.console import Console
from rich.table import Table

HEALED_SECONDS: Final = 10.0
ENOUGH: Final = 60
"""How many jobs must have ended before a kill, and after all is well again."""
A_FEW: Final = 20
"""One poll of so many may be refused by another primary: one that stands still for a second is as good as gone."""

_BUCKETS: Final = Keys("any").buckets


@cache
def slot_of(job_id: str) -> int:
    return _BUCKETS[bucket_of(job_id.encode())].slot


@dataclass(slots=True, kw_only=True)
class Run:
    """What one kill did. Seconds are since the kill."""

    number: int
    others_answered: int = 0
    others_refused: int = 0
    others_slowest: float = 0.0
    own_answered: int = 0
    own_refused: int = 0
    served_again: float = 0.0
    whole_again: float = 0.0
    jobs: int = 0


@dataclass(slots=True, kw_only=True)
class Report:
    """What was done, and what was wrong."""

    seed: int
    runs: list[Run] = field(default_factory=list)
    history: History = field(default_factory=History)
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def violations_of(self, run: Run) -> int:
        return sum(wrong.startswith(f"run-{run.number}-") for wrong in self.violations)


class Torture:
    """All runs upon one cluster and one service."""

    def __init__(self, folder: Path, *, runs: int, writers: int, seed: int, on_run: Callable[[Run], None]) -> None:
        """`folder` gets the service's files; `on_run` is told after each run."""
        self._folder = folder
        self._runs = runs
        self._writers = writers
        self._chance = random.Random(seed)
        self._on_run = on_run
        self._report = Report(seed=seed)
        self._cluster = valkey.Cluster()

    async def run(self) -> Report:
        """The report; what went wrong is in it. Raises TimeoutError when something takes longer than it may."""
        began, report = time.monotonic(), self._report
        try:
            await asyncio.to_thread(self._cluster.start)
            environment = {"STORE": self._cluster.url(), "REDIS_REPLICAS": "1"}
            async with Process(self._folder, **environment) as process:
                ports = {"http_port": process.port("HTTP"), "grpc_port": process.port("GRPC")}
                load = PatientLoad(report.history, self._chance, **ports)
                try:
                    for number in range(1, self._runs + 1):
                        names = (f"run-{number}-{index}" for index in itertools.count())
                        async with clients(load, names, self._writers):
                            report.runs.append(await self._one(load, number))
                        report.runs[-1].jobs = len(load.created) - sum(run.jobs for run in report.runs[:-1])
                        self._on_run(report.runs[-1])
                    await load.look_at(load.created)
                finally:
                    await load.close()
        finally:
            await asyncio.to_thread(self._cluster.remove)
        report.violations = await asyncio.to_thread(report.history.violations)
        report.seconds = time.monotonic() - began
        return report

    async def _one(self, load: PatientLoad, number: int) -> Run:
        """Kill a primary, wait until its jobs are polled again, start it, and wait until all is well."""
        await ended(load, ENOUGH)
        primaries = await asyncio.to_thread(self._cluster.primaries)
        victim = self._chance.choice(primaries)
        slots = await asyncio.to_thread(self._slots_of, victim)
        first = len(load.polls)
        killed_at = time.monotonic()
        victim.kill()
        await until(lambda: _is_served(load.polls[first:], slots, killed_at), LIMIT_SECONDS)
        await asyncio.to_thread(victim.start)
        await asyncio.to_thread(self._cluster.wait)
        run = Run(number=number, whole_again=time.monotonic() - killed_at)
        await ended(load, ENOUGH)
        _tell(run, load.polls[first:], slots, killed_at)
        return run

    def _slots_of(self, server: valkey.Server) -> set[int]:
        return {bucket.slot for bucket in _BUCKETS if self._cluster.owner(bucket.slot) is server}


def _is_served(polls: list[Polled], slots: set[int], killed_at: float) -> bool:
    """Whether the jobs of the killed one are answered again, by what another server knows."""
    own = [poll.status for poll in polls if slot_of(poll.job_id) in slots]
    return 503 in own and own[-10:].count(503) == 0 and time.monotonic() - killed_at > valkey.NODE_TIMEOUT_MS / 1000


def _tell(run: Run, polls: list[Polled], slots: set[int], killed_at: float) -> None:
    """Sum up the polls that were asked after the kill."""
    own = [poll for poll in polls if slot_of(poll.job_id) in slots]
    others = [poll for poll in polls if slot_of(poll.job_id) not in slots]
    run.own_refused = sum(poll.status == 503 for poll in own)
    run.own_answered = len(own) - run.own_refused
    run.served_again = (
        max((poll.at + poll.seconds for poll in own if poll.status == 503), default=killed_at) - killed_at
    )
    run.others_refused = sum(poll.status == 503 for poll in others)
    run.others_answered = len(others) - run.others_refused
    run.others_slowest = max((poll.seconds for poll in others), default=0.0)


def problems(report: Report) -> list[str]:
    """All that was not as it should be."""
    found = list(report.violations)
    for run in report.runs:
        if run.others_refused > run.others_answered // A_FEW:
            found.append(f"run {run.number}: {run.others_refused} polls of other primaries were refused")
        if run.served_again > HEALED_SECONDS:
            found.append(f"run {run.number}: polls were refused for {run.served_again:.1f} s")
    return found


def table_of(report: Report) -> Table:
    """The report for a person."""
    table = Table(title="A primary killed under load, one replica required")
    columns = ("run", "jobs", "others: polls", "503", "slowest", "killed: polls", "503", "until", "whole", "wrong")
    for name in columns:
        table.add_column(name, justify="right")
    for run in report.runs:
        table.add_row(
            *(f"{run.number}", f"{run.jobs}", f"{run.others_answered}", f"{run.others_refused}"),
            *(f"{run.others_slowest * 1000:.0f} ms", f"{run.own_answered}", f"{run.own_refused}"),
            *(f"{run.served_again:.1f} s", f"{run.whole_again:.1f} s", f"{report.violations_of(run)}"),
        )
    table.add_section()
    table.caption = (
        f"seed {report.seed}: {writes_in_words(report.history)}; {len(report.violations)} violations"
        f" in {report.seconds:.0f} s"
    )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="how many primaries are killed, one after the other")
    parser.add_argument("--writers", type=int, default=30, help="how many clients write at a time")
    parser.add_argument("--seed", type=int, default=None, help="repeats the choices of an earlier run")
    given = parser.parse_args()
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    console = Console()

    def show(run: Run) -> None:
        console.print(f"run {run.number}: served again after {run.served_again:.1f} s", style="dim")

    with (
        tempfile.TemporaryDirectory(prefix="cluster-torture-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        torture = Torture(Path(folder), runs=given.runs, writers=given.writers, seed=seed, on_run=show)
        report = runner.run(torture.run())
    return verdict(console, table_of(report), problems(report))


if __name__ == "__main__":
    sys.exit(main())
