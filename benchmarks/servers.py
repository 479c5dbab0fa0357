"""The servers that are measured, each in a process of its own that ends with the block that started it.

Their processor time comes from the operating system: user and system time of the process and all its children.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import psutil
from harness import postgresql, valkey
from harness.stores import SHARED, STORES
from harness.tokens import AUDIENCE, ISSUER, SECRET

T = TypeVar("T")

_NOT_INHERITED: Final = ("JOBSTATUS_", "GRPC_", "PYTHONDONTWRITEBYTECODE")
"""Without the last one each start would compile all modules anew."""

ROOT: Final = Path(__file__).resolve().parents[1]
START_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.005

EDGE: Final = "edge"
KINDS: Final = (*SHARED, EDGE)
"""What `--stores` can name: the stores, and an edge of its own."""
NAMES: Final = {
    "sqlite": "SQLite",
    "postgresql": "PostgreSQL",
    "valkey": "Valkey, one server",
    "cluster": "Valkey Cluster",
    EDGE: "edge of its own, before SQLite",
}


@dataclass(frozen=True, slots=True)
class Target:
    """A server to ask, as name, port and process, and the processes that work for it."""

    name: str
    port: int
    process: psutil.Process
    behind: tuple[psutil.Process, ...] = ()

    def cpu_seconds(self) -> float:
        """Of the serving process with all its children."""
        return cpu_seconds(self.process)

    def cpu_seconds_behind(self) -> float:
        """Of the processes that it asks: servers of its store, or the service behind an edge."""
        return sum(map(cpu_seconds, self.behind))

    def resident_bytes(self) -> int:
        """Memory of the process and its children."""
        return sum(process.memory_info().rss for process in (self.process, *self.process.children(recursive=True)))


def behind(kind: str) -> tuple[psutil.Process, ...]:
    """The processes of the servers that a store of this kind asks."""
    match kind:
        case "postgresql":
            postmaster = postgresql.server().data / "postmaster.pid"
            return (psutil.Process(int(postmaster.read_text().splitlines()[0])),)
        case "valkey":
            return (psutil.Process(valkey.single().pid),)
        case "cluster":
            return tuple(psutil.Process(server.pid) for server in valkey.cluster().servers)
        case _:
            return ()


def cpu_seconds(process: psutil.Process) -> float:
    """Return the user and system time of a process with all its children."""
    return sum(_own_cpu_seconds(one) for one in (process, *process.children(recursive=True)))


def _own_cpu_seconds(process: psutil.Process) -> float:
    """By the process's CPU clock, as clock_getcpuclockid(3) names it, which is exact; else in ticks of 10 ms."""
    if sys.platform == "linux":
        with suppress(OSError):
            return time.clock_gettime((~process.pid << 3) | 2)
    times = process.cpu_times()
    return float(times.user + times.system)


def environment(**given: str) -> dict[str, str]:
    """This process's variables without those of a service, with these JOBSTATUS_ ones and the issuer of the tests."""
    ports = {"HTTP": "127.0.0.1:0", "GRPC": "127.0.0.1:0", "ADMIN": "127.0.0.1:0", "LOG_FORMAT": "json"}
    issuer = {"JWT_ISSUER": ISSUER, "JWT_AUDIENCE": AUDIENCE, "JWT_ALGORITHM": "HS256", "JWT_SECRET": SECRET}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    return inherited | {f"JOBSTATUS_{name}": value for name, value in (ports | issuer | given).items()}


PROGRAM: Final = Path(sys.executable).with_name("jobstatus")


@asynccontextmanager
async def started(
    name: str, folder: Path, command: str, under: tuple[str, ...] = (), program: Path = PROGRAM, /, **given: str
) -> AsyncIterator[tuple[Target, dict[str, Any]]]:
    """`jobstatus serve` or `edge` on free ports, and the addresses that its log tells (http, grpc, admin).

    Settings are given as JOBSTATUS_ variables without that prefix; `under` is a command that runs the program. The
    folder keeps the log, which is told in full when the service does not start (RuntimeError).
    """
    log = folder / f"{command}.log"
    surroundings = environment(STATE_DIR=str(folder), **given)
    async with _running((*under, str(program), command), log, surroundings, folder) as child:
        told = await _first(child, log, _serving_line)
        yield Target(name, int(told["http"].rpartition(":")[2]), psutil.Process(child.pid)), told


@asynccontextmanager
async def serving(kind: str, folder: Path, store: str) -> AsyncIterator[Target]:
    """The service upon this store, or an edge of its own in front of one, named for people."""
    async with started(NAMES[kind], folder, "serve", STORE=store) as (service, told):
        if kind != EDGE:
            yield replace(service, behind=behind(kind))
            return
        async with started(NAMES[kind], folder, "edge", UPSTREAM=told["grpc"]) as (edge, _):
            yield replace(edge, behind=(service.process,))


def store_url(kind: str, folder: Path) -> str:
    """The store that belongs to the folder, empty at first; an edge's service has one on SQLite."""
    return STORES["sqlite" if kind == EDGE else kind](folder)


@asynccontextmanager
async def python_server(
    module: str, *words: str, name: str, folder: Path, variables: Mapping[str, str] | None = None
) -> AsyncIterator[Target]:
    """A module of `benchmarks.references`, which prints the port that it serves on as the first line it prints."""
    log = folder / f"{module}.log"
    command = (sys.executable, "-m", f"benchmarks.references.{module}", *words)
    async with _running(command, log, os.environ | dict(variables or {}), ROOT) as child:
        port = await _first(child, log, _port_line)
        yield Target(name, port, psutil.Process(child.pid))


@asynccontextmanager
async def _running(
    command: tuple[str, ...], log: Path, variables: Mapping[str, str], folder: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """In a session of its own, so that Ctrl-C reaches this process alone, which then ends it."""
    with log.open("wb") as output:
        child = await asyncio.create_subprocess_exec(
            *command, env=variables, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield child
    finally:
        _kill(child)
        await child.wait()


def _kill(child: asyncio.subprocess.Process) -> None:
    """At once, with its workers; nothing that was measured needs a graceful end."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        workers = psutil.Process(child.pid).children()
        child.kill()
        for worker in workers:
            worker.kill()


async def _first(child: asyncio.subprocess.Process, log: Path, read: Callable[[bytes], T | None]) -> T:
    """What the first line says that says something."""
    async with asyncio.timeout(START_SECONDS):
        while (told := _found(log, read)) is None:
            if child.returncode is not None:
                raise RuntimeError(f"a server did not start: {_text(log)}")
            await asyncio.sleep(_LOOK_SECONDS)
    return told


def _text(log: Path) -> str:
    return log.read_text(errors="replace")


def _found(log: Path, read: Callable[[bytes], T | None]) -> T | None:
    lines = log.read_bytes().splitlines(keepends=True)
    found = (read(line) for line in lines if line.endswith(b"\n"))
    return next((one for one in found if one is not None), None)


def _serving_line(line: bytes) -> dict[str, Any] | None:
    return dict(json.loads(line)) if b'"event": "serving"' in line else None


def _port_line(line: bytes) -> int | None:
    return int(line) if line.strip().isdigit() else None
