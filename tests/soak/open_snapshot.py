"""Sweeps of PostgreSQL beside a snapshot that stays open, as of a pg_dump: do they get dearer?

    python tests/soak/open_snapshot.py [--minutes 10]

Each second 500 jobs are made, ended and purged, so that 1,000 dead index entries come that nobody may remove. Prints
what `due` and a purge take in each minute, beside what they took before. Exits with 1 when the last minute is dearer
than ten times that.
"""

import argparse
import asyncio
import statistics
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psycopg
from harness.postgresql import Server
from harness.stores import change, job
from harness.verdict import verdict
from jobstatus.core.job import JobState
from jobstatus.stores import open_store
from rich.console import Console
from rich.table import Table

JOBS: Final = 500
BEFORE: Final = 20
TIMES: Final = 10.0
_numbers = count()

Times = tuple[float, float]
"""Seconds that `due` and a purge took."""


async def sweep(store: Any) -> Times:
    """Make jobs, end them so that they have expired, and sweep."""
    now_ms = time.time_ns() // 1_000_000
    names = [f"job-{next(_numbers)}" for _ in range(JOBS)]
    await store.commit([change(job(name, state=JobState.PROCESSING, due_at_ms=now_ms + 5000)) for name in names])
    ended = {"state": JobState.FAILED, "due_at_ms": None, "expires_at_ms": now_ms - 1}
    await store.commit([change(job(name, version=2, **ended), replaces=1) for name in names])
    began = time.perf_counter()
    await store.due(now_ms, JOBS)
    found = time.perf_counter()
    await store.purge(now_ms, JOBS)
    return found - began, time.perf_counter() - found


async def minute(store: Any) -> list[Times]:
    """Sweep once a second for a minute."""
    times = []
    ends_at = time.monotonic() + 60
    while time.monotonic() < ends_at:
        next_at = time.monotonic() + 1
        times.append(await sweep(store))
        await asyncio.sleep(max(0.0, next_at - time.monotonic()))
    return times


async def run(minutes: int, table: Table) -> list[str]:
    """Add a row for each minute, and return what became dearer."""
    server = Server()
    try:
        server.create().start()
        async with open_store(server.url()) as store:
            before = _middles([await sweep(store) for _ in range(BEFORE)])
            _add(table, "before", before)
            with psycopg.connect(server.url()) as snapshot:
                snapshot.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                snapshot.execute("SELECT count(*) FROM jobstatus.jobs")
                for number in range(1, minutes + 1):
                    last = _middles(await minute(store))
                    _add(table, f"minute {number}", last)
    finally:
        server.remove()
    names = ("due", "purge")
    return [f"{name} is dearer" for name, was, now in zip(names, before, last, strict=True) if now > TIMES * was]


def _middles(times: list[Times]) -> Times:
    return statistics.median(due for due, _ in times), statistics.median(purge for _, purge in times)


def _add(table: Table, when: str, times: Times) -> None:
    table.add_row(when, *(f"{1000 * seconds:.1f} ms" for seconds in times))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=10, choices=range(1, 61), metavar="1..60")
    given = parser.parse_args()
    console, table = Console(), Table("", "due", f"purge of {JOBS}")
    with console.status(f"{given.minutes} minutes beside an open snapshot"):
        problems = asyncio.run(run(given.minutes, table))
    return verdict(console, table, problems)


if __name__ == "__main__":
    sys.exit(main())
