"""Polls and writes of a service with one serving process and with two, on every store.

Both services use one store and take turns. The load generator has a process of its own, so that two serving processes
and it want three cores, besides what the store's servers take: the report says how busy it was.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.figures import Collected, Options, Series
from benchmarks.load import load, write_requests
from benchmarks.servers import EDGE, NAMES, behind, started, store_url
from benchmarks.workload import Workload, seed
from benchmarks.writes import Subject, write

NAME: Final = "processes"
COUNTS: Final = (1, 2)
_KIND: Final = "CreateJob"


async def measure(options: Options) -> list[Series]:
    workload = Workload(jobs=options.jobs, credentials=options.credentials)
    requests = write_requests(options.folder / "requests", workload.requests())
    collected = Collected(NAME)
    async with AsyncExitStack() as stack:
        services: dict[tuple[str, int], Subject] = {}
        for kind in (kind for kind in options.stores if kind != EDGE):
            folder = options.folder / kind
            folder.mkdir()
            store = store_url(kind, folder)
            await seed(store, workload, options)
            for count in COUNTS:
                services[kind, count] = await stack.enter_async_context(_service(kind, folder, store, count))
        for number in options.each_round("processes: asking"):
            for (kind, count), service in services.items():
                polled = await load(service.target, requests, connections=options.connections, seconds=options.seconds)
                written = await write(service, _KIND, secrets.token_hex(14), options)
                if number:
                    polled.add_to(collected, _named("polls", kind, count))
                    written.add_to(collected, f"{_KIND}, {_processes(count)}", NAMES[kind])
    return collected.series(
        {
            _named(what, kind, count): _named(what, kind, 1)
            for what in ("polls", _KIND)
            for kind, count in services
            if count > 1
        }
    )


def _processes(count: int) -> str:
    return f"{count} process{'es' if count > 1 else ''}"


def _named(what: str, kind: str, count: int) -> str:
    return f"{what}, {_processes(count)}, {NAMES[kind]}"


@asynccontextmanager
async def _service(kind: str, folder: Path, store: str, count: int) -> AsyncIterator[Subject]:
    place = folder / str(count)
    place.mkdir()
    async with started(NAMES[kind], place, "serve", STORE=store, WORKERS=str(count)) as (target, told):
        yield Subject(replace(target, behind=behind(kind)), int(told["grpc"].rpartition(":")[2]))
