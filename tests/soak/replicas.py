"""Two services upon one store under load, and whether anybody ever read what was older than what was acknowledged.

    python tests/soak/replicas.py [--stores sqlite postgresql valkey cluster] [--writers 200] [--jobs 10000]

Clients create jobs, start them, send heartbeats and race each other for how each job ends, every call through either
service; others poll and watch through either. What every client did and saw makes one history, which `harness.history`
judges as if there were one service. Exits with 0 when nothing was wrong, else with 1.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import uvloop
from harness import forking
from harness.history import History
from harness.load import Load, until_cancelled
from harness.service import Process, Starting
from harness.stores import SHARED, STORES
from harness.verdict import verdict
from rich.console import Console
from rich.table import Table

REPLICAS = 2
POLLERS = 10
LIMIT_SECONDS = 900


@dataclass(slots=True, kw_only=True)
class Report:
    """What was done on one store, and what was wrong."""

    store: str
    history: History = field(default_factory=History)
    seconds: float = 0
    violations: list[str] = field(default_factory=list)


async def run(
    store: str,
    folder: Path,
    *,
    writers: int,
    jobs: int,
    seed: int,
    starts: Sequence[Starting] = (forking.start,) * REPLICAS,
    also: Callable[[Sequence[Process]], Awaitable[list[str]]] | None = None,
) -> Report:
    """The report; what went wrong is in it. Raises TimeoutError when it takes longer than it may.

    `starts` starts each service, in this order. `also` is awaited after the load; it returns what else is wrong.
    """
    report, chance, began = Report(store=store), random.Random(seed), time.monotonic()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(LIMIT_SECONDS))
        url = STORES[store](folder)
        services = []
        for number, start in enumerate(starts):
            place = folder / str(number)
            place.mkdir()
            service = Process(place, STORE=url)
            service.start_command = start
            services.append(await stack.enter_async_context(service))
        ports = [(service.port("HTTP"), service.port("GRPC")) for service in services]
        load = Load(report.history, chance, http_port=ports[0][0], grpc_port=ports[0][1], others=ports[1:])
        stack.push_async_callback(load.close)
        await _work(load, writers, jobs)
        report.history.faults += [] if also is None else await also(services)
        for service in services:
            service.send(signal.SIGTERM)
        for service in services:
            if code := await service.ended():
                report.history.faults.append(f"a service ended with {code} when it was told to stop")
    report.violations = await asyncio.to_thread(report.history.violations)
    report.seconds = time.monotonic() - began
    return report


async def _work(load: Load, writers: int, jobs: int) -> None:
    """Let the clients work until every job has lived its life, and look at all of them."""
    lives = iter(range(jobs))

    async def write(numbers: Iterator[int]) -> None:
        for number in numbers:
            await load.live([f"job-{number}"])

    pollers = [asyncio.ensure_future(until_cancelled(load.poll)) for _ in range(POLLERS)]
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(writers):
                group.create_task(write(lives))
    finally:
        for task in pollers:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*pollers)
    await load.look_at(load.created)


def table_of(reports: list[Report]) -> Table:
    """The reports for a person."""
    table = Table("store", "calls", "polls", "refused", "no answer", "seconds", "violations")
    for report in reports:
        counts = report.history.count()
        polls = sum(number for (kind, _), number in counts.items() if kind == "poll")
        refused, unknown = (sum(n for (_, end), n in counts.items() if end == word) for word in ("refused", "unknown"))
        figures = (sum(counts.values()), polls, refused, unknown)
        row = [f"{figure:,}" for figure in figures]
        table.add_row(report.store, *row, f"{report.seconds:.0f}", str(len(report.violations)))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", nargs="+", choices=SHARED, default=SHARED)
    parser.add_argument("--writers", type=int, default=200, help="how many clients write at a time")
    parser.add_argument("--jobs", type=int, default=10_000, help="how many jobs live and end, on each store")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    console, reports = Console(), []
    for store in given.stores:
        with (
            tempfile.TemporaryDirectory(prefix="replicas-") as folder,
            console.status(f"{REPLICAS} services on {store}"),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            reports.append(
                runner.run(run(store, Path(folder), writers=given.writers, jobs=given.jobs, seed=given.seed))
            )
    violations = [f"{report.store}: {wrong}" for report in reports for wrong in report.violations]
    return verdict(console, table_of(reports), violations)


if __name__ == "__main__":
    sys.exit(main())
