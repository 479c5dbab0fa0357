"""`jobstatus edge` from outside: what it loads, how it starts, lives through its service's death, and stops."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import psutil
import pytest
from harness import forking
from harness.certificates import Authorities
from harness.http import Answer, request
from harness.jobs import create, put_virtual_key
from harness.service import EdgeProcess, Process, Service
from harness.tokens import admin_token, bearer, virtual_key_token
from harness.waiting import until
from jobstatus.core.virtual_keys import hash_key

OWNER: Final = bearer(virtual_key_token("vk-1"))
ADMIN: Final = bearer(admin_token())
KEY: Final = "x-bf-vk: sk-bf-1"
STOP_SECONDS: Final = 60.0
HEAL_SECONDS: Final = 60.0
DISABLED_SECONDS: Final = 5.0
DRIVERS: Final = ("apsw", "psycopg", "libpq", "hiredis")


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    async with Process(tmp_path) as running:
        yield running


@pytest.fixture
async def service(process: Process) -> AsyncIterator[Service]:
    async with process.connected() as running:
        yield running


@pytest.fixture
async def edge(tmp_path: Path, service: Service) -> AsyncIterator[EdgeProcess]:
    async with EdgeProcess(tmp_path, service) as running:
        yield running


def front_of(edge: EdgeProcess, service: Service) -> Service:
    """The service as the edge shows it."""
    return service.behind(edge.port("HTTP"), edge.port("ADMIN"))


def libraries(process: Process) -> set[str]:
    """Which of the drivers' libraries the process has loaded."""
    assert process.child is not None
    paths = [region.path for region in psutil.Process(process.child.pid).memory_maps()]
    return {driver for driver in DRIVERS if any(driver in path for path in paths)}


# --- what it has ---


async def test_an_edge_loads_no_driver_and_opens_no_store(
    tmp_path: Path, process: Process, service: Service, edge: EdgeProcess
) -> None:
    """After polls of each kind it has no store's library in memory, where its service has one, and no file of one."""
    front = front_of(edge, service)
    await put_virtual_key(service, key_sha256=[hash_key("sk-bf-1")])
    await create(service, "job-1")
    assert [(await front.poll("job-1", header)).status for header in (OWNER, ADMIN, KEY)] == [202] * 3
    assert libraries(process) == {"apsw"}
    assert libraries(edge) == set()
    assert edge.child is not None
    assert not [
        file for file in psutil.Process(edge.child.pid).open_files() if file.path.startswith(str(tmp_path / "jobs"))
    ]


async def test_an_edge_listens_on_its_two_ports_alone(service: Service, edge: EdgeProcess) -> None:
    """REST and admin: no gRPC, and a single connection to the service."""
    assert edge.child is not None
    connections = psutil.Process(edge.child.pid).net_connections("inet")
    listening = {item.laddr.port for item in connections if item.status == psutil.CONN_LISTEN}
    assert listening == {edge.port("HTTP"), edge.port("ADMIN")}
    inside = [item for item in connections if item.raddr[1:] == (service.grpc_port,)]
    assert len(inside) == 1


async def test_tokens_of_development_are_accepted(tmp_path: Path) -> None:
    """`edge --dev` beside `serve --dev` takes the tokens that `jobstatus token` mints there."""
    none = dict.fromkeys(("JWT_ISSUER", "JWT_AUDIENCE", "JWT_ALGORITHM", "JWT_SECRET"), "")
    inside = Process(tmp_path, **none)
    inside.command = ("serve", "--dev")
    async with inside, inside.connected() as service:
        await create(service, "job-1")
        outside = EdgeProcess(tmp_path, service, **none)
        outside.command = ("edge", "--dev", "--upstream", outside.environment.pop("JOBSTATUS_UPSTREAM"))
        async with outside:
            minted = await forking.run("token", "virtual-key", "vk-1", env=inside.environment, cwd=tmp_path)
            front = front_of(outside, service)
            assert (await front.poll("job-1", bearer(minted.out.strip()))).status == 202
            assert (await front.poll("job-1", OWNER)).status == 401


# --- its service dies and comes back ---


async def poll_until(stop: asyncio.Event, front: Service, header: str, seen: list[tuple[float, Answer]]) -> None:
    """Poll again and again; when each poll was answered, and how."""
    while not stop.is_set():
        answer = await front.poll("job-1", header)
        seen.append((time.monotonic(), answer))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_an_edge_outlives_its_service(
    process: Process, service: Service, edge: EdgeProcess, number: signal.Signals
) -> None:
    """Killed or stopped, and started again: polls are the job or a 503, and the job again soon, without a restart."""
    front = front_of(edge, service)
    await create(service, "job-1")
    stop, seen = asyncio.Event(), list[tuple[float, Answer]]()
    async with asyncio.timeout(120), asyncio.TaskGroup() as pollers:
        for header in (OWNER, ADMIN) * 8:
            pollers.create_task(poll_until(stop, front, header, seen))
        await until(lambda: len(seen) > 100)
        process.send(number)
        await process.ended()
        await until(lambda: seen[-1][1].status == 503)
        await process.start()
        back_at = time.monotonic()
        await until(lambda: seen[-1][1].status == 202, HEAL_SECONDS)
        stop.set()
    assert set(Counter(answer.status for _, answer in seen)) == {202, 503}
    assert {answer.headers["retry-after"] for _, answer in seen if answer.status == 503} == {"2"}
    assert next(at for at, answer in seen if at > back_at and answer.status == 202) - back_at < HEAL_SECONDS


async def test_a_frozen_service_is_a_503_in_time_and_healed_when_it_goes_on(
    process: Process, service: Service, edge: EdgeProcess
) -> None:
    """A service that stands still holds no poll for long, readiness says so, and all is well when it goes on."""
    front = front_of(edge, service)
    await create(service, "job-1")
    assert (await front.poll("job-1", OWNER)).status == 202
    process.send(signal.SIGSTOP)
    try:
        async with asyncio.timeout(30):
            answers = await asyncio.gather(*(front.poll("job-1", header) for header in (OWNER, ADMIN) * 100))
        assert Counter((answer.status, answer.headers["retry-after"]) for answer in answers) == {(503, "2"): 200}
        assert (await request(front.admin_port, "/readyz")).status == 503
    finally:
        process.send(signal.SIGCONT)

    async def is_well() -> bool:
        ready = await request(front.admin_port, "/readyz")
        return (ready.status, (await front.poll("job-1", OWNER)).status) == (200, 202)

    await until(is_well)


async def test_a_virtual_key_disabled_while_the_service_is_away_stays_so(
    process: Process, service: Service, edge: EdgeProcess
) -> None:
    """What the edge remembers of a virtual key is not believed when it can no longer ask, nor when it can again."""
    front = front_of(edge, service)
    await put_virtual_key(service, key_sha256=[hash_key("sk-bf-1")])
    await create(service, "job-1")
    assert [(await front.poll("job-1", header)).status for header in (KEY, OWNER)] == [202, 202]
    await put_virtual_key(service, key_sha256=[hash_key("sk-bf-1")], disabled=True)
    disabled_at = time.monotonic()
    process.send(signal.SIGSTOP)
    seen: list[tuple[float, int]] = []

    async def poll_both() -> bool:
        """Whether the time is over in which the virtual key may still be believed."""
        for header in (KEY, OWNER):
            asked_at = time.monotonic()
            seen.append((asked_at - disabled_at, (await front.poll("job-1", header)).status))
        return time.monotonic() - disabled_at > DISABLED_SECONDS

    try:
        await until(poll_both)
    finally:
        process.send(signal.SIGCONT)

    async def are_refused() -> bool:
        await poll_both()
        return [status for _, status in seen[-2:]] == [401, 401]

    await until(are_refused)
    assert {status for seconds, status in seen if seconds > DISABLED_SECONDS} <= {401, 503}, seen


# --- the end ---


async def test_a_stop_is_announced_and_answers_everybody(tmp_path: Path, process: Process, service: Service) -> None:
    """Readiness says so first, while polls are served; who waits for a service that hangs is told; it exits with 0."""
    await create(service, "job-1")
    async with EdgeProcess(tmp_path, service, STOP_DELAY_SECONDS="5") as stopping:
        front = front_of(stopping, service)
        assert (await front.poll("job-1", OWNER)).status == 202
        stopping.send(signal.SIGTERM)

        async def is_stopping() -> bool:
            return (await request(front.admin_port, "/readyz")).body == b'{"status": "stopping"}'

        await until(is_stopping)
        assert (await front.poll("job-1", OWNER)).status == 202
        process.send(signal.SIGSTOP)
        try:
            waiting = [asyncio.create_task(front.poll("job-1", ADMIN)) for _ in range(20)]
            assert await stopping.ended(5 + STOP_SECONDS) == 0
            assert Counter(answer.status for answer in await asyncio.gather(*waiting)) == {503: 20}
        finally:
            process.send(signal.SIGCONT)


async def test_a_second_signal_ends_at_once(tmp_path: Path, service: Service) -> None:
    """Told twice, it does not wait; the exit code names the signal."""
    async with EdgeProcess(tmp_path, service, STOP_DELAY_SECONDS="60") as stopping:
        stopping.send(signal.SIGTERM)
        admin = stopping.port("ADMIN")

        async def is_stopping() -> bool:
            return (await request(admin, "/readyz")).status == 503

        await until(is_stopping)
        stopping.send(signal.SIGINT)
        assert await stopping.ended(STOP_SECONDS) == 128 + signal.SIGINT


# --- over TLS ---


async def test_an_edge_over_mutual_tls(tmp_path: Path) -> None:
    """The commands as an operator would start them: a certificate for each, and the edge's may only read."""
    authorities = Authorities()
    inside = {name.upper(): str(path) for name, path in authorities.settings(tmp_path).items()}
    outside = {name.upper(): str(path) for name, path in authorities.upstream_settings(tmp_path, "edge").items()}
    async with (
        Process(tmp_path, **inside, GRPC_ALLOWED_CLIENTS="worker", GRPC_EDGE_CLIENTS="edge") as process,
        process.connected() as service,
        EdgeProcess(tmp_path, service, **outside) as edge,
    ):
        front = front_of(edge, service)
        assert (await front.poll("job-1", OWNER)).status == 404
        assert (await request(front.admin_port, "/readyz")).status == 200
        create_one = ("jobs", "create", "transcription", "--job-id", "job-1", "--virtual-key-id", "vk-1")
        exits = {}
        for name in ("edge", "worker"):
            folder = tmp_path / name
            folder.mkdir()
            files = authorities.upstream_settings(folder, name)
            client = {
                f"JOBSTATUS_CLIENT_{key.removeprefix('upstream_').upper()}": str(path) for key, path in files.items()
            }
            ended = await forking.run(*create_one, env=process.environment | client, cwd=tmp_path)
            exits[name] = ended.code
        assert exits["edge"] != 0
        assert exits["worker"] == 0
        assert (await front.poll("job-1", OWNER)).status == 202
