"""This checkout beside another one.

Both serve the same jobs on SQLite, and take turns: in each round each row is asked of both, in turns who is first. To
add a row, write a coroutine function of a Subject that returns Figures, and name it in ROWS.
"""

import argparse
import asyncio
import os
import secrets
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from jobstatus.client import CompleteJob, CreateJob, JobStatusClient, RequestType, Write

from benchmarks.child import generating
from benchmarks.figures import CPU, P50, Collected, Options, Series
from benchmarks.outcomes import cpu_us_of_poll, polls_by_outcome
from benchmarks.servers import ROOT, Target, environment, started
from benchmarks.workload import (
    KINDS_OF_CREDENTIALS,
    Workload,
    credential_line,
    job_id_of,
    poll_request,
    result_of,
)
from benchmarks.write_load import BATCHED
from benchmarks.writes import CPU as CPU_OF_WRITE
from benchmarks.writes import Subject as Written
from benchmarks.writes import write

NAME: Final = "against"
WHOLE: Final = "CPU time of the whole process"
STARTED: Final = "time from the command to the line that says serving"
_MOST_JOBS: Final = 20_000
_CREDENTIALS: Final = 4 * KINDS_OF_CREDENTIALS
_BATCH: Final = 500
_LARGE: Final = 1024 * 1024
_LARGE_ID: Final = "large"
_LARGE_CONNECTIONS: Final = 32
_CALLERS: Final = 128
_WRITES_OF_EACH: Final = 40
_WRITES_ALONE: Final = 1000
_COMMANDS: Final = 5
_STARTS: Final = 3
_QUICK: Final = 10
"""How many times less is done in a quick try."""


class Build(NamedTuple):
    """A checkout with its environment."""

    name: str
    root: Path

    def program(self, name: str) -> Path:
        """Of its environment."""
        return self.root / ".venv" / "bin" / name


class Subject(NamedTuple):
    """A build, a service of it that runs on SQLite, and what to ask that."""

    build: Build
    folder: Path
    """Of this build alone."""
    target: Target
    grpc: str
    """The address of its service for gRPC."""
    polls: Mapping[str, bytes]
    """A request by the outcome that it has."""


class Figure(NamedTuple):
    """What a row found in one round."""

    subject: str
    measure: str
    unit: str
    value: float


Row = Callable[[Subject, Options], Awaitable[list[Figure]]]


async def polls(subject: Subject, options: Options) -> list[Figure]:
    """A poll by its outcome."""
    return [
        Figure(f"poll: {outcome}", CPU, "µs", await cpu_us_of_poll(subject.target, outcome, request, options))
        for outcome, request in subject.polls.items()
    ]


async def large(subject: Subject, options: Options) -> list[Figure]:
    """A poll of a result of 1 MB, with so few in flight that they are not all that one credential may hold."""
    options = replace(options, connections=min(options.connections, _LARGE_CONNECTIONS))
    request = poll_request(_LARGE_ID, credential_line(KINDS_OF_CREDENTIALS - 1))
    return [Figure("poll: 200, 1 MB", CPU, "µs", await cpu_us_of_poll(subject.target, "200", request, options))]


async def callers(subject: Subject, options: Options) -> list[Figure]:
    """CompleteJob by many callers of one client, the build's own."""
    return await _complete(subject, f"CompleteJob, {_CALLERS} callers", _CALLERS, _WRITES_OF_EACH, options)


async def alone(subject: Subject, options: Options) -> list[Figure]:
    """CompleteJob by one caller."""
    return await _complete(subject, "CompleteJob, one caller", 1, _WRITES_ALONE, options)


async def _complete(subject: Subject, name: str, count: int, writes: int, options: Options) -> list[Figure]:
    writes = max(2, writes // (_QUICK if options.quick else 1))
    python = str(subject.build.program("python"))
    async with generating("client_load", subject.grpc, str(count), str(writes), python=python) as generator:
        await generator.said()
        before = subject.target.cpu_seconds()
        await generator.go_on()
        said = await generator.said()
    cpu_us = (subject.target.cpu_seconds() - before) / (count * writes) * 1e6
    return [Figure(name, CPU_OF_WRITE, "µs", cpu_us), Figure(name, P50, "ms", said["p50_ms"])]


async def batches(subject: Subject, options: Options) -> list[Figure]:
    """BatchWrite of 500 creations, and of 500 completions of the same jobs."""
    prefix = secrets.token_hex(14)
    written = Written(subject.target, int(subject.grpc.rpartition(":")[2]))
    figures = []
    for kind in BATCHED:
        found = await write(written, kind, prefix, options)
        figures.append(Figure(kind, CPU_OF_WRITE, "µs", found.cpu_seconds / found.writes * 1e6))
    return figures


async def commands(subject: Subject, options: Options) -> list[Figure]:
    """`jobstatus jobs get` of a job that has ended."""
    words = ("jobs", "get", job_id_of(1), "--grpc", subject.grpc)
    count = 1 if options.quick else _COMMANDS
    spent = [await asyncio.to_thread(_cpu_seconds_of, subject.build, words) for _ in range(count)]
    return [Figure("jobstatus jobs get", WHOLE, "ms", median(spent) * 1e3)]


def _cpu_seconds_of(build: Build, words: tuple[str, ...]) -> float:
    """Raises RuntimeError when the command fails."""
    program = str(build.program("jobstatus"))
    to_nowhere = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(program, (program, *words), environment(), file_actions=to_nowhere)
    _, status, used = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(words)} of {build.name} failed")
    return used.ru_utime + used.ru_stime


async def starts(subject: Subject, options: Options) -> list[Figure]:
    """`jobstatus serve` with an empty store, until it serves."""
    found = [await _start(subject) for _ in range(1 if options.quick else _STARTS)]
    seconds, cpu_seconds = (median(values) for values in zip(*found, strict=True))
    return [
        Figure("jobstatus serve", WHOLE, "ms", cpu_seconds * 1e3),
        Figure("jobstatus serve", STARTED, "ms", seconds * 1e3),
    ]


async def _start(subject: Subject) -> tuple[float, float]:
    folder = subject.folder / secrets.token_hex(4)
    folder.mkdir()
    began_at = time.perf_counter()
    async with _service(subject.build, folder) as (target, _):
        return time.perf_counter() - began_at, target.cpu_seconds()


ROWS: Final[Mapping[str, Row]] = {
    "polls": polls,
    "large": large,
    "callers": callers,
    "alone": alone,
    "batches": batches,
    "commands": commands,
    "starts": starts,
}


def checkout(text: str) -> Path:
    """The folder of a checkout with an environment; for argparse."""
    root = Path(text).resolve()
    if not Build("", root).program("jobstatus").exists():
        raise argparse.ArgumentTypeError(f"{text} has no .venv/bin/jobstatus: run `make install` there")
    return root


async def measure(options: Options) -> list[Series]:
    assert options.against is not None
    builds = (Build("this checkout", ROOT), Build(_name_of(options.against), options.against))
    collected = Collected(NAME)
    async with AsyncExitStack() as stack:
        subjects = [await stack.enter_async_context(_subject(build, options)) for build in builds]
        for number in options.each_round(f"{NAME}: asking"):
            for row in options.rows:
                for subject in subjects if number % 2 else reversed(subjects):
                    for figure in await ROWS[row](subject, options):
                        if number:
                            collected.add(_named(figure.subject, subject.build), *figure[1:])
    made = collected.series()
    references = {_named(one, builds[0]): _named(one, builds[1]) for one in _subjects_of(made)}
    return sorted(collected.series(references), key=lambda series: series.subject.rpartition(", ")[0])


def _named(subject: str, build: Build) -> str:
    return f"{subject}, {build.name}"


def _subjects_of(series: list[Series]) -> list[str]:
    return list(dict.fromkeys(one.subject.rpartition(", ")[0] for one in series))


def _name_of(root: Path) -> str:
    """The commit that is checked out there, or without git the folder's name."""
    words = ("git", "-C", str(root), "rev-parse", "--short", "HEAD")
    try:
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return root.name


@asynccontextmanager
async def _subject(build: Build, options: Options) -> AsyncIterator[Subject]:
    workload = Workload(jobs=min(options.jobs, _MOST_JOBS), credentials=_CREDENTIALS)
    folder = options.folder / build.name.replace(" ", "-")
    served = folder / "served"
    served.mkdir(parents=True)
    async with _service(build, served) as (target, told):
        await _fill(told["grpc"], workload, options)
        yield Subject(build, folder, target, told["grpc"], polls_by_outcome(workload))


@asynccontextmanager
async def _service(build: Build, folder: Path) -> AsyncIterator[tuple[Target, dict[str, Any]]]:
    store = f"sqlite:///{folder / 'jobs.db'}"
    async with started(build.name, folder, "serve", (), build.program("jobstatus"), STORE=store) as running:
        yield running


async def _fill(grpc: str, workload: Workload, options: Options) -> None:
    """Store the jobs and virtual keys over gRPC, which every build understands."""
    async with JobStatusClient(grpc) as client:
        for virtual_key in workload.virtual_keys():
            await client.put_virtual_key(virtual_key.virtual_key_id, key_sha256=virtual_key.key_sha256)
        with options.progress("storing jobs", workload.jobs) as advance:
            for jobs in workload.batches(size=_BATCH):
                await client.batch_write([_creation(job.job_id, job.virtual_key_id) for job in jobs])
                ended: list[Write] = [
                    CompleteJob(job_id=job.job_id, result=job.result) for job in jobs if job.result is not None
                ]
                if ended:
                    await client.batch_write(ended)
                advance(len(jobs))
        await client.batch_write([_creation(_LARGE_ID, None)])
        await client.complete_job(_LARGE_ID, result_of(_LARGE))


def _creation(job_id: str, virtual_key_id: str | None) -> CreateJob:
    return CreateJob(job_id=job_id, request_type=RequestType.TRANSCRIPTION, virtual_key_id=virtual_key_id)
