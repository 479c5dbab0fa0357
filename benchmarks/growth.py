"""A poll, a start and memory with ten thousand, a hundred thousand and a million jobs stored on SQLite.

In each round the service is started upon each of three files in turn, polled until it was asked for every job that will
be asked for, and then polled for the figures. The files are copies of one that grows.
"""

import asyncio
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from harness.http import request
from harness.waiting import until

from benchmarks.figures import Collected, Options, Series
from benchmarks.load import load, write_requests
from benchmarks.servers import START_SECONDS, started
from benchmarks.workload import Workload, grow, seed

NAME: Final = "growth"
START: Final = "start, until it says that it is ready"
MEMORY_AT_START: Final = "memory after the start"
MEMORY: Final = "memory after many polls"
_SIZES: Final = (10_000, 100_000, 1_000_000)
_QUICK_SIZES: Final = (1000, 2000, 4000)
_MEGABYTE: Final = 1_000_000
_WARMING: Final = 2
"""How many times as long as for the figures it is polled before: enough for all that a generator asks."""


class Subject(NamedTuple):
    """A file with so many jobs, and what is asked of it."""

    name: str
    store: str
    requests: Path


async def measure(options: Options) -> list[Series]:
    subjects = await _files(options)
    collected = Collected(NAME)
    for number in options.each_round("growth: starting and asking"):
        for subject in subjects:
            await _measure_one(subject, options, collected if number else Collected(NAME))
    smallest, *others = (subject.name for subject in subjects)
    return collected.series(dict.fromkeys(others, smallest))


async def _files(options: Options) -> list[Subject]:
    """One file grows, and is copied whenever it has one of the sizes."""
    sizes = _QUICK_SIZES if options.quick else _SIZES
    growing = options.folder / "growing.db"
    workload = Workload(jobs=0, credentials=options.credentials)
    await seed(f"sqlite:///{growing}", workload, options)
    subjects = []
    for size in sizes:
        stored, workload = workload.jobs, replace(workload, jobs=size)
        await grow(f"sqlite:///{growing}", workload, options, stored)
        path = options.folder / f"{size}.db"
        await asyncio.to_thread(shutil.copyfile, growing, path)
        requests = write_requests(options.folder / f"{size}.requests", workload.requests())
        subjects.append(Subject(f"{size:,} jobs", f"sqlite:///{path}", requests))
    growing.unlink()
    return subjects


async def _measure_one(subject: Subject, options: Options, collected: Collected) -> None:
    """Start the service, poll it, and end it."""
    began_at = time.perf_counter()
    async with started(subject.name, options.folder, "serve", STORE=subject.store) as (target, told):
        await _until_ready(int(told["admin"].rpartition(":")[2]))
        took = time.perf_counter() - began_at
        at_start = target.resident_bytes()
        await load(target, subject.requests, connections=options.connections, seconds=_WARMING * options.seconds)
        found = await load(target, subject.requests, connections=options.connections, seconds=options.seconds)
        found.add_to(collected, subject.name)
        collected.add(subject.name, START, "s", took)
        collected.add(subject.name, MEMORY_AT_START, "MB", at_start / _MEGABYTE)
        collected.add(subject.name, MEMORY, "MB", target.resident_bytes() / _MEGABYTE)


async def _until_ready(admin_port: int) -> None:
    async def is_ready() -> bool:
        return (await request(admin_port, "/readyz")).status == 200

    await until(is_ready, START_SECONDS)
