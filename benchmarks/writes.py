"""Durable writes over gRPC, one by one and in batches, beside a handler of grpc.aio that does nothing.

The handler takes the same messages and answers as much; it cannot be had for less with grpc.aio. All take their turn in
each round. How often stable storage is waited for is counted in a round of its own, since to count disturbs.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks import syncs
from benchmarks.child import generating
from benchmarks.figures import P50, P99, Collected, Options, Series
from benchmarks.servers import EDGE, NAMES, Target, behind, python_server, started, store_url
from benchmarks.write_load import BATCH, BATCHED, KINDS

NAME: Final = "writes"
EMPTY: Final = "empty handler"
CPU: Final = "CPU time a write"
FOR_EACH_CPU_SECOND: Final = "durable writes for each CPU second"
BEHIND: Final = "CPU time a write, of the store's servers"
RATE: Final = "writes in each second"
BUSY: Final = "how busy the load generator was"
SYNCS: Final = "syncs of stable storage for each write"
_SINGLE_WRITES: Final = 10_000
_BATCHED_WRITES: Final = 40 * BATCH
_QUICK: Final = 10
"""How many times fewer writes are made in a quick try."""
_STEP_SECONDS: Final = 180.0
_COUNTED: Final = ("CreateJob", "BatchWrite of CreateJob")


class Subject(NamedTuple):
    """Who is written to, and on which port."""

    target: Target
    port: int


class Found(NamedTuple):
    """What came of a round with one kind of write."""

    writes: int
    seconds: float
    p50_ms: float
    p99_ms: float
    busy: float
    cpu_seconds: float
    behind_seconds: float

    def add_to(self, collected: Collected, kind: str, name: str) -> None:
        """As values of a round."""
        subject = _named(kind, name)
        collected.add(subject, CPU, "µs", self.cpu_seconds / self.writes * 1e6)
        collected.add(subject, RATE, "writes/s", self.writes / self.seconds)
        collected.add(subject, P50, "ms", self.p50_ms)
        collected.add(subject, P99, "ms", self.p99_ms)
        if kind in BATCHED and name != EMPTY:
            collected.add(subject, FOR_EACH_CPU_SECOND, "writes", self.writes / self.cpu_seconds, is_compared=False)
        if self.behind_seconds:
            collected.add(subject, BEHIND, "µs", self.behind_seconds / self.writes * 1e6, is_compared=False)
        collected.add(subject, BUSY, "% of a core", self.busy * 100, is_compared=False)


async def measure(options: Options) -> list[Series]:
    stores = [kind for kind in options.stores if kind != EDGE]
    collected = Collected(NAME)
    async with AsyncExitStack() as stack:
        subjects = [await stack.enter_async_context(_empty(options.folder))]
        subjects += [await stack.enter_async_context(_service(kind, options.folder / kind)) for kind in stores]
        for number in options.each_round("writes: writing"):
            prefix = secrets.token_hex(14)
            for kind in KINDS:
                for subject in subjects:
                    found = await write(subject, kind, prefix, options)
                    if number:
                        found.add_to(collected, kind, subject.target.name)
    for store in options.track(stores, "writes: counting syncs"):
        await _count_syncs(store, options, collected)
    return collected.series({_named(kind, NAMES[store]): _named(kind, EMPTY) for kind in KINDS for store in stores})


def _named(kind: str, subject: str) -> str:
    return f"{kind}, {subject}"


@asynccontextmanager
async def _empty(folder: Path) -> AsyncIterator[Subject]:
    async with python_server("empty_grpc", name=EMPTY, folder=folder) as target:
        yield Subject(target, target.port)


@asynccontextmanager
async def _service(kind: str, folder: Path, under: tuple[str, ...] = ()) -> AsyncIterator[Subject]:
    """The service upon an empty store of this kind."""
    store = _store_in(folder, kind)
    async with started(NAMES[kind], folder, "serve", under, STORE=store) as (target, told):
        yield Subject(replace(target, behind=behind(kind)), int(told["grpc"].rpartition(":")[2]))


def _store_in(folder: Path, kind: str) -> str:
    folder.mkdir()
    return store_url(kind, folder)


async def write(subject: Subject, kind: str, prefix: str, options: Options) -> Found:
    """Have a process of its own make the writes. Raises RuntimeError when one of them fails."""
    writes = (_BATCHED_WRITES if kind in BATCHED else _SINGLE_WRITES) // (_QUICK if options.quick else 1)
    job_ids = f"{prefix}-{'batched' if kind in BATCHED else 'single'}"
    async with generating("write_load", str(subject.port), kind, job_ids, str(writes)) as generator:
        await generator.said()
        cpu, cpu_behind = subject.target.cpu_seconds(), subject.target.cpu_seconds_behind()
        await generator.go_on()
        said = await generator.said()
    return Found(
        **said,
        cpu_seconds=subject.target.cpu_seconds() - cpu,
        behind_seconds=subject.target.cpu_seconds_behind() - cpu_behind,
    )


async def _count_syncs(store: str, options: Options, collected: Collected) -> None:
    """On a service of its own for each kind of write, whose syncs are all known once it has ended."""
    if syncs.why_not(store) is not None:
        return
    for kind in _COUNTED:
        folder = options.folder / f"syncs-{store}-{kind.partition(' ')[0]}"
        log = folder.with_suffix(".log")
        log.touch()
        under = syncs.tracing_command(log) if store == "sqlite" else ()
        async with syncs.counting(store, log) as count:
            async with _service(store, folder, under) as subject:
                before = await count(False)
                found = await write(subject, kind, secrets.token_hex(14), options)
            counted = await count(True) - before
        collected.add(_named(kind, NAMES[store]), SYNCS, "syncs", counted / found.writes, is_compared=False)
