"""An earlier build and this one at the same time: upon one store, as edge and service, as command and service.

    python tests/soak/version_skew.py --against ../earlier [--stores sqlite postgresql valkey cluster] [--jobs 3000]

`../earlier` is a checkout of the earlier commit in which `make install` was run (`git worktree add` makes one). On each
store the earlier build makes the schema, then this one joins. Clients create jobs, start them, send heartbeats and race
each other for how each job ends, every call through either service; `harness.history` judges all that they saw as if
there were one service. Then an edge of either build is polled in front of a service of the other, and the commands of
either build take a job through its life at the other. At last the earlier build starts alone, as after a rollback, and
is polled for what this one wrote. Exits with 0 when nothing was wrong, else with 1.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import uvloop
from harness.jobs import VIRTUAL_KEY, completion, creation, starting
from harness.service import INSTALLED, EdgeProcess, Process, Service, Starting
from harness.stores import SHARED, STORES
from harness.tokens import bearer, virtual_key_token
from harness.verdict import verdict
from rich.console import Console
from soak.replicas import Report, run, table_of

RESULT = b'{"text": "as it was sent"}'
TRACEPARENT = f"00-{'a' * 32}-{'b' * 16}-01"


def installed_in(checkout: Path) -> Starting:
    """What starts the command that is installed in the virtual environment of a checkout."""
    return partial(asyncio.create_subprocess_exec, command_of(checkout))


def command_of(checkout: Path) -> str:
    return str(checkout.absolute() / ".venv/bin/jobstatus")


async def skew(store: str, folder: Path, against: Path, *, writers: int, jobs: int) -> Report:
    """The report of everything on one store."""
    report = await run(
        store,
        folder,
        writers=writers,
        jobs=jobs,
        seed=1,
        starts=(installed_in(against), INSTALLED),
        also=partial(_others, folder, against),
    )
    report.violations += await _rolled_back(store, folder, against)
    return report


async def _others(folder: Path, against: Path, services: Sequence[Process]) -> list[str]:
    """What is wrong with jobs that live through both builds one after the other, and with edges and commands."""
    old, new = services
    wrong: list[str] = []
    async with old.connected() as earlier, new.connected() as later:
        for name, first, second in (("upgrade", earlier, later), ("rollback", later, earlier)):
            wrong += await _lives_through(name, first, second)
        for name, service, start in (
            ("new-edge", earlier, INSTALLED),
            ("old-edge", later, installed_in(against)),
        ):
            wrong += await _polled_through_an_edge(name, service, start, folder)
    for name, command, process in (
        ("old-command", command_of(against), new),
        ("new-command", str(INSTALLED.args[0]), old),  # type: ignore[attr-defined]  # it is a partial
    ):
        wrong += await _commanded(name, command, process)
    return wrong


async def _lives_through(name: str, first: Service, second: Service) -> list[str]:
    """A job is created and started through one, completed through the other, and polled through both."""
    await first.jobs.CreateJob(creation(name), metadata=(("traceparent", TRACEPARENT),))
    await first.jobs.StartJob(starting(name))
    await second.jobs.CompleteJob(completion(name, RESULT, attempt=1))
    return [wrong for service in (first, second) for wrong in await _polled(name, service)]


async def _polled(name: str, service: Service) -> list[str]:
    answer = await service.poll(name, bearer(virtual_key_token(VIRTUAL_KEY)))
    is_right = answer.status == 200 and answer.body.endswith(b'"result":' + RESULT + b"}")
    return [] if is_right else [f"{name}: a poll was {answer.status} {answer.body!r}"]


async def _polled_through_an_edge(name: str, service: Service, start: Starting, folder: Path) -> list[str]:
    """A plain poll, and one that waits for the end."""
    place = folder / name
    place.mkdir()
    process = EdgeProcess(place, service)
    process.start_command = start
    await service.jobs.CreateJob(creation(name))
    async with process:
        edge = service.behind(process.port("HTTP"), process.port("ADMIN"))
        waiting = asyncio.create_task(edge.poll(name, bearer(virtual_key_token(VIRTUAL_KEY)), "Prefer: wait=30"))
        pending = await edge.poll(name, bearer(virtual_key_token(VIRTUAL_KEY)))
        await service.jobs.CompleteJob(completion(name, RESULT))
        waited = await waiting
        wrong = await _polled(name, edge)
    if (pending.status, waited.status) != (202, 200):
        wrong.append(f"{name}: polls were {pending.status}, and {waited.status} after waiting")
    return wrong


async def _commanded(name: str, command: str, service: Process) -> list[str]:
    """A job's life through `jobstatus jobs`."""
    target = ("--grpc", f"127.0.0.1:{service.port('GRPC')}")
    for arguments, stdin in (
        (("create", "transcription", "--job-id", name, "--virtual-key-id", VIRTUAL_KEY), b""),
        (("start", name, "--worker-id", "shell", "--lease", "5m"), b""),
        (("heartbeat", name, "--attempt", "1", "--progress", "0.5"), b""),
        (("complete", name, "--attempt", "1"), RESULT),
        (("get", name, "--json"), b""),
        (("list", "--limit", "5"), b""),
    ):
        process = await asyncio.create_subprocess_exec(
            command,
            "jobs",
            arguments[0],
            *target,
            *arguments[1:],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, error = await process.communicate(stdin)
        if process.returncode:
            return [f"{name}: {arguments[0]} ended with {process.returncode}: {error.decode()}"]
    async with service.connected() as connected:
        return await _polled(name, connected)


async def _rolled_back(store: str, folder: Path, against: Path) -> list[str]:
    """What is wrong when the earlier build alone serves what both have written."""
    place = folder / "rolled-back"
    place.mkdir()
    process = Process(place, STORE=STORES[store](folder))
    process.start_command = installed_in(against)
    async with process, process.connected() as service:
        wrong = await _lives_through("after-rollback", service, service)
        for name in ("upgrade", "rollback", "new-edge", "old-edge", "old-command", "new-command"):
            wrong += await _polled(name, service)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="a checkout of an earlier commit, installed")
    parser.add_argument("--stores", nargs="+", choices=SHARED, default=SHARED)
    parser.add_argument("--writers", type=int, default=50, help="how many clients write at a time")
    parser.add_argument("--jobs", type=int, default=3000, help="how many jobs live and end, on each store")
    given = parser.parse_args()
    console, reports = Console(), []
    for store in given.stores:
        with (
            tempfile.TemporaryDirectory(prefix="skew-") as folder,
            console.status(f"two builds on {store}"),
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            reports.append(runner.run(skew(store, Path(folder), given.against, writers=given.writers, jobs=given.jobs)))
    violations = [f"{report.store}: {wrong}" for report in reports for wrong in report.violations]
    return verdict(console, table_of(reports), violations)


if __name__ == "__main__":
    sys.exit(main())
