"""How the service ends: gracefully when it is told to, at once when told twice, in a sentence when it cannot start."""

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from harness import forking
from harness.command import assert_sentence, run_in_time
from harness.http import request
from harness.jobs import complete, create
from harness.raw import answers_in, connection
from harness.service import Process, Service
from harness.tokens import SECRET, admin_token, bearer
from harness.waiting import until
from harness.wire import Refusal, channel_to, refusal_of
from jobstatus.v1 import job_status_pb2 as pb

STOP_SECONDS = 60.0
WRITERS, POLLERS, WATCHES = 40, 20, 50
POLL = f"GET /v1/async/audio/transcriptions/polled HTTP/1.1\r\nHost: test\r\n{bearer(admin_token())}\r\n\r\n".encode()
SIGNALS = [signal.SIGTERM, signal.SIGINT]


# --- under load ---


@dataclass(slots=True)
class Seen:
    """What the clients of a service saw until it was gone."""

    results: dict[str, bytes] = field(default_factory=dict)
    """The result of each job whose end was acknowledged."""
    refusals: list[Refusal] = field(default_factory=list)
    """Why writes were refused by the service itself."""
    failures: list[grpc.StatusCode] = field(default_factory=list)
    """How writes failed for which the service gave no reason."""
    watches: list[Refusal] = field(default_factory=list)
    """How watches ended."""
    polls: int = 0
    """How many polls were answered whole."""
    cut: list[bytes] = field(default_factory=list)
    """Answers that were not."""


async def write(service: Service, writer: int, seen: Seen) -> None:
    """Create and complete jobs until that is refused."""
    for number in range(100_000):
        job_id, result = f"job-{writer}-{number}", b'{"text": "%d of %d"}' % (number, writer)
        try:
            await create(service, job_id)
            await complete(service, job_id, result)
        except grpc.aio.AioRpcError as error:
            if error.trailing_metadata():
                seen.refusals.append(refusal_of(error))
            else:
                seen.failures.append(error.code())
            return
        seen.results[job_id] = result


async def poll(port: int, seen: Seen) -> None:
    """Poll on one connection until the server closes it."""
    async with connection(port) as (reader, writer):
        for _ in range(100_000):
            data = await answer_to(POLL, reader, writer)
            if not data:
                return
            try:
                (answer,) = answers_in(data)
            except (AssertionError, KeyError, ValueError):
                seen.cut.append(data)
                return
            assert answer.status == 202
            seen.polls += 1


async def answer_to(data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """What is answered, as long as its Content-Length says; less only if the server closes the connection."""
    received = b""
    try:
        writer.write(data)
        received = await reader.readuntil(b"\r\n\r\n")
        (size,) = [line for line in received.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return received + await reader.readexactly(int(size.partition(b":")[2]))
    except asyncio.IncompleteReadError as end:
        return received + end.partial
    except ConnectionError:
        return received


async def watch(service: Service, seen: Seen, watching: list[pb.Job]) -> None:
    """Watch a job that does not end."""
    try:
        async for message in service.jobs.WatchJob(pb.WatchJobRequest(job_id="polled")):
            watching.append(message.job)  # noqa: PERF401  # others count them meanwhile
    except grpc.aio.AioRpcError as error:
        seen.watches.append(refusal_of(error))


async def stopped_under_load(process: Process, number: signal.Signals) -> Seen:
    """Many writers, pollers on connections that they keep, and watches; the signal; the end, in time and with 0."""
    seen, watching = Seen(), list[pb.Job]()
    async with process.connected() as service, asyncio.timeout(240):
        await create(service, "polled")
        async with asyncio.TaskGroup() as clients:
            for writer in range(WRITERS):
                clients.create_task(write(service, writer, seen))
            for _ in range(POLLERS):
                clients.create_task(poll(service.http_port, seen))
            for _ in range(WATCHES):
                clients.create_task(watch(service, seen, watching))
            await until(lambda: len(seen.results) > 2 * WRITERS and seen.polls > 2 * POLLERS, seconds=120)
            await until(lambda: len(watching) == WATCHES)
            process.send(number)
            assert await process.ended(STOP_SECONDS) == 0
    return seen


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_stop_under_load_loses_nothing(tmp_path: Path, number: signal.Signals, workers: str) -> None:
    """Exit code 0 in time, every acknowledged write there afterwards, no answer cut short, every watch told why.

    No write is refused by the service: one that comes too late finds nobody there, or was not picked up.
    """
    async with Process(tmp_path, WORKERS=workers) as process:
        seen = await stopped_under_load(process, number)
        assert not seen.cut
        told = Refusal(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert seen.watches == [told] * WATCHES
        assert seen.refusals == []
        assert len(seen.failures) == WRITERS
        assert set(seen.failures) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        await process.start()
        async with process.connected() as service:
            assert await read_all(service, list(seen.results)) == seen.results


async def read_all(service: Service, job_ids: list[str]) -> dict[str, bytes]:
    """The results of these jobs."""
    results: dict[str, bytes] = {}
    for first in range(0, len(job_ids), 1000):
        answer = await service.jobs.BatchGetJobs(pb.BatchGetJobsRequest(job_ids=job_ids[first : first + 1000]))
        results |= {job.job_id: job.result for job in answer.jobs}
    return results


# --- step by step ---


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_stop_is_announced_before_anything_is_refused(tmp_path: Path, number: signal.Signals) -> None:
    """During the stop delay health says NOT_SERVING and readiness 503, while polls and writes are still served."""
    async with (
        Process(tmp_path, STOP_DELAY_SECONDS="6") as process,
        process.connected() as service,
        channel_to(service.grpc_port) as channel,
    ):
        health: Any = HealthStub(channel)

        async def told() -> tuple[str, int]:
            answer = await health.Check(health_pb2.HealthCheckRequest())
            status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            return status, (await request(service.admin_port, "/readyz")).status

        async def is_serving() -> bool:
            return await told() == ("SERVING", 200)

        async def says_no() -> bool:
            return await told() == ("NOT_SERVING", 503)

        await until(is_serving)
        process.send(number)
        await until(says_no)
        await create(service, "job-1")
        assert (await service.poll("job-1", bearer(admin_token()))).status == 202
        assert await process.ended(6 + STOP_SECONDS) == 0


@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.parametrize("first", SIGNALS)
async def test_a_second_signal_ends_at_once(tmp_path: Path, first: signal.Signals, second: signal.Signals) -> None:
    """Whoever does not want to wait for a graceful stop tells it again; the exit code names the second signal."""
    async with Process(tmp_path, STOP_DELAY_SECONDS="60") as process, process.connected() as service:

        async def is_stopping() -> bool:
            return (await request(service.admin_port, "/readyz")).body == b'{"status": "stopping"}'

        process.send(first)
        await until(is_stopping)
        process.send(second)
        assert await process.ended(STOP_SECONDS) == 128 + second


# --- starts that fail ---


async def refused_start(process: Process) -> str:
    """The one sentence with which `jobstatus serve` ends, with exit code 2 and nothing else for a person to read."""
    ended = await forking.run("serve", env=process.environment, cwd=process.folder)
    assert (ended.code, ended.out) == (2, ""), ended
    assert SECRET not in ended.err
    lines = [line for line in ended.err.splitlines() if not line.startswith("{")]  # the rest is the log
    assert len(lines) == 1, ended
    (sentence,) = lines
    assert sentence.startswith("jobstatus: ")
    return sentence.removeprefix("jobstatus: ")


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on which somebody else listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("name", ["HTTP", "GRPC", "ADMIN"])
async def test_a_port_that_is_taken_is_named(tmp_path: Path, taken_port: int, name: str) -> None:
    """A start that cannot have one of its ports says which."""
    sentence = await refused_start(Process(tmp_path, **{name: f"127.0.0.1:{taken_port}"}))
    assert f"127.0.0.1:{taken_port}" in sentence
    assert "in use" in sentence


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "an address without a port": ({"HTTP": "localhost"}, "JOBSTATUS_HTTP"),
    "an address with a port that is none": ({"HTTP": "127.0.0.1:70000"}, "JOBSTATUS_HTTP"),
    "an address that is no address": ({"ADMIN": "nonsense"}, "JOBSTATUS_ADMIN"),
    "a gRPC address for everybody, without TLS": ({"GRPC": "0.0.0.0:0"}, "JOBSTATUS_GRPC"),
    "an algorithm that there is not": ({"JWT_ALGORITHM": "none"}, "JOBSTATUS_JWT_ALGORITHM"),
    "no audience": ({"JWT_AUDIENCE": ""}, "JOBSTATUS_JWT_AUDIENCE"),
    "no issuer": (dict.fromkeys(("JWT_ISSUER", "JWT_AUDIENCE", "JWT_ALGORITHM", "JWT_SECRET"), ""), "JOBSTATUS_JWT"),
    "issuers and none": ({"JWT": "off"}, "JOBSTATUS_JWT"),
    "a number that is too large": ({"SWEEP_INTERVAL_SECONDS": "3600"}, "JOBSTATUS_SWEEP_INTERVAL_SECONDS"),
    "a number that is none": ({"MAX_RESULT_BYTES": "many"}, "JOBSTATUS_MAX_RESULT_BYTES"),
    "a file of settings that is not there": ({"CONFIG": "/nowhere.toml"}, "JOBSTATUS_CONFIG"),
}
"""Settings that are refused when they are read."""
UNUSABLE: dict[str, tuple[dict[str, str], str]] = {
    "a store that there is not": ({"STORE": "mysql://localhost/jobs"}, "store"),
    "a store without a path": ({"STORE": "sqlite://"}, "store"),
    "a secret that is too short": ({"JWT_SECRET": "hunter2"}, "secret"),
    "a key file that is not there": ({"JWT_SECRET": "", "JWT_PUBLIC_KEY_FILE": "/nowhere.pem"}, "PUBLIC_KEY_FILE"),
}
"""Settings that are refused when they are used, after the log is set up, which only a process of its own may do."""


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_setting_is_named(tmp_path: Path, what: str) -> None:
    """A start with a setting that cannot be served says which, and repeats no secret."""
    settings, name = WRONG[what]
    ended = run_in_time("serve", env=Process(tmp_path, **settings).settings, cwd=tmp_path)
    assert_sentence(ended, 2, name)
    assert SECRET not in ended.err


@pytest.mark.parametrize("what", UNUSABLE)
async def test_an_unusable_setting_is_named(tmp_path: Path, what: str) -> None:
    """So does a start that finds out later."""
    settings, name = UNUSABLE[what]
    sentence = await refused_start(Process(tmp_path, **settings))
    assert name in sentence
    assert "hunter2" not in sentence


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("max_results = 5", "max_results"),
        ("http = 8080", "JOBSTATUS_HTTP"),
        ('[[issuers]]\nissuer = "x"\naudience = "y"\nalgorithm = "HS256"\nsecrets = "hunter2"', "secrets"),
        ("this is not TOML", "JOBSTATUS_CONFIG"),
    ],
)
def test_a_wrong_file_of_settings_is_named(tmp_path: Path, text: str, name: str) -> None:
    """A key that there is not, a value that it cannot have, or a file that is no TOML is told in one sentence."""
    config = tmp_path / "jobstatus.toml"
    config.write_text(text)
    settings = Process(tmp_path, CONFIG=str(config)).settings
    if name == "JOBSTATUS_HTTP":
        del settings[name]
    ended = run_in_time("serve", env=settings, cwd=tmp_path)
    assert_sentence(ended, 2)
    assert name.lower() in ended.err.lower()
    assert "hunter2" not in ended.err


async def test_a_file_that_is_no_store_is_named(tmp_path: Path) -> None:
    """A store that refuses its file ends the start in one sentence, too."""
    (tmp_path / "jobs.db").write_text("not a database\n" * 1000)
    assert str(tmp_path / "jobs.db") in await refused_start(Process(tmp_path))
