"""Polls on SQLite while other clients write: 500 and 2,000 writes a second, beside a service that writes nothing.

The polls come by a timetable, so that their latency is not that of a queue which the load itself made. The processor
time of a poll is that of the process with polls and writes, less that with the same writes and no polls.
"""

import asyncio
import secrets
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.child import generating
from benchmarks.figures import CPU, P50, P99, Collected, Options, Series
from benchmarks.load import write_requests
from benchmarks.servers import Target, started, store_url
from benchmarks.workload import Workload, seed

NAME: Final = "beside_writes"
RATES: Final = (0, 500, 2000)
"""Writes a second."""
P999: Final = "latency, 999 of 1000"
WRITES_P99: Final = "latency of a call that writes, 99 of 100"
WRITING: Final = "CPU time of the writes in a second"
_POLLS: Final = 400
"""A second: few enough for the service to be idle most of the time."""
_LONGEST: Final = 3
"""How many times longer than the other sections a step is, because a p99 needs many polls."""


class Found(NamedTuple):
    """What came of a step."""

    polls: dict[str, float]
    writes: dict[str, float]
    cpu_seconds: float


def subject_of(rate: int) -> str:
    """The name of the row."""
    return f"{rate} writes a second" if rate else "no writes"


async def measure(options: Options) -> list[Series]:
    workload = Workload(jobs=options.jobs, credentials=options.credentials)
    requests = write_requests(options.folder / "requests", workload.requests())
    store = store_url("sqlite", options.folder)
    await seed(store, workload, options)
    collected = Collected(NAME)
    seconds = float(options.seconds * _LONGEST)
    async with started("SQLite", options.folder, "serve", STORE=store) as (target, told):
        port = int(told["grpc"].rpartition(":")[2])
        for number in options.each_round("beside_writes: asking"):
            for rate in RATES:
                alone = await _step(target, port, None, rate, seconds)
                both = await _step(target, port, requests, rate, seconds)
                if number:
                    _add(collected, subject_of(rate), both, alone, seconds)
    return collected.series({subject_of(rate): subject_of(0) for rate in RATES if rate})


def _add(collected: Collected, subject: str, both: Found, alone: Found, seconds: float) -> None:
    collected.add(subject, CPU, "µs", (both.cpu_seconds - alone.cpu_seconds) / both.polls["asked"] * 1e6)
    collected.add(subject, P50, "ms", both.polls["p50_ms"])
    collected.add(subject, P99, "ms", both.polls["p99_ms"])
    collected.add(subject, P999, "ms", both.polls["p999_ms"])
    if both.writes:
        collected.add(subject, WRITES_P99, "ms", both.writes["p99_ms"], is_compared=False)
        collected.add(subject, WRITING, "ms", alone.cpu_seconds / seconds * 1e3, is_compared=False)


async def _step(target: Target, port: int, requests: Path | None, rate: int, seconds: float) -> Found:
    """Poll, write, both or neither for so long."""
    async with AsyncExitStack() as stack:
        generators = {}
        if requests is not None:
            words = ("polls", str(target.port), str(requests), str(_POLLS), str(seconds))
            generators["polls"] = await stack.enter_async_context(generating("paced_load", *words))
        if rate:
            words = ("writes", str(port), secrets.token_hex(14), str(rate), str(seconds))
            generators["writes"] = await stack.enter_async_context(generating("paced_load", *words))
        for generator in generators.values():
            await generator.said()
        before = target.cpu_seconds()
        for generator in generators.values():
            await generator.go_on()
        if not generators:
            await asyncio.sleep(seconds)
        said = {name: await generator.said() for name, generator in generators.items()}
        return Found(said.get("polls", {}), said.get("writes", {}), target.cpu_seconds() - before)
