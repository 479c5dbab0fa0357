"""Ten thousand requests, or as many as --waiters says, that wait for a job each, of which 500 end each second.

The delay is from the worker's OK to the last byte that the client reads, both in one process. At most ten thousand jobs
end; the other requests go on waiting. A service is started anew for every round, so that its memory, and the cost of a
plain poll, before anybody waits and while all do can be compared.

A process that has more than ten thousand connections needs a limit of open files that is higher by a few hundred.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from harness.http import request
from harness.waiting import until

from benchmarks.child import Generator, generating
from benchmarks.figures import Collected, Options, Series
from benchmarks.servers import EDGE, NAMES, Target, python_server, started, store_url
from benchmarks.waiting_load import WAIT_SECONDS

NAME: Final = "waiting"
BARE: Final = "bare aiohttp, told over HTTP"
CPU: Final = "CPU time of a wait, from connecting to its answer"
P50: Final = "from the worker's OK to the last byte, median"
P99: Final = "from the worker's OK to the last byte, 99 of 100"
MEMORY: Final = "memory for each that waits"
LOST: Final = "answers lost"
TWICE: Final = "answers that came twice"
POLL_ALONE: Final = "CPU time of a plain poll, before anybody waits"
POLL_BESIDE: Final = "CPU time of a plain poll, beside those that wait"
RATE: Final = 500
ENDED: Final = 10_000
"""How many of the jobs end, at most."""
_POLLS: Final = 5000
_WARMING: Final = 1000


class Subject(NamedTuple):
    """Whom to ask: the reference where there is no address for gRPC."""

    target: Target
    grpc: str | None
    admin_port: int | None


async def measure(options: Options) -> list[Series]:
    waiters = options.waiters
    collected = Collected(NAME)
    names = {kind: NAMES[kind] for kind in options.stores}
    for number in options.each_round("waiting: asking, then ending the jobs"):
        count = waiters if number else min(waiters, _WARMING)
        for kind in ("bare", *options.stores):
            folder = options.folder / f"{kind}-{number}"
            folder.mkdir()
            async with _subject(kind, folder, waiters) as subject:
                await _measure_one(subject, count, number, options, collected if number else Collected(NAME))
    return collected.series(dict.fromkeys(names.values(), BARE))


@asynccontextmanager
async def _subject(kind: str, folder: Path, waiters: int) -> AsyncIterator[Subject]:
    most = str(2 * waiters + 1000)
    room = {"MAX_CONNECTIONS": most, "MAX_WAITING_POLLS": most, "MAX_WAIT_SECONDS": str(WAIT_SECONDS)}
    room["MAX_WAITING_POLLS_EACH"] = room["MAX_WAITING_POLLS"]
    if kind == "bare":
        async with python_server("bare_waiting", name=BARE, folder=folder) as target:
            yield Subject(target, None, None)
        return
    async with started(NAMES[kind], folder, "serve", STORE=store_url(kind, folder), **room) as (target, told):
        if kind != EDGE:
            yield Subject(target, told["grpc"], _port(told["admin"]))
            return
        async with started(NAMES[kind], folder, "edge", UPSTREAM=told["grpc"], **room) as (edge, front):
            yield Subject(edge, told["grpc"], _port(front["admin"]))


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


async def _measure_one(subject: Subject, waiters: int, number: int, options: Options, collected: Collected) -> None:
    words = ["--http", str(subject.target.port), "--prefix", f"job-{number}", "--waiters", str(waiters)]
    words += ["--credentials", str(options.credentials), "--rate", str(RATE), "--ended", str(ENDED)]
    words += ["--polls", str(_POLLS)]
    words += ["--grpc", subject.grpc] if subject.grpc else []
    async with generating("waiting_load", *words) as generator:
        await generator.said()
        alone = await _polls_cost(subject, generator)
        memory, cpu = subject.target.resident_bytes(), subject.target.cpu_seconds()
        await generator.go_on()
        await generator.said()
        if subject.admin_port is not None:
            await until(partial(_is_waiting, subject.admin_port, waiters))
        memory = subject.target.resident_bytes() - memory
        cpu = subject.target.cpu_seconds() - cpu
        beside = await _polls_cost(subject, generator)
        cpu -= subject.target.cpu_seconds()
        await generator.go_on()
        found = await generator.said()
        cpu += subject.target.cpu_seconds()
    name = subject.target.name
    collected.add(name, CPU, "µs", cpu / waiters * 1e6)
    if subject.grpc is not None:
        collected.add(name, POLL_ALONE, "µs", alone, is_compared=False)
        collected.add(name, POLL_BESIDE, "µs", beside, is_compared=False)
    collected.add(name, P50, "ms", found["p50_ms"], is_compared=False)
    collected.add(name, P99, "ms", found["p99_ms"], is_compared=False)
    collected.add(name, MEMORY, "kB", memory / waiters / 1e3)
    collected.add(name, LOST, "of all", found["lost"], is_compared=False)
    collected.add(name, TWICE, "of all", found["twice"], is_compared=False)


async def _polls_cost(subject: Subject, generator: Generator) -> float:
    """The CPU time of a plain poll in µs, while nothing else is asked."""
    cpu = subject.target.cpu_seconds()
    await generator.go_on()
    await generator.said()
    return (subject.target.cpu_seconds() - cpu) / _POLLS * 1e6


async def _is_waiting(admin_port: int, waiters: int) -> bool:
    metrics = (await request(admin_port, "/metrics")).body.decode()
    return f"\njobstatus_waiting_polls {waiters}.0\n" in metrics
