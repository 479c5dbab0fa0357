"""A store that is full, takes no writes, is gone and comes back: what do probes say, and is any poll lost that could
have been answered?

    python tests/soak/outages.py [--only sqlite postgresql valkey] [--seconds 10]

Each service is polled 50 times a second meanwhile. *full*: SQLite's disk (a small tmpfs, which needs root), Valkey's
memory; PostgreSQL lets nobody write. *gone*: the server stands still. Prints for each phase what `/readyz` and gRPC's
health say in its second half, how polls are answered, and which lines the log has. Exits with 0 when all is as
documented, else with 1.
"""

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import uvloop
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from harness import postgresql, valkey
from harness.http import request
from harness.jobs import complete, create
from harness.service import Process, Service
from harness.tokens import admin_token, bearer
from harness.verdict import verdict
from harness.wire import channel_to
from rich.console import Console
from rich.table import Table

PHASE_SECONDS: Final = 10.0
POLLS_A_SECOND: Final = 50
LINES: Final = ("degraded", "not_ready", "ready_again")
TMPFS_MIB: Final = 8
MIB: Final = 1024 * 1024

Step = Callable[[], None]
READY: Final = "200 ready; SERVING, SERVING"
FULL: Final = "200 degraded store_full; SERVING, NOT_SERVING"
READ_ONLY: Final = "200 degraded store_takes_no_writes; SERVING, NOT_SERVING"
GONE: Final = "503 store_unavailable; NOT_SERVING, NOT_SERVING"
ALL: Final = frozenset({200})
SOME: Final = frozenset({200, 503})


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """What happens to the store, what probes have to say then, and how polls have to be answered."""

    name: str
    step: Step
    says: str
    answers: frozenset[int] = ALL


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A store, and what befalls it."""

    url: str
    phases: Sequence[Phase]


@dataclass(slots=True)
class Seen:
    """What was seen in one phase."""

    polls: Counter[int] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)


# --- stores ---


@contextmanager
def sqlite_trial() -> Iterator[Trial]:
    """A file on a disk of a few MiB, which a filler takes up."""
    with tempfile.TemporaryDirectory(prefix="outages-") as name:
        folder = Path(name)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m", "tmpfs", name], check=True)
        filler = folder / "filler"

        def fill() -> None:
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    return  # the disk is full

        try:
            yield Trial(
                url=f"sqlite:///{folder / 'jobs.db'}",
                phases=[
                    Phase(name="full", step=fill, says=FULL),
                    Phase(name="room again", step=filler.unlink, says=READY),
                ],
            )
        finally:
            subprocess.run(["umount", name], check=True)


@contextmanager
def postgresql_trial() -> Iterator[Trial]:
    """A server of its own that is set to let nobody write, and then stands still."""
    server = postgresql.Server()
    try:
        server.create().start()
        yield Trial(
            url=server.url(),
            phases=[
                Phase(
                    name="no writes",
                    step=lambda: server.set_for_all(default_transaction_read_only="on"),
                    says=READ_ONLY,
                ),
                Phase(
                    name="writes again",
                    step=lambda: server.set_for_all(default_transaction_read_only="off"),
                    says=READY,
                ),
                Phase(name="gone", step=server.freeze, says=GONE, answers=SOME),
                Phase(name="back", step=server.thaw, says=READY, answers=SOME),
            ],
        )
    finally:
        server.remove()


@contextmanager
def valkey_trial() -> Iterator[Trial]:
    """A server of its own whose memory ends, and which then stands still."""
    server = valkey.Server().start()

    def limit(maxmemory: int) -> None:
        server.command("CONFIG", "SET", "maxmemory", maxmemory)

    try:
        yield Trial(
            url=server.url(),
            phases=[
                Phase(name="full", step=lambda: limit(MIB), says=FULL),
                Phase(name="room again", step=lambda: limit(0), says=READY),
                Phase(name="gone", step=lambda: server.send(signal.SIGSTOP), says=GONE, answers=SOME),
                Phase(name="back", step=lambda: server.send(signal.SIGCONT), says=READY, answers=SOME),
            ],
        )
    finally:
        server.remove()


TRIALS: Final = {"sqlite": sqlite_trial, "postgresql": postgresql_trial, "valkey": valkey_trial}


def why_not(name: str) -> str:
    """Why this machine cannot run it; empty when it can."""
    return "a small disk needs root" if name == "sqlite" and os.geteuid() != 0 else ""


# --- what is seen ---


async def poll_steadily(service: Service, seen: Seen, until: float) -> None:
    """Poll at a steady rate, however long answers take."""
    credential = bearer(admin_token())

    async def poll() -> None:
        seen.polls[(await service.poll("kept", credential)).status] += 1

    async with asyncio.TaskGroup() as polls:
        while time.monotonic() < until:
            polls.create_task(poll())
            await asyncio.sleep(1 / POLLS_A_SECOND)


async def said(service: Service, health: Any) -> str:
    """Readiness, and gRPC's health of everything and of writes, in a line."""
    ready = await request(service.admin_port, "/readyz")
    names = ("", "jobstatus.v1.JobStatus")
    checks = [await health.Check(health_pb2.HealthCheckRequest(service=name)) for name in names]
    statuses = [health_pb2.HealthCheckResponse.ServingStatus.Name(check.status) for check in checks]
    return f"{ready.status} {' '.join(map(str, ready.json.values()))}; {', '.join(statuses)}"


async def observe(process: Process, service: Service, health: Any, seconds: float) -> Seen:
    """Look at one phase. What probes say counts from its middle, because gRPC's health may be two seconds old."""
    seen, began, logged = Seen(), time.monotonic(), process.log_path.stat().st_size
    polling = asyncio.create_task(poll_steadily(service, seen, began + seconds))
    await asyncio.sleep(seconds / 2)
    while time.monotonic() < began + seconds:
        seen.said[await said(service, health)] += 1
        await asyncio.sleep(0.25)
    await polling
    log = process.log_path.read_bytes()[logged:].decode()
    seen.lines.update({event: log.count(f'"event": "{event}"') for event in LINES})
    return seen


# --- all of it ---


async def run(name: str, seconds: float, table: Table) -> list[str]:
    """Run one trial, add a row for each phase, and return what is not as documented."""
    problems = []
    async with AsyncExitStack() as stack:
        trial = stack.enter_context(TRIALS[name]())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="outages-log-")))
        process = await stack.enter_async_context(Process(folder, STORE=trial.url))
        service = await stack.enter_async_context(process.connected())
        health = HealthStub(await stack.enter_async_context(channel_to(service.grpc_port)))
        await create(service, "kept")
        await complete(service, "kept")
        for phase in trial.phases:
            await asyncio.to_thread(phase.step)
            seen = await observe(process, service, health, seconds)
            lines = {event: count for event, count in seen.lines.items() if count}
            table.add_row(name, phase.name, "\n".join(seen.said), _told(seen.polls), _told(lines))
            checks = {
                f"probes say {list(seen.said)}, not {phase.says}": set(seen.said) == {phase.says},
                f"polls are answered {dict(seen.polls)}": set(seen.polls) <= phase.answers,
                f"the log has {lines}": sum(lines.values()) == 1,
            }
            problems += [f"{name}, {phase.name}: {problem}" for problem, is_well in checks.items() if not is_well]
    return problems


def _told(counts: Counter[int] | dict[str, int]) -> str:
    return ", ".join(f"{what}: {count}" for what, count in counts.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*TRIALS], default=[*TRIALS])
    parser.add_argument("--seconds", type=float, default=PHASE_SECONDS, help="how long a phase lasts (%(default)s)")
    given = parser.parse_args()
    console, problems = Console(), []
    table = Table("store", "phase", "/readyz; gRPC: all, JobStatus", "polls", "log")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, console.status(", ".join(given.only)):
        for name in given.only:
            if missing := why_not(name):
                table.add_row(name, f"not run: {missing}")
                continue
            problems += runner.run(run(name, given.seconds, table))
    return verdict(console, table, problems)


if __name__ == "__main__":
    sys.exit(main())
