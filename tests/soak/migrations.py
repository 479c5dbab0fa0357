"""Moves jobs from SQLite to PostgreSQL, on to a cluster and back to SQLite, and looks whether any poll would notice.

    python tests/soak/migrations.py [--jobs 200000]

Jobs in every state with results of many sizes are copied by the installed command. Before and after each copy every job
is polled (by the code that answers REST, upon the store) and the bytes of all answers make one digest: it must stay the
same. Prints how long each copy took. Exits with 0 when nothing was wrong, else with 1.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import uvloop
from harness.service import COMMAND
from harness.stores import STORES, IgnoringObserver
from jobstatus.core.access import Principal
from jobstatus.core.answer import RESULT_TAIL, render
from jobstatus.core.commands import Command, CompleteJob, CreateJob, FailJob, StartJob
from jobstatus.core.job import ErrorField, Job, JobError, RequestType
from jobstatus.core.poll import Poller
from jobstatus.core.rules import Policy, decide
from jobstatus.core.store import Change
from jobstatus.stores import open_store
from rich.console import Console
from rich.table import Table

ROUTE: Final = ("sqlite", "postgresql", "cluster", "sqlite")
BATCH: Final = 1000
SIZES: Final = (10, 10, 100, 1_000, 1_000, 20_000)
ADMIN: Final = Principal(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One copy: from where to where, what the command said, and the digest of all polls afterwards."""

    name: str
    code: int
    report: dict[str, Any]
    digest: str


def jobs(count: int, seed: int) -> Iterator[Job]:
    """Jobs as the rules make them: a fifth pending, a fifth processing, the others ended."""
    chance, now_ms = random.Random(seed), time.time_ns() // 1_000_000
    for number in range(count):
        job_id = f"job-{number}"
        kind = chance.choice(list(RequestType))
        steps: list[Command] = [
            CreateJob(job_id=job_id, request_type=kind, virtual_key_id=f"vk-{number % 100}", result_ttl_ms=86_400_000)
        ]
        if number % 5 > 0:
            steps.append(StartJob(job_id=job_id, worker_id="worker", lease_ms=3_600_000))
        if number % 5 > 2:
            result = json.dumps({"text": f"{number} ü 🎧", "more": "x" * chance.choice(SIZES)}).encode()
            steps.append(CompleteJob(job_id=job_id, attempt=1, result=result))
        elif number % 5 == 2:
            error = JobError(error=ErrorField(message=f"{number} did not work"))
            steps.append(FailJob(job_id=job_id, attempt=1, error=error))
        job = None
        for step in steps:
            job, refusal = decide(job, step, now_ms + number, Policy())
            assert refusal is None
        assert job is not None
        yield job


async def fill(url: str, count: int, seed: int) -> dict[str, RequestType]:
    """Store the jobs; their ids and types."""
    stored: dict[str, RequestType] = {}
    async with open_store(url) as store:
        batch: list[Change] = []
        for job in jobs(count, seed):
            stored[job.job_id] = job.request_type
            batch.append(Change(job_id=job.job_id, replaces=0, job=job, answer=render(job)))
            if len(batch) == BATCH or len(stored) == count:
                assert await store.commit(batch) == {}
                batch = []
    return stored


async def poll_all(url: str, stored: dict[str, RequestType]) -> str:
    """The digest of what polls of all jobs answer, in their order."""
    digest = hashlib.sha256()
    async with open_store(url) as store:
        poller = Poller(
            store, clock=lambda: time.time_ns() // 1_000_000, observer=IgnoringObserver(), unscoped_for_all=False
        )
        names = list(stored)
        for first in range(0, len(names), BATCH):
            part = names[first : first + BATCH]
            for poll in await asyncio.gather(*(poller.poll(name, stored[name], ADMIN) for name in part)):
                body = poll.body
                if poll.large_result is not None:
                    body += await poller.read_result(poll.large_result) + RESULT_TAIL
                digest.update(b"%d %d " % (poll.is_terminal, len(body)) + body)
    return digest.hexdigest()[:16]


async def run(count: int, seed: int, folder: Path, on_leg: Callable[[Leg], None]) -> tuple[str, list[Leg]]:
    """The digest before the first copy, and each copy."""
    urls = [STORES[kind](folder / str(number)) for number, kind in enumerate(ROUTE)]
    for number in range(len(ROUTE)):
        (folder / str(number)).mkdir()
    stored = await fill(urls[0], count, seed)
    before, legs = await poll_all(urls[0], stored), []
    for number in range(1, len(ROUTE)):
        child = await asyncio.create_subprocess_exec(
            *(COMMAND, "migrate", "--json", urls[number - 1], urls[number]),
            env={name: value for name, value in os.environ.items() if not name.startswith("JOBSTATUS_")},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await child.communicate()
        leg = Leg(
            name=f"{ROUTE[number - 1]} → {ROUTE[number]}",
            code=child.returncode or 0,
            report=json.loads(output) if output else {},
            digest=await poll_all(urls[number], stored),
        )
        legs.append(leg)
        on_leg(leg)
    return before, legs


def table_of(count: int, before: str, legs: list[Leg]) -> Table:
    """The copies for a person."""
    columns = ("copy", "jobs", "seconds", "jobs a second", "not arrived", "digest of all polls")
    table = Table(*columns, title=f"{count:,} jobs", caption=f"digest before the first copy: {before}")
    for leg in legs:
        seconds = leg.report["seconds"]
        figures = (f"{leg.report['copied']:,}", f"{seconds:.1f}", f"{leg.report['copied'] / seconds:,.0f}")
        table.add_row(leg.name, *figures, str(len(leg.report["wrong"])), leg.digest)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="migrations-") as folder,
        console.status("storing jobs") as status,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        moves = run(given.jobs, given.seed, Path(folder), lambda leg: status.update(f"{leg.name} is done"))
        before, legs = runner.run(moves)
    console.print(table_of(given.jobs, before, legs))
    return 0 if all(leg.code == 0 and leg.digest == before for leg in legs) else 1


if __name__ == "__main__":
    sys.exit(main())
