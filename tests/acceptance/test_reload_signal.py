"""SIGHUP: processes of the command take new files into use while they are polled and called, and lose no call."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
from harness.certificates import Authorities
from harness.http import request
from harness.jobs import create, creation
from harness.service import EdgeProcess, Process, service_here
from harness.tokens import bearer, virtual_key_token
from harness.waiting import until
from harness.workers import WORKERS, children_of, log_of
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub

OLD: Final = "the first secret of these tests, with more than 32 bytes"
NEW: Final = "the second secret of these tests, with more than 32 bytes"
STEADY: Final = "a secret that stays in these tests, with more than 32 bytes"
POLLERS: Final = 2
CALLERS: Final = 2


def write(path: Path | str, text: str) -> None:
    """Replace a file as it should not be done: in place."""
    Path(path).write_text(text)


def write_secret(folder: Path, secret: str) -> str:
    """Put the secret into its file, as documented: beside the old one, and renamed."""
    path = folder / "secret"
    (folder / "secret.new").write_text(f"{secret}\n")
    (folder / "secret.new").rename(path)
    return str(path)


def settings_in(folder: Path, **more: str) -> dict[str, str]:
    """The variables of a process whose secret is in a file, and whose other settings are in one too."""
    (folder / "jobstatus.toml").write_text("")
    return {
        "CONFIG": str(folder / "jobstatus.toml"),
        "JWT_SECRET": "",
        "JWT_SECRET_FILE": write_secret(folder, OLD),
        **more,
    }


async def status_with(port: int, secret: str) -> int:
    """What a poll of job-1 with a token of this secret gets, on a connection of its own."""
    header = bearer(virtual_key_token("vk-1", secret=secret))
    return (await request(port, "/v1/async/audio/transcriptions/job-1", header)).status


@dataclass
class Load:
    """What came of the polls and calls."""

    outcomes: set[object] = field(default_factory=set)
    polls: int = 0
    calls: int = 0


@asynccontextmanager
async def under_load(http_port: int, channel: grpc.aio.Channel, header: str) -> AsyncIterator[Load]:
    """Poll job-1 and call for it without a pause, while the context lasts."""
    load, jobs, going_on = Load(), JobStatusStub(channel), True

    async def poll() -> None:
        while going_on:
            answer = await request(http_port, "/v1/async/audio/transcriptions/job-1", header)
            load.outcomes.add(answer.status)
            load.polls += 1

    async def call() -> None:
        while going_on:
            load.outcomes.add((await jobs.GetJob(pb.GetJobRequest(job_id="job-1"))).job.job_id)
            load.calls += 1

    async with asyncio.TaskGroup() as group:
        for work in (poll,) * POLLERS + (call,) * CALLERS:
            group.create_task(work())
        yield load
        going_on = False


@asynccontextmanager
async def secure_to(process: Process, authorities: Authorities) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of a worker with a certificate."""
    async with grpc.aio.secure_channel(f"127.0.0.1:{process.port('GRPC')}", authorities.client("worker")) as channel:
        yield channel


async def test_new_files_are_used_under_load(tmp_path: Path) -> None:
    """A certificate, a secret and the level of the log, at one signal; at the next a broken file changes nothing."""
    authorities = Authorities()
    tls = {name.upper(): str(path) for name, path in authorities.settings(tmp_path).items()}
    steady = tmp_path / "steady"
    write(steady, STEADY)
    settings = settings_in(tmp_path, STORE="memory://", **tls)
    entry = f'[[issuers]]\nissuer = "steady"\naudience = "jobstatus"\nalgorithm = "HS256"\nsecret_file = "{steady}"\n'
    write(settings["CONFIG"], entry)
    header = bearer(virtual_key_token("vk-1", iss="steady", secret=STEADY))
    async with Process(tmp_path, **settings) as process, secure_to(process, authorities) as channel:
        await JobStatusStub(channel).CreateJob(creation("job-1"))
        before = await authorities.certificate_of(process.port("GRPC"))
        async with under_load(process.port("HTTP"), channel, header) as load:
            authorities.settings(tmp_path)
            write_secret(tmp_path, NEW)
            write(settings["CONFIG"], f'log_level = "warning"\nmax_watchers = 7\n{entry}')
            process.send(signal.SIGHUP)
            await until(lambda: log_of(process, "reloaded") != [])
            after = await authorities.certificate_of(process.port("GRPC"))
            assert after != before
            assert [await status_with(process.port("HTTP"), secret) for secret in (OLD, NEW)] == [401, 202]
            (line,) = log_of(process, "reloaded")
            assert line["changed"] == ["grpc_tls_cert", "jwt_secret", "log_level"]
            assert line["needs_restart"] == ["max_watchers"]

            write(tls["GRPC_TLS_KEY"], "no key")
            write_secret(tmp_path, OLD)
            process.send(signal.SIGHUP)
            await until(lambda: log_of(process, "reload_refused") != [])
            assert await authorities.certificate_of(process.port("GRPC")) == after
            assert [await status_with(process.port("HTTP"), secret) for secret in (OLD, NEW)] == [401, 202]
            polls, calls = load.polls, load.calls
            await until(lambda: load.polls > polls + POLLERS and load.calls > calls + CALLERS)
        assert load.outcomes == {202, "job-1"}
        (refusal,) = log_of(process, "reload_refused")
        assert "the TLS files for gRPC cannot be used" in refusal["problem"]
        assert not any(secret in process.log_path.read_text() for secret in (OLD, NEW))
        process.send(signal.SIGTERM)
        assert await process.ended() == 0


async def test_serving_processes_reload_together(tmp_path: Path) -> None:
    """The supervisor says so in one line; one that is signalled itself goes on as before.

    So does one that replaces another after a file was refused.
    """
    authorities = Authorities()
    tls = {name.upper(): str(path) for name, path in authorities.settings(tmp_path).items()}
    async with Process(tmp_path, **settings_in(tmp_path, WORKERS=str(WORKERS), **tls)) as process:
        async with secure_to(process, authorities) as channel:
            await JobStatusStub(channel).CreateJob(creation("job-1"))
        port = process.port("HTTP")

        async def statuses(secret: str) -> set[int]:
            return {await status_with(port, secret) for _ in range(8 * WORKERS)}

        children = children_of(process)
        for child in children:
            child.send_signal(signal.SIGHUP)
        assert await statuses(OLD) == {202}
        write_secret(tmp_path, NEW)
        authorities.settings(tmp_path)
        process.send(signal.SIGHUP)
        await until(lambda: log_of(process, "reloaded") != [])
        assert (await statuses(NEW), await statuses(OLD)) == ({202}, {401})
        assert [line["changed"] for line in log_of(process, "reloaded")] == [["grpc_tls_cert", "jwt_secret"]]

        write_secret(tmp_path, "too short")
        process.send(signal.SIGHUP)
        await until(lambda: log_of(process, "reload_refused") != [])
        assert (await statuses(NEW), await statuses(OLD)) == ({202}, {401})
        assert len(log_of(process, "reload_refused")) == 1
        assert children_of(process) == children
        children[0].kill()
        await until(lambda: log_of(process, "child_replaced") != [])
        assert (await statuses(NEW), await statuses(OLD)) == ({202}, {401})


async def test_an_edge_reloads(tmp_path: Path) -> None:
    """By the same signal, with a line of its own."""
    async with service_here() as service:
        await create(service, "job-1")
        async with EdgeProcess(tmp_path, service, **settings_in(tmp_path)) as edge:
            write_secret(tmp_path, NEW)
            edge.send(signal.SIGHUP)
            await until(lambda: log_of(edge, "reloaded") != [])
            assert [await status_with(edge.port("HTTP"), secret) for secret in (OLD, NEW)] == [401, 202]
            edge.send(signal.SIGTERM)
            assert await edge.ended() == 0
