"""How `jobstatus serve --workers N` starts or refuses to, and how it stops when any of its processes gets a signal."""

import asyncio
import os
import signal
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Final

import grpc
import psutil
import pytest
from harness.http import request
from harness.jobs import create
from harness.service import COMMAND, INSTALLED, Process, Service
from harness.tokens import bearer
from harness.waiting import until
from harness.workers import HANGING_SECONDS, WORKERS, children_of, log_of, suspended
from jobstatus.v1 import job_status_pb2 as pb

STOP_SECONDS: Final = 60.0
MANY: Final = 16


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    """Two children and their supervisor."""
    async with Process(tmp_path, WORKERS=str(WORKERS)) as running:
        yield running


@pytest.fixture
async def service(process: Process) -> AsyncIterator[Service]:
    async with process.connected() as connected:
        yield connected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_all_in_time(process: Process, service: Service, number: signal.Signals) -> None:
    """With streams open, the children end and then their supervisor, with exit code 0."""
    await create(service, "job-1")
    streams = [service.jobs.WatchJob(pb.WatchJobRequest(job_id="job-1")) for _ in range(10)]
    for stream in streams:
        await stream.read()
    children = children_of(process)
    process.send(number)
    assert await process.ended(STOP_SECONDS) == 0
    assert not any(child.is_running() for child in children)
    assert {await stream.code() for stream in streams} == {grpc.StatusCode.UNAVAILABLE}
    assert [line["event"] for line in log_of(process, "stopped")] == ["stopped"] * (WORKERS + 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_all_may_be_told_to_stop_at_once(process: Process, number: signal.Signals) -> None:
    """A service manager signals every process, so a child is told more than once: it stops gracefully all the same."""
    children = children_of(process)

    def tell_those_left() -> bool:
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.send_signal(number)
        return not any(child.is_running() for child in children)

    tell_those_left()
    process.send(number)
    await until(tell_those_left)
    assert await process.ended(STOP_SECONDS) == 0
    numbers = {line.get("child") for line in log_of(process, "stopped")}
    assert numbers == {None, *range(1, WORKERS + 1)}


async def test_a_terminal_signals_the_supervisor_alone(process: Process) -> None:
    """Ctrl-C reaches the group of processes in the foreground, which has no child in it."""
    assert process.child is not None
    groups = {os.getpgid(child.pid) for child in children_of(process)}
    assert len(groups) == WORKERS
    assert os.getpgid(process.child.pid) not in groups


async def test_a_second_signal_ends_all_at_once(tmp_path: Path) -> None:
    """However long the stop delay is."""
    async with Process(tmp_path, WORKERS=str(WORKERS), STOP_DELAY_SECONDS="60") as process:
        children = children_of(process)
        process.send(signal.SIGTERM)
        await until(lambda: len(log_of(process, "stopping")) == WORKERS + 1)
        process.send(signal.SIGTERM)
        assert await process.ended(STOP_SECONDS) == 128 + signal.SIGTERM
        await until(lambda: not any(child.is_running() for child in children))


async def test_a_child_that_hangs_does_not_keep_the_others_from_stopping(process: Process) -> None:
    """It is killed when its time to stop is over, and the exit code says that not all was well."""
    children = children_of(process)
    with suspended(children[0]):
        process.send(signal.SIGTERM)
        assert await process.ended(HANGING_SECONDS) == 1
    assert [line["ended"] for line in log_of(process, "child_stop_failed")] == ["SIGKILL"]
    assert not any(child.is_running() for child in children)


async def test_children_end_when_their_supervisor_is_killed(process: Process) -> None:
    """Nothing is left behind to hold the ports and the store."""
    children = children_of(process)
    assert len(children) == WORKERS
    process.send(signal.SIGKILL)
    await process.ended()
    await until(lambda: not any(child.is_running() for child in children))
    assert len(log_of(process, "stopped")) == WORKERS


@pytest.mark.parametrize("name", ["x" * 150, "missing"])
async def test_a_start_needs_no_temporary_folder(tmp_path: Path, name: str) -> None:
    """The supervisor asks its children without a socket in the file system, whose path holds 107 bytes only."""
    temporary = tmp_path / name
    if name != "missing":
        temporary.mkdir()
    process = Process(tmp_path, WORKERS=str(WORKERS))
    process.environment |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    async with process, process.connected() as service:
        answer = await request(service.admin_port, "/readyz")
        assert (answer.status, answer.json) == (200, {"status": "ready"})
        assert not temporary.exists() or not list(temporary.iterdir())
        sockets = [each for child in children_of(process) for each in child.net_connections("unix")]
        assert {str(each.laddr) for each in sockets} == {""}


@asynccontextmanager
async def refused(folder: Path, **settings: str) -> AsyncIterator[Process]:
    """The command that is not going to serve."""
    process = Process(folder, **({"WORKERS": str(WORKERS)} | settings))
    try:
        await process.spawn()
        yield process
    finally:
        await process.__aexit__()


async def refusal_of(folder: Path, **settings: str) -> tuple[int, str]:
    """How the command ends that cannot serve: its code, and all that it printed."""
    async with refused(folder, **settings) as process:
        code = await process.ended()
    return code, process.log_path.read_text()


async def test_what_cannot_start_says_so_once(tmp_path: Path) -> None:
    """A store that no child can open ends the start with one sentence, not with one for each, nor in a loop."""
    (tmp_path / "jobs.db").write_text("this is no database, and long enough to be looked at")
    code, output = await refusal_of(tmp_path)
    assert code == 2
    (line,) = output.splitlines()
    assert "damaged or no SQLite file" in line


async def test_a_child_that_is_killed_before_it_is_up_ends_the_start(tmp_path: Path) -> None:
    """The supervisor reports it, because the child cannot."""
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as holder:
        holder.execute("BEGIN EXCLUSIVE")  # keeps it from getting up
        async with refused(tmp_path) as process:
            assert process.child is not None
            supervisor = psutil.Process(process.child.pid)
            await until(lambda: bool(supervisor.children()))
            supervisor.children()[0].kill()
            assert await process.ended() == 2
    assert process.log_path.read_text() == "jobstatus: a serving process ended with SIGKILL before it was up\n"


async def test_memory_is_not_shared(tmp_path: Path) -> None:
    """A store that each child would have for itself is refused."""
    code, output = await refusal_of(tmp_path, STORE="memory://")
    assert code == 2
    assert "JOBSTATUS_STORE=memory:// is for one process" in output


@pytest.mark.parametrize("name", ["HTTP", "GRPC", "ADMIN"])
@pytest.mark.parametrize("shares", [False, True])
async def test_a_port_that_is_in_use_is_refused(tmp_path: Path, name: str, *, shares: bool) -> None:
    """Also one whose server would share it with anybody, which is what the children do among themselves."""
    with closing(socket.socket()) as other:
        if shares:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, output = await refusal_of(tmp_path, **{name: f"127.0.0.1:{other.getsockname()[1]}"})
    assert code == 2
    assert "cannot listen on 127.0.0.1" in output.splitlines()[-1]


async def test_several_can_follow_one(tmp_path: Path) -> None:
    """Connections that a service of one process has closed linger on its ports, which are free all the same."""
    process = Process(tmp_path)
    async with process:
        with closing(socket.create_connection(("127.0.0.1", process.port("HTTP")))) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert client.recv(1000)
            process.send(signal.SIGTERM)
            assert await process.ended() == 0
            while client.recv(1000):
                continue
        process.environment["JOBSTATUS_WORKERS"] = str(WORKERS)
        await process.start()
        assert len(children_of(process)) == WORKERS


async def test_a_supervisor_does_not_load_grpc(tmp_path: Path) -> None:
    """So it stays small, and gRPC cannot break when the supervisor starts a process."""
    process = Process(tmp_path, WORKERS=str(WORKERS))
    process.start_command = INSTALLED
    async with process:
        assert process.child is not None
        supervisor, *children = (psutil.Process(process.child.pid), *children_of(process))
        assert [has_loaded("cygrpc", each) for each in (supervisor, *children)] == [False, *[True] * WORKERS]


def has_loaded(library: str, process: psutil.Process) -> bool:
    return any(library in each.path for each in process.memory_maps())


async def test_what_lies_where_the_service_is_started_is_not_loaded(tmp_path: Path) -> None:
    """A file that is called like a module of the service's is none."""
    (tmp_path / "uvloop.py").write_text("raise SystemExit('loaded')")
    process = Process(tmp_path, WORKERS=str(WORKERS))
    process.start_command = INSTALLED
    async with process:
        assert len(children_of(process)) == WORKERS


async def test_development_mode_is_for_all(tmp_path: Path) -> None:
    """The option of the command line counts, every child accepts the local issuer, and the hints are printed once."""
    process = Process(tmp_path)
    process.command = ("serve", "--dev", "--workers", str(WORKERS))
    async with process, process.connected() as service:
        assert len(children_of(process)) == WORKERS
        assert process.log_path.read_text().count("JobStatus is up, for development") == 1
        token = await asyncio.create_subprocess_exec(
            *(COMMAND, "token", "admin"), env=process.environment, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await token.communicate()
        await create(service, "job-1")
        answers = [await service.poll("job-1", bearer(output.decode().strip())) for _ in range(MANY)]
        assert {answer.status for answer in answers} == {202}
