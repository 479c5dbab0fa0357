"""Does each alert fire when what it speaks of happens, and not before?

    python tests/soak/alerts.py [--seconds 1200] [--only dead_workers full_disk …]

Starts a service for each fault and one that stays well, and a real Prometheus that scrapes all of them, with the rules
of deploy/prometheus as they are. For a while all are well, and no alert may fire. Then every service meets its fault:
dead workers, a store that does not answer, a full disk, a sweep that stands still, and so on. Prints after how many
seconds each alert fired. Takes a quarter of an hour, because the rules judge by minutes. Exits with 0 when each alert
fired for its fault, none before, and none ever for the service that stayed well; else with 1. A full disk needs root;
Prometheus is the one that `make deploy-check` has built.
"""

import argparse
import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
import psutil
import trustme
import uvloop
import yaml
from harness import ports, valkey
from harness.clocked import ClockFile, command, environment
from harness.faults import Clock
from harness.identity_provider import provider
from harness.jobs import complete, create, fail, start
from harness.raw import connection
from harness.service import Process, Service, service_here
from harness.tokens import AUDIENCE, admin_token, bearer
from harness.verdict import verdict
from harness.workers import children_of
from jobstatus.settings import IssuerSettings
from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parents[2]
PROMETHEUS: Final = ROOT / "deploy" / "tools" / "bin" / "prometheus"
RULES: Final = ROOT / "deploy" / "prometheus" / "rules.yaml"
SCRAPE_SECONDS: Final = 5
QUIET_SECONDS: Final = 75.0
"""How long all services are well before the faults: longer than the rules of a minute need."""
LIMIT_SECONDS: Final = 1200.0
TMPFS_MIB: Final = 8
LINES: Final = 5000
"""More than a pipe and the service's queue of the log hold."""
HEALTHY: Final = "healthy"
ADMIN: Final = bearer(admin_token())
FORGED: Final = bearer(admin_token(secret="a secret that the service does not know, 32 bytes"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A service, and what befalls it."""

    service: Service
    fault: Callable[[], Coroutine[Any, Any, None]]
    """Does the harm, for as long as it takes; it is cancelled at the end."""


Made = AbstractAsyncContextManager[Trial]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A fault, how a service that meets it is made, and the alerts that have to fire."""

    name: str
    alerts: Sequence[str]
    make: Callable[[Path], Made]


async def forever(seconds: float, work: Callable[[int], Awaitable[object]]) -> None:
    """Work regularly; what fails is part of the fault."""
    number = 0
    while True:
        with suppress(OSError, TimeoutError, grpc.aio.AioRpcError, ValueError, AssertionError):
            async with asyncio.timeout(10):
                await work(number)
        number += 1
        await asyncio.sleep(seconds)


@asynccontextmanager
async def running(folder: Path, **settings: str) -> AsyncIterator[tuple[Process, Service]]:
    """Yield a service in a process of its own, or in several, which are asked to stop at the end."""
    async with Process(folder, **settings) as process, process.connected() as service:
        yield process, service
        if "WORKERS" in settings:  # those of a supervisor that is killed would still write into the folder
            process.send(signal.SIGTERM)
            await process.ended()


async def work_well(service: Service) -> None:
    """Create, start, complete and poll jobs, as good clients do."""

    async def one(number: int) -> None:
        job = f"job-{number}"
        await create(service, job)
        await start(service, job)
        await complete(service, job)
        await service.poll(job, ADMIN)

    await forever(1, one)


@asynccontextmanager
async def healthy(folder: Path) -> AsyncIterator[Trial]:
    """Two serving processes to which nothing happens."""
    async with running(folder, WORKERS="2") as (_, service):
        yield Trial(service=service, fault=lambda: work_well(service))


@asynccontextmanager
async def gone(folder: Path) -> AsyncIterator[Trial]:
    """A process that is killed."""
    async with running(folder) as (process, service):

        async def fault() -> None:
            process.send(signal.SIGKILL)

        yield Trial(service=service, fault=fault)


async def use(service: Service) -> None:
    """Poll and write steadily, whatever comes of it."""
    async with asyncio.TaskGroup() as users:
        for user in range(4):
            users.create_task(forever(0.2, lambda _: service.poll("job", ADMIN)))
            users.create_task(forever(0.2, partial(create_numbered, service, user)))


async def create_numbered(service: Service, user: int, number: int) -> None:
    """Create one of this user's jobs."""
    await create(service, f"job-{user}-{number}")


@asynccontextmanager
async def silent_store(folder: Path) -> AsyncIterator[Trial]:
    """A store that does not answer at all."""
    with valkey_here() as store:
        async with running(folder, STORE=store.url()) as (_, service):

            async def fault() -> None:
                store.send(signal.SIGSTOP)
                await use(service)

            yield Trial(service=service, fault=fault)


@asynccontextmanager
async def slow_store(folder: Path) -> AsyncIterator[Trial]:
    """A store that stands still for most of each second, but not for so long that it counts as gone."""
    with valkey_here() as store:
        async with running(folder, STORE=store.url()) as (_, service):

            async def stutter(_: int) -> None:
                store.send(signal.SIGSTOP)
                await asyncio.sleep(0.8)
                store.send(signal.SIGCONT)

            async def fault() -> None:
                async with asyncio.TaskGroup() as group:
                    group.create_task(forever(0.4, stutter))
                    group.create_task(use(service))

            yield Trial(service=service, fault=fault)


@contextmanager
def valkey_here() -> Iterator[valkey.Server]:
    """Yield a store of its own."""
    store = valkey.Server().start()
    try:
        yield store
    finally:
        store.send(signal.SIGCONT)
        store.remove()


def mount(*command: str) -> None:
    """Run a command that mounts a disk, or takes it away."""
    subprocess.run(command, check=True)


@asynccontextmanager
async def full_disk(folder: Path) -> AsyncIterator[Trial]:
    """SQLite on a small disk, which something else fills."""
    disk = folder / "disk"
    disk.mkdir()
    mount("mount", "-t", "tmpfs", "-o", f"size={TMPFS_MIB}m", "tmpfs", str(disk))

    def fill() -> None:
        with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    try:
        async with running(folder, STORE=f"sqlite:///{disk / 'jobs.db'}") as (_, service):

            async def fault() -> None:
                fill()
                await use(service)

            yield Trial(service=service, fault=fault)
    finally:
        mount("umount", "-l", str(disk))


@asynccontextmanager
async def dead_workers(folder: Path) -> AsyncIterator[Trial]:
    """A fleet that dies: one job is never started, one has no lease and no worker, one loses its worker."""
    async with running(folder) as (_, service):

        async def fault() -> None:
            for job in ("waiting", "unleased", "leased"):
                await create(service, job)
            await start(service, "unleased")
            lease = timedelta(seconds=5)
            await start(service, "leased", lease=lease)

        yield Trial(service=service, fault=fault)


@asynccontextmanager
async def bad_workers(folder: Path) -> AsyncIterator[Trial]:
    """Too few workers, which fail every job: each waits 70 s for its start."""
    async with running(folder) as (_, service):

        async def late(number: int) -> None:
            await start(service, f"late-{number}")
            await fail(service, f"late-{number}")

        async def fault() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(forever(5, lambda number: create(service, f"late-{number}")))
                await asyncio.sleep(70)
                group.create_task(forever(5, late))

        yield Trial(service=service, fault=fault)


@asynccontextmanager
async def killed_children(folder: Path) -> AsyncIterator[Trial]:
    """Serving processes that are killed one after the other, as for their memory."""
    async with running(folder, WORKERS="2") as (process, service):

        async def kill(_: int) -> None:
            children_of(process)[0].kill()

        yield Trial(service=service, fault=lambda: forever(20, kill))


@asynccontextmanager
async def still_sweep(folder: Path) -> AsyncIterator[Trial]:
    """Somebody else holds the lock of the sweep, so that each process believes that another one sweeps."""
    async with running(folder) as (process, service):

        async def fault() -> None:
            process.send(signal.SIGTERM)
            await process.ended()
            with (folder / "jobs.db-sweep").open("r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                await process.start()
                await asyncio.Event().wait()

        yield Trial(service=service, fault=fault)


@asynccontextmanager
async def crowd(folder: Path) -> AsyncIterator[Trial]:
    """More clients than connections."""
    async with running(folder, MAX_CONNECTIONS="20") as (_, service), AsyncExitStack() as stack:
        request = f"GET /v1/async/audio/transcriptions/job HTTP/1.1\r\nHost: test\r\n{ADMIN}\r\n\r\n".encode()

        async def connect() -> None:
            _reader, writer = await stack.enter_async_context(connection(service.http_port))
            writer.write(request)

        async def one_more(_: int) -> None:
            async with connection(service.http_port) as (reader, _writer):
                await reader.read()

        async def fault() -> None:
            for _ in range(20):
                await connect()
            await forever(20, one_more)

        yield Trial(service=service, fault=fault)


@asynccontextmanager
async def few_files(folder: Path) -> AsyncIterator[Trial]:
    """A limit of open files that is nearly reached."""
    async with running(folder) as (process, service):

        async def fault() -> None:
            assert process.child is not None
            of_service = psutil.Process(process.child.pid)
            limit = int(of_service.num_fds() / 0.9)
            of_service.rlimit(psutil.RLIMIT_NOFILE, (limit, limit))

        yield Trial(service=service, fault=fault)


@asynccontextmanager
async def forged_tokens(folder: Path) -> AsyncIterator[Trial]:
    """A client whose key the service does not know."""
    async with running(folder) as (_, service):
        yield Trial(service=service, fault=lambda: forever(0.25, lambda _: service.poll("job", FORGED)))


@asynccontextmanager
async def old_certificate(folder: Path) -> AsyncIterator[Trial]:
    """A certificate is replaced by one that ends in five days."""
    authority = trustme.CA()
    files = {name: folder / f"{name.lower()}.pem" for name in ("GRPC_TLS_CERT", "GRPC_TLS_KEY", "GRPC_TLS_CLIENT_CA")}

    def write(ends_at: datetime) -> None:
        pair = authority.issue_cert("127.0.0.1", not_after=ends_at)
        files["GRPC_TLS_CERT"].write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
        files["GRPC_TLS_KEY"].write_bytes(pair.private_key_pem.bytes())
        files["GRPC_TLS_CLIENT_CA"].write_bytes(authority.cert_pem.bytes())

    write(datetime.now(UTC) + timedelta(days=90))
    async with running(folder, **{name: str(path) for name, path in files.items()}) as (process, service):

        async def fault() -> None:
            write(datetime.now(UTC) + timedelta(days=5))
            process.send(signal.SIGHUP)

        yield Trial(service=service, fault=fault)


@asynccontextmanager
async def absent_provider(_: Path) -> AsyncIterator[Trial]:
    """An identity provider that is away for three hours, by the clock of a service in this process."""
    clock = Clock()
    async with provider(clock=clock) as identity:
        issuer = IssuerSettings(
            issuer=identity.issuer, audience=AUDIENCE, algorithm="RS256", jwks_url=identity.jwks_url
        )
        async with service_here(clock=clock, issuers=(issuer,)) as service:

            async def fault() -> None:
                identity.is_away = True
                clock.move(seconds=3 * 60 * 60)

            yield Trial(service=service, fault=fault)


class PipedProcess(Process):
    """A service whose log is a pipe, which is read until somebody says so."""

    is_read = True

    async def spawn(self) -> None:
        reading, writing = os.pipe()
        with os.fdopen(writing, "wb") as log:
            self.child = await self.start_command(
                *self.command, env=self.environment, cwd=self.folder, stdout=log, stderr=log
            )
        threading.Thread(target=self._read, args=(reading,), daemon=True).start()

    def _read(self, reading: int) -> None:
        with self.log_path.open("ab", buffering=0) as kept:
            while self.is_read and (data := os.read(reading, 65536)):
                kept.write(data)


@asynccontextmanager
async def stalled_log(folder: Path) -> AsyncIterator[Trial]:
    """A log that nobody reads, with a line for each refused credential."""
    async with PipedProcess(folder, LOG_LEVEL="debug") as process, process.connected() as service:

        async def fault() -> None:
            process.is_read = False
            for _ in range(LINES):
                await service.poll("job", FORGED)

        yield Trial(service=service, fault=fault)


@asynccontextmanager
async def full_audit_log(folder: Path) -> AsyncIterator[Trial]:
    """An audit log on a disk without room."""
    async with running(folder, AUDIT_LOG="/dev/full") as (_, service):
        yield Trial(service=service, fault=lambda: forever(5, lambda _: service.poll("job", ADMIN)))


class ClockedProcess(Process):
    """A service whose machine's clock is set by `clock`."""

    async def spawn(self) -> None:
        self.clock = ClockFile(self.folder)
        with self.log_path.open("ab") as log:
            self.child = await asyncio.create_subprocess_exec(
                *command(), env=environment(self.environment), cwd=self.folder, stdout=log, stderr=log
            )


@asynccontextmanager
async def wrong_clock(folder: Path) -> AsyncIterator[Trial]:
    """A machine whose clock goes half a minute ahead of the store's."""
    with valkey_here() as store:
        async with ClockedProcess(folder, STORE=store.url()) as process, process.connected() as service:

            async def fault() -> None:
                process.clock.ahead = 30

            yield Trial(service=service, fault=fault)


KINDS: Final = (
    Kind(name=HEALTHY, alerts=(), make=healthy),
    Kind(name="gone", alerts=("Down",), make=gone),
    Kind(
        name="silent_store",
        alerts=("NotReady", "PollsFail", "WritesFail", "ChoresFail", "SweepStalled"),
        make=silent_store,
    ),
    Kind(name="slow_store", alerts=("PollsSlow", "CommitsSlow"), make=slow_store),
    Kind(name="full_disk", alerts=("Degraded", "WritesFail"), make=full_disk),
    Kind(name="dead_workers", alerts=("JobsPendingTooLong", "JobsWithoutLease", "JobsLost"), make=dead_workers),
    Kind(name="bad_workers", alerts=("ManyJobsFail", "JobsQueueLong"), make=bad_workers),
    Kind(name="killed_children", alerts=("ProcessesRestart",), make=killed_children),
    Kind(name="still_sweep", alerts=("SweepStalled",), make=still_sweep),
    Kind(name="crowd", alerts=("NearLimit", "ConnectionsRefused"), make=crowd),
    Kind(name="few_files", alerts=("FilesNearLimit",), make=few_files),
    Kind(name="forged_tokens", alerts=("CredentialsRefused",), make=forged_tokens),
    Kind(name="old_certificate", alerts=("CertificateEnds",), make=old_certificate),
    Kind(name="absent_provider", alerts=("IssuerKeysOld",), make=absent_provider),
    Kind(name="stalled_log", alerts=("LogLinesDropped",), make=stalled_log),
    Kind(name="full_audit_log", alerts=("AuditLinesLost",), make=full_audit_log),
    Kind(name="wrong_clock", alerts=("ClockDiffers",), make=wrong_clock),
)


# --- Prometheus ---


def configuration(jobs: Mapping[str, Sequence[int]]) -> str:
    """Return the configuration that scrapes the admin ports of these jobs."""
    scraped = [
        {"job_name": f"jobstatus-{name}", "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in of_job]}]}
        for name, of_job in jobs.items()
    ]
    every = f"{SCRAPE_SECONDS}s"
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [str(RULES)],
            "scrape_configs": scraped,
        }
    )


@dataclass(slots=True)
class Prometheus:
    """A real one, which knows the rules; `fired` has when each alert of each job fired first."""

    port: int
    fired: dict[tuple[str, str], float] = field(default_factory=dict)

    def look(self) -> None:
        """Note the alerts that fire now."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/alerts", timeout=10) as answer:
            alerts = json.load(answer)["data"]["alerts"]
        for alert in alerts:
            if alert["state"] == "firing":
                labels = alert["labels"]
                name = labels["alertname"].removeprefix("JobStatus")
                self.fired.setdefault((labels.get("job", "").removeprefix("jobstatus-"), name), time.monotonic())


@asynccontextmanager
async def prometheus(folder: Path, jobs: Mapping[str, Sequence[int]]) -> AsyncIterator[Prometheus]:
    """Yield a Prometheus that scrapes these ports."""
    config, port = folder / "prometheus.yaml", ports.reserve()
    config.write_text(configuration(jobs))
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            PROMETHEUS,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
    try:
        watching = Prometheus(port)
        async with asyncio.timeout(60):
            while True:
                with suppress(OSError):
                    await asyncio.to_thread(watching.look)
                    break
                await asyncio.sleep(0.2)
        yield watching
    finally:
        process.terminate()
        await process.wait()


# --- all of it ---


def expected(kinds: Sequence[Kind]) -> set[tuple[str, str]]:
    """Return the alerts that have to fire, each with its job."""
    return {(kind.name, alert) for kind in kinds for alert in kind.alerts}


async def run(kinds: Sequence[Kind], folder: Path, seconds: float, console: Console) -> tuple[Table, list[str]]:
    """Return the report, and what is not as it should be."""
    async with AsyncExitStack() as stack:
        trials: dict[str, Trial] = {}
        for kind in kinds:
            (folder / kind.name).mkdir()
            trials[kind.name] = await stack.enter_async_context(kind.make(folder / kind.name))
        jobs = {name: [trial.service.admin_port] for name, trial in trials.items()}
        watching = await stack.enter_async_context(prometheus(folder, jobs))
        well = asyncio.create_task(trials[HEALTHY].fault())
        console.print(f"{len(kinds)} services are well for {QUIET_SECONDS:.0f} s.")
        await looked(watching, QUIET_SECONDS, lambda: False)
        early = dict(watching.fired)
        faults = [asyncio.create_task(trial.fault()) for name, trial in trials.items() if name != HEALTHY]
        began = time.monotonic()
        console.print("The faults begin.")
        wanted = expected(kinds)
        await looked(watching, seconds, lambda: wanted <= watching.fired.keys())
        for task in (*faults, well):
            task.cancel()
        done = await asyncio.gather(*faults, well, return_exceptions=True)
    problems = [f"{name}: {alert} fired before the fault" for name, alert in early]
    problems += [f"{name}: {alert} did not fire" for name, alert in sorted(wanted - watching.fired.keys())]
    problems += [f"{alert} fired although all was well" for name, alert in watching.fired if name == HEALTHY]
    problems += [f"a fault failed: {error!r}" for error in done if isinstance(error, Exception)]
    return table_of(kinds, watching.fired, began), problems


async def looked(watching: Prometheus, seconds: float, enough: Callable[[], bool]) -> None:
    """Look at the alerts until there are enough, for so long at most."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at and not enough():
        await asyncio.sleep(2)
        await asyncio.to_thread(watching.look)


def table_of(kinds: Sequence[Kind], fired: Mapping[tuple[str, str], float], began: float) -> Table:
    """Return when which alert fired, for a person."""
    table = Table("fault", "alert", "fired after", "also fired")
    for kind in kinds:
        others = ", ".join(alert for name, alert in fired if name == kind.name and alert not in kind.alerts)
        for alert in kind.alerts or ("",):
            at = fired.get((kind.name, alert))
            table.add_row(kind.name, alert, "" if at is None else f"{at - began:.0f} s", others)
            others = ""
    return table


def main() -> int:
    names = [kind.name for kind in KINDS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=LIMIT_SECONDS, help="for the alerts to fire (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="which faults")
    given: Any = parser.parse_args()
    console = Console()
    if not PROMETHEUS.exists():
        console.print("There is no Prometheus: run `make deploy-check` first, which builds it.")
        return 1
    kinds = [kind for kind in KINDS if kind.name in {HEALTHY, *given.only}]
    if os.geteuid() != 0:
        console.print("Not run: full_disk, because a small disk needs root.")
        kinds = [kind for kind in kinds if kind.make is not full_disk]
    with (
        tempfile.TemporaryDirectory(prefix="alerts-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        table, problems = runner.run(run(kinds, Path(folder), given.seconds, console))
    return verdict(console, table, problems)


if __name__ == "__main__":
    sys.exit(main())
