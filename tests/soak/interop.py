"""The workers of examples/workers, each in its language, against a running service: does anything stand in the way?

    python tests/soak/interop.py [--only go java] [--silent-seconds 125] [--builds FOLDER]

Builds each worker whose tools are installed, from a copy in a temporary folder, as its README says. Then all of them go
through the same cases at the same time: jobs that end, that are deleted, cancelled or taken over under a worker, a
result of 16 MiB, a restart of the service, and a watch on which nothing happens for two minutes. Prints a table and
names the languages whose tools are not installed. Exits with 0 when nothing was wrong, else with 1.
"""

import argparse
import asyncio
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
from google.protobuf.duration_pb2 import Duration
from harness.jobs import complete, create
from harness.service import Process, Service
from harness.verdict import verdict
from harness.waiting import until
from jobstatus.v1 import job_status_pb2 as pb
from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parents[2]
WORKERS: Final = Path("examples/workers")
BUILD_SECONDS: Final = 1800
"""Rust and Java fetch and compile for minutes on a slow machine."""
STEP_SECONDS: Final = 60.0
SILENT_SECONDS: Final = 125.0
"""Four keepalive pings: a service that minds them sends its client away at the third or fourth."""
LEASE: Final = "30"
SHORT_LEASE: Final = "2"
WORDS: Final = "the quick brown fox"
REVERSED: Final = "fox brown quick the"
LONG: Final = " ".join(["word"] * 20)
"""Ten seconds of work: the service is stopped and started again meanwhile."""
ENDLESS: Final = " ".join(["word"] * 1000)
LARGE: Final = "x" * (16 * 1024 * 1024 - 64)
"""One word. The result that quotes it is as large as a result may be, but for some bytes."""
NOT_YET: Final = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
RESUMED: Final = "taken up again"
"""What a worker says of a watch that broke."""


class Wrong(Exception):
    """What must not be; the message says what was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """How the worker in a folder of examples/workers is built, and run."""

    tools: Sequence[str]
    build: Sequence[str]
    command: Sequence[str]
    libraries: Sequence[str] = ()
    """What pkg-config has to find."""


LANGUAGES: Final = {
    "go": Language(tools=("go", "buf"), build=("buf generate", "go build -o worker ."), command=("./worker",)),
    "node": Language(tools=("node", "npm"), build=("npm install --no-audit --no-fund",), command=("node", "worker.js")),
    "node-connect": Language(
        tools=("node", "npm", "buf"),
        build=("npm install --no-audit --no-fund", "buf generate"),
        command=("node", "worker.js"),
    ),
    "java": Language(
        tools=("java", "mvn"),
        build=("mvn --quiet --batch-mode package",),
        command=("java", "-jar", "target/worker.jar"),
    ),
    "rust": Language(tools=("cargo",), build=("cargo build",), command=("target/debug/worker",)),
    "cpp": Language(
        tools=("g++", "make", "protoc", "grpc_cpp_plugin", "pkg-config"),
        libraries=("grpc++", "protobuf"),
        build=("make",),
        command=("./worker",),
    ),
}
BUILT: Final = ("gen", "node_modules", "target", "worker", "*.o")
"""What a build leaves behind."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a worker has left behind."""

    code: int
    output: bytes
    errors: str

    def __str__(self) -> str:
        return f"exit code {self.code}, {self.output[-200:]!r}, {self.errors[-300:]!r}"


@dataclass(slots=True, kw_only=True)
class Worker:
    """A worker that was built. `cells` tells how long each case took, `problems` what was wrong."""

    name: str
    folder: Path
    command: Sequence[str]
    cells: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def job(self, purpose: str) -> str:
        """The id of a job of its own."""
        return f"{self.name}-{purpose}"

    @asynccontextmanager
    async def doing(
        self, service: Service, command: str, *arguments: str, text: str = ""
    ) -> AsyncIterator["RunningWorker"]:
        """The worker as a process, which is killed at the end if it still runs."""
        target = f"127.0.0.1:{service.grpc_port}"
        child = await asyncio.create_subprocess_exec(
            *(*self.command, target, command, *arguments),
            cwd=self.folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        communication = asyncio.ensure_future(child.communicate(text.encode()))
        try:
            yield RunningWorker(child, communication)
        finally:
            if child.returncode is None:
                child.kill()
            await communication

    async def does(self, service: Service, command: str, *arguments: str, text: str = "") -> Ended:
        """The worker, run to its end."""
        async with self.doing(service, command, *arguments, text=text) as running:
            return await running.ended()


@dataclass(frozen=True, slots=True)
class RunningWorker:
    """A worker's process, and what it will have said."""

    child: asyncio.subprocess.Process
    communication: asyncio.Future[tuple[bytes, bytes]]

    async def ended(self, seconds: float = STEP_SECONDS) -> Ended:
        """Return what it has said when it has ended; raise Wrong when it does not end."""
        try:
            async with asyncio.timeout(seconds):
                output, errors = await asyncio.shield(self.communication)
        except TimeoutError:
            raise Wrong(f"it has not ended after {seconds:.0f} s") from None
        assert self.child.returncode is not None
        return Ended(self.child.returncode, output, errors.decode())


Case: TypeAlias = Callable[[Service, Worker], Awaitable[None]]


def expect(is_so: bool, problem: object) -> None:
    """Raise Wrong unless it is so."""
    if not is_so:
        raise Wrong(str(problem))


def expect_said(ended: Ended, words: str) -> None:
    """Check that the worker has ended well with these words."""
    expect(ended.code == 0 and ended.output.decode().strip() == words, f"{ended}, not {words!r}")


def expect_result(ended: Ended, text: str) -> None:
    """Check that a watch has ended well and has written this result."""
    expect(ended.code == 0 and json.loads(ended.output or b"null") == {"text": text}, ended)


async def is_under_way(service: Service, job_id: str) -> bool:
    """Whether the worker has told of progress, as far as anybody knows while the service is away."""
    try:
        response = await service.jobs.GetJob(pb.GetJobRequest(job_id=job_id))
    except grpc.aio.AioRpcError as error:
        expect(error.code() in NOT_YET, error)
        return False
    return response.job.progress > 0


# --- the cases ---


async def runs_first(service: Service, worker: Worker) -> None:
    """A job is made, run and followed until its result is there, by nobody but workers."""
    job_id = worker.job("first")
    created = await worker.does(service, "create", job_id)
    expect(created.code == 0, created)
    async with worker.doing(service, "watch", job_id) as watching:
        expect_said(await worker.does(service, "run", job_id, text=WORDS), "completed")
        seen = await watching.ended()
    expect_result(seen, REVERSED)
    expect(" processing " in seen.errors and RESUMED not in seen.errors, seen)


async def runs_again(service: Service, worker: Worker) -> None:
    """The queue has delivered the work a second time."""
    expect_said(await worker.does(service, "run", worker.job("first"), text=WORDS), "dropped: JOB_TERMINAL")


async def fails(service: Service, worker: Worker) -> None:
    """There is no work in an empty text."""
    job_id = worker.job("empty")
    await create(service, job_id)
    expect_said(await worker.does(service, "run", job_id), "failed")
    seen = await worker.does(service, "watch", job_id)
    expect(seen.code == 0 and "empty_text" in seen.errors, seen)


async def hears_of_deletion(service: Service, worker: Worker) -> None:
    job_id = worker.job("deleted")
    async with at_work(service, worker, job_id) as running:
        await service.jobs.DeleteJob(pb.DeleteJobRequest(job_id=job_id))
        expect_said(await running.ended(), "dropped: JOB_NOT_FOUND")


async def hears_of_cancellation(service: Service, worker: Worker) -> None:
    job_id = worker.job("cancelled")
    async with at_work(service, worker, job_id) as running:
        await service.jobs.CancelJob(pb.CancelJobRequest(job_id=job_id))
        expect_said(await running.ended(), "dropped: JOB_TERMINAL cancelled_by_client")


async def hears_of_takeover(service: Service, worker: Worker) -> None:
    """The worker stands still for longer than its lease, and another one takes the job over."""
    job_id = worker.job("taken")
    async with at_work(service, worker, job_id, SHORT_LEASE) as running:
        running.child.send_signal(signal.SIGSTOP)
        await until(lambda: _is_taken(service, job_id), STEP_SECONDS)
        running.child.send_signal(signal.SIGCONT)
        expect_said(await running.ended(), "dropped: LEASE_LOST")


async def _is_taken(service: Service, job_id: str) -> bool:
    try:
        await service.jobs.StartJob(pb.StartJobRequest(job_id=job_id, worker_id="other", lease=Duration(seconds=60)))
    except grpc.aio.AioRpcError as error:
        expect(error.code() is grpc.StatusCode.FAILED_PRECONDITION, f"another worker's start is refused: {error}")
        return False
    return True


@asynccontextmanager
async def at_work(
    service: Service, worker: Worker, job_id: str, lease: str = LEASE, text: str = ENDLESS
) -> AsyncIterator[RunningWorker]:
    """The worker, which has told of progress. The job may be there already."""
    await create(service, job_id, max_attempts=2)
    async with worker.doing(service, "run", job_id, lease, text=text) as running:
        await until(lambda: running.communication.done() or is_under_way(service, job_id), STEP_SECONDS)
        if running.communication.done():
            raise Wrong(str(await running.ended()))
        yield running


async def carries_large(service: Service, worker: Worker) -> None:
    """A result of 16 MiB goes to the service, and comes back."""
    job_id = worker.job("large")
    await create(service, job_id)
    expect_said(await worker.does(service, "run", job_id, text=LARGE), "completed")
    expect_result(await worker.does(service, "watch", job_id), LARGE)


async def keeps_silent(seconds: float, service: Service, worker: Worker) -> None:
    """A watch lives through silence with keepalive pings, and tells at last of the end."""
    job_id = worker.job("silent")
    await create(service, job_id)
    async with worker.doing(service, "watch", job_id) as watching:
        await asyncio.sleep(seconds)
        expect(watching.child.returncode is None, "the watch has ended")
        await complete(service, job_id, b'{"text": "late"}')
        seen = await watching.ended()
    expect_result(seen, "late")
    expect(RESUMED not in seen.errors, seen)


async def survives_restart(service: Service, worker: Worker) -> None:
    """The service stops and starts again. Neither the worker nor the watch gives up."""
    job_id = worker.job("restart")
    await create(service, job_id, max_attempts=2)
    async with (
        worker.doing(service, "watch", job_id) as watching,
        at_work(service, worker, job_id, text=LONG) as running,
    ):
        expect_said(await running.ended(), "completed")
        seen = await watching.ended()
    expect_result(seen, LONG)
    expect(RESUMED in seen.errors, f"the watch was not interrupted: {seen}")


CASES: Final[dict[str, Case]] = {
    "first run: completed": runs_first,
    "second run: JOB_TERMINAL": runs_again,
    "empty text: failed": fails,
    "deleted: JOB_NOT_FOUND": hears_of_deletion,
    "cancelled: JOB_TERMINAL": hears_of_cancellation,
    "taken over: LEASE_LOST": hears_of_takeover,
    "16 MiB there and back": carries_large,
}


# --- all of it ---


async def go_through(process: Process, service: Service, workers: Sequence[Worker], silent_seconds: float) -> None:
    """Put the workers through all cases. Nothing stops the service while watches are silent."""
    silence = asyncio.ensure_future(
        together(service, workers, "silence with keepalive", partial(keeps_silent, silent_seconds))
    )
    for row, case in CASES.items():
        await together(service, workers, row, case)
    await silence
    await together(service, workers, "restart: completed", survives_restart, restart(process, service, workers))


async def together(service: Service, workers: Sequence[Worker], row: str, case: Case, *others: Awaitable[None]) -> None:
    """Put the workers through a case at the same time, while something else happens."""
    await asyncio.gather(*(note(service, worker, row, case) for worker in workers), *others)


async def note(service: Service, worker: Worker, row: str, case: Case) -> None:
    """Put a worker through a case, and keep how long that took or what was wrong."""
    began = time.monotonic()
    try:
        await case(service, worker)
        worker.cells[row] = f"{time.monotonic() - began:.1f}"
    except (Wrong, TimeoutError, ValueError, grpc.aio.AioRpcError) as wrong:
        worker.cells[row] = "[red]wrong"
        worker.problems.append(f"{worker.name}: {row}: {type(wrong).__name__}: {wrong}")


async def restart(process: Process, service: Service, workers: Sequence[Worker]) -> None:
    """Stop the service when all workers are at work, or do not get there, and start it again."""
    for worker in workers:
        with suppress(TimeoutError):
            await until(lambda: is_under_way(service, worker.job("restart")))  # noqa: B023  # awaited at once
    process.send(signal.SIGTERM)
    expect(await process.ended() == 0, "the service did not stop as it should")
    await process.start()


def missing_tools(language: Language) -> list[str]:
    """Name what has to be installed for this language."""
    missing = [tool for tool in language.tools if shutil.which(tool) is None]
    if language.libraries and not missing:
        missing += [name for name in language.libraries if subprocess.call(("pkg-config", "--exists", name))]
    return missing


def built(name: str, builds: Path) -> Worker:
    """Build the worker in a copy below `builds`; raise Wrong when it cannot be built."""
    language, folder = LANGUAGES[name], builds / WORKERS / name
    shutil.copytree(ROOT / WORKERS / name, folder, ignore=shutil.ignore_patterns(*BUILT), dirs_exist_ok=True)
    for command in language.build:
        done = subprocess.run(
            shlex.split(command), cwd=folder, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
        expect(done.returncode == 0, f"{name}: {command}: {(done.stdout + done.stderr).strip()[-1000:]}")
    return Worker(name=name, folder=folder, command=language.command)


async def run(
    names: Sequence[str], builds: Path, silent_seconds: float, console: Console
) -> tuple[list[Worker], list[str]]:
    """Build the workers and put them through the cases; return them with what was wrong."""
    workers, problems = [], []
    shutil.copytree(ROOT / "protos", builds / "protos", dirs_exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="interop-") as folder, console.status("") as status:
        for name in names:
            status.update(f"building {name}")
            try:
                workers.append(built(name, builds))
            except (Wrong, OSError, subprocess.TimeoutExpired) as wrong:
                problems.append(str(wrong))
        status.update(f"running {', '.join(worker.name for worker in workers)}")
        async with Process(Path(folder)) as process, process.connected() as service:
            await go_through(process, service, workers, silent_seconds)
    return workers, problems + [problem for worker in workers for problem in worker.problems]


def table_of(workers: Sequence[Worker]) -> Table:
    """How long each case took, for a person."""
    table = Table("seconds", *(worker.name for worker in workers))
    table.columns[0].no_wrap = True
    for row in dict.fromkeys(row for worker in workers for row in worker.cells):
        table.add_row(row, *(worker.cells.get(row, "-") for worker in workers))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=LANGUAGES, default=list(LANGUAGES), help="which languages")
    parser.add_argument("--silent-seconds", type=float, default=SILENT_SECONDS, help="(%(default)s)")
    parser.add_argument("--builds", type=Path, help="build here, and keep it for the next run (a temporary folder)")
    given = parser.parse_args()
    os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # for buf
    missing = {name: missing_tools(LANGUAGES[name]) for name in given.only}
    installed = [name for name in given.only if not missing[name]]
    console = Console()
    for name, tools in missing.items():
        if tools:
            console.print(f"{name} is left out. Not installed: {', '.join(tools)}.", highlight=False)
    with tempfile.TemporaryDirectory(prefix="interop-builds-") as folder:
        builds = given.builds or Path(folder)
        workers, problems = asyncio.run(run(installed, builds, given.silent_seconds, console))
    return verdict(console, table_of(workers), problems)


if __name__ == "__main__":
    sys.exit(main())
