"""The proxies of docs/proxies in front of two replicas: does a poller or a worker notice that there is one?

    python tests/soak/proxies.py [--only nginx haproxy] [--silent-seconds 65]

Starts those that are installed, each with its file, and asks the same of all of them, and of a replica itself in the
first column: answers as they are, events without delay, large results, the longest wait, streams that are silent for
longer than the proxies' default limits, a stop of one replica, and the shared store away. Prints a table and says which
proxies are not installed. Exits with 0 when nothing was wrong, else with 1.
"""

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import aiohttp
import grpc
from harness.jobs import complete, completion, create, start
from harness.ports import reserve
from harness.proxies import HOSTS, PROXIES, Ports, Proxy, running
from harness.service import Process, Service
from harness.tokens import virtual_key_token
from harness.valkey import Server
from harness.verdict import verdict
from harness.waiting import until
from jobstatus.client import JobStatusClient, JobStatusError, RequestType
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub
from rich.console import Console
from rich.table import Table

SILENT_SECONDS: Final = 65.0
"""Longer than the default limits of nginx (60 s) and of HAProxy as distributions configure it (50 s)."""
STEP_SECONDS: Final = 30.0
STOP_SECONDS: Final = 8.0
"""How long clients go on while a replica is stopped and started again."""
AWAY_SECONDS: Final = 4.0
"""How long the store is away: longer than it takes a proxy's checks to fail."""
LATE_SECONDS: Final = 1.0
"""A proxy that is back so much later than both replicas has sent pollers away for no reason."""
DELAY_MS: Final = 30.0
"""How late three quarters of the events may be. A proxy that waits for more to send is late by 40 to 200 ms."""
JOBS: Final = 5
MIB: Final = 1024 * 1024
LONG_BYTES: Final = 8_100
"""Of a credential: the service accepts header lines of up to 8190 bytes."""
POLLERS: Final = 4
PATH: Final = "/v1/async/audio/transcriptions/"
CREDENTIAL: Final = {"Authorization": f"Bearer {virtual_key_token('vk-1')}"}
STREAM: Final = {"Accept": "text/event-stream"}
KEPT: Final = ("ETag", "Retry-After", "X-Request-Id", "Content-Type", "Cache-Control", "WWW-Authenticate", "Allow")
UNREAD: Final = -1
"""The version of a job that an edge follows and has not read, so that it is told of the job at once."""
CHANNEL: Final = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


FAILURES: Final = (
    aiohttp.ClientError,
    grpc.aio.AioRpcError,
    asyncio.InvalidStateError,  # a stream that has ended is written to
    JobStatusError,
    TimeoutError,
    StopAsyncIteration,
)
"""How a call ends that was not answered."""


class Wrong(Exception):
    """What a client must not see; the message says what it saw."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    """In any case of letters: HAProxy makes all of them small."""
    body: bytes

    @property
    def is_ours(self) -> bool:
        """Whether the service has made it, and not the proxy, which would speak HTML or plain text."""
        return self.headers.get("Content-Type") == "application/json"

    def __str__(self) -> str:
        return f"{self.status} {self.body[:80]!r}"


@dataclass(slots=True, kw_only=True)
class Front:
    """Where clients ask: a proxy or a replica. `cells` tells what they found, `problems` what was wrong."""

    name: str
    session: aiohttp.ClientSession
    rpc_port: int | None
    cells: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def job(self, purpose: str) -> str:
        """The id of a job of its own."""
        return f"{self.name.split(' ')[0]}-{purpose}"

    async def poll(self, job_id: str, method: str = "GET", **headers: str) -> Seen:
        """One answer, read to its end."""
        asked = CREDENTIAL | {name.replace("_", "-"): text for name, text in headers.items()}
        async with self.session.request(method, PATH + job_id, headers=asked) as answer:
            return Seen(answer.status, answer.headers, await answer.read())

    @asynccontextmanager
    async def events(self, job_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The data of each event, until the stream ends."""
        async with self.session.get(PATH + job_id, headers=CREDENTIAL | STREAM) as answer:
            expect(answer.content_type == "text/event-stream", f"{answer.status} {answer.content_type}")
            yield _data(answer.content)

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[JobStatusStub]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.rpc_port}", CHANNEL) as channel:
            yield JobStatusStub(channel)


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What the proxies stand in front of. `service` is the first replica; `replicas` are asked without a proxy."""

    store: Server
    processes: Sequence[Process]
    service: Service
    replicas: Sequence[Front]


Check: TypeAlias = Callable[[Site, Front], Awaitable[str]]


def expect(is_so: bool, problem: object) -> None:
    """Raise Wrong unless it is so."""
    if not is_so:
        raise Wrong(str(problem))


async def _data(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    async for line in content:
        if line.startswith(b"data: "):
            yield line.removeprefix(b"data: ")


# --- one client at a time ---


async def passes_answers(site: Site, front: Front) -> str:
    """Each kind of answer is the service's, to the byte, and so are the headers that clients use."""
    asked: tuple[tuple[str, str, dict[str, str]], ...] = (
        ("done", "GET", {}),
        ("done", "HEAD", {}),
        ("done", "GET", {"If_None_Match": "*"}),
        ("%64one", "GET", {}),
        ("going", "GET", {}),
        ("unknown", "GET", {}),
        ("done", "GET", {"Authorization": "Bearer x"}),
        ("done", "GET", {"Authorization": f"Bearer {'x' * LONG_BYTES}"}),
        ("done", "OPTIONS", {"Origin": "https://app.example.com", "Access_Control_Request_Method": "GET"}),
        ("done", "DELETE", {}),
    )
    for job_id, method, headers in asked:
        seen = await front.poll(job_id, method, X_Request_Id="own", **headers)
        direct = await site.replicas[0].poll(job_id, method, X_Request_Id="own", **headers)
        expect((seen.status, seen.body) == (direct.status, direct.body), f"{method} {job_id}: {seen}, not {direct}")
        for name in KEPT:
            told, was = seen.headers.get(name), direct.headers.get(name)
            expect(told == was, f"{method} {job_id} {seen.status}: {name} is {told!r}, not {was!r}")
    return "the same"


async def sends_events(site: Site, front: Front) -> str:
    """Each event comes at once. While there is one replica, nothing but the proxy can be late."""
    late: list[float] = []
    for number in range(JOBS):
        job_id = front.job(f"events-{number}")
        await create(site.service, job_id)
        async with asyncio.timeout(STEP_SECONDS), front.events(job_id) as events:
            await anext(events)
            for change in (start, complete):
                await change(site.service, job_id)
                changed_at = time.monotonic()
                await anext(events)
                late.append(1000 * (time.monotonic() - changed_at))
            expect(await anext(events, None) is None, "the stream goes on after the end")
    *_, most = statistics.quantiles(late, n=4)
    expect(most <= DELAY_MS, f"events are {most:.0f} ms late")
    return f"{most:.0f} ms"


async def ends_waits(site: Site, front: Front) -> str:
    """A poll that waits is answered when its job ends."""
    job_id = front.job("wait")
    await create(site.service, job_id)
    async with asyncio.timeout(STEP_SECONDS):
        waiting = asyncio.ensure_future(front.poll(job_id, Prefer="wait=30"))
        await until(lambda: _waits(site))
        await complete(site.service, job_id)
        ended_at = time.monotonic()
        seen = await waiting
    expect(seen.status == 200 and seen.headers.get("Preference-Applied") == "wait=30", seen)
    return f"{1000 * (time.monotonic() - ended_at):.0f} ms"


async def _waits(site: Site) -> bool:
    """Whether a poll waits at a replica."""
    for process in site.processes:
        host, _, port = process.environment["JOBSTATUS_ADMIN"].rpartition(":")
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/metrics") as answer:
            if "\njobstatus_waiting_polls 1.0\n" in await answer.text():
                return True
    return False


async def sends_large(site: Site, front: Front) -> str:
    """A result of 16 MiB comes whole, to four clients at a time."""
    job_id, began = "large", time.monotonic()
    async with asyncio.timeout(STEP_SECONDS):
        answers = await asyncio.gather(*(front.poll(job_id) for _ in range(4)))
    direct = await site.replicas[0].poll(job_id)
    for seen in answers:
        expect(seen.status == 200 and seen.body == direct.body, f"{len(seen.body)} bytes, {seen}")
    return f"{time.monotonic() - began:.1f} s"


async def carries_large(_: Site, front: Front) -> str:
    """A worker's result of 16 MiB goes to the service, and comes back."""
    job_id, result, began = front.job("carried"), b'"' + b"x" * (16 * MIB - 2) + b'"', time.monotonic()
    async with asyncio.timeout(STEP_SECONDS), front.channel() as jobs:
        await jobs.CreateJob(pb.CreateJobRequest(job_id=job_id, request_type=pb.REQUEST_TYPE_TRANSCRIPTION))
        await jobs.CompleteJob(completion(job_id, result))
        found = await jobs.GetJob(pb.GetJobRequest(job_id=job_id))
    expect(found.job.result == result, f"{len(found.job.result)} bytes came back")
    return f"{time.monotonic() - began:.1f} s"


# --- silence ---


async def keeps_silent_polls(seconds: float, site: Site, front: Front) -> str:
    """The longest wait is answered by the service; an event stream lives on, and has the event that comes at last."""
    job_id = front.job("silent")
    await create(site.service, job_id)
    async with asyncio.timeout(seconds + STEP_SECONDS), front.events(job_id) as events:
        await anext(events)
        waiting = asyncio.ensure_future(front.poll("going", Prefer=f"wait={min(60, seconds):.0f}"))
        await asyncio.sleep(seconds)
        seen = await waiting
        expect(seen.status == 202 and "Preference-Applied" in seen.headers, seen)
        await complete(site.service, job_id)
        expect(b'"completed"' in await anext(events), "the last event is another")
    return seen.headers["Preference-Applied"]


async def keeps_silent_calls(seconds: float, site: Site, front: Front) -> str:
    """A worker's watch and an edge's stream live on, in both directions, and tell at last that the job has ended."""
    job_id = front.job("watched")
    job = await create(site.service, job_id)
    async with asyncio.timeout(seconds + STEP_SECONDS), front.channel() as jobs:
        watch, follow = jobs.WatchJob(pb.WatchJobRequest(job_id=job_id)), jobs.FollowJobs()
        await follow.write(pb.FollowJobsRequest(versions={job_id: job.version}))
        await watch.read()
        await asyncio.sleep(seconds)
        await complete(site.service, job_id)
        await follow.write(pb.FollowJobsRequest(versions={"done": UNREAD}))
        await _until_told(follow, {job_id, "done"})
        message = await watch.read()
        is_ended = isinstance(message, pb.WatchJobResponse) and message.job.state == pb.JOB_STATE_COMPLETED
        expect(is_ended, f"the watch is told {message}")
        follow.cancel()
    return f"{seconds:.0f} s"


async def _until_told(follow: Any, job_ids: set[str]) -> None:
    """Return once the edge was told of these jobs."""
    missing = set(job_ids)
    while missing:
        response = await follow.read()
        expect(response is not grpc.aio.EOF, "the edge's stream has ended")
        missing -= set(response.job_ids)


# --- a replica stops ---


async def survives_stop(ends_at: float, _: Site, front: Front) -> str:
    """Pollers, waits and streams notice nothing, or what they have to expect: a wait or a stream that ends early."""
    loops = [_poll_on(front, ends_at) for _ in range(POLLERS)]
    loops += [_poll_on(front, ends_at, Prefer="wait=30") for _ in range(2)]
    loops += [_follow_on(front, ends_at) for _ in range(2)]
    done = await asyncio.gather(*loops)
    return f"{sum(done):,} answers"


async def _poll_on(front: Front, ends_at: float, **headers: str) -> int:
    answers = 0
    try:
        async with asyncio.timeout_at(ends_at):
            while True:
                seen = await front.poll("going", **headers)
                expect(seen.status == 202 and seen.is_ours, f"{seen} after {answers} answers")
                answers += 1
                await asyncio.sleep(0.01)
    except TimeoutError:
        return answers


async def _follow_on(front: Front, ends_at: float) -> int:
    streams = 0
    try:
        async with asyncio.timeout_at(ends_at):
            while True:
                streams += 1
                async with front.session.get(PATH + "going", headers=CREDENTIAL | STREAM) as answer:
                    expect(answer.status in (200, 202), f"an event stream is answered with {answer.status}")
                    async for _ in answer.content:
                        pass
                await asyncio.sleep(0.1)
    except TimeoutError:
        return streams


async def repeats_calls(ends_at: float, _: Site, front: Front) -> str:
    """Each call of a client that repeats them succeeds."""
    calls, loop = 0, asyncio.get_running_loop()
    async with JobStatusClient(f"127.0.0.1:{front.rpc_port}") as client:
        while loop.time() < ends_at:
            job = await client.create_job(request_type=RequestType.OCR)
            found = await client.get_job(job.job_id)
            expect(found.job_id == job.job_id, f"another job: {found}")
            calls += 2
            await asyncio.sleep(0.01)
    return f"{calls:,} calls"


async def stop_one(site: Site) -> None:
    """Stop the second replica while its clients ask, and start it again."""
    await asyncio.sleep(1)
    process = site.processes[1]
    process.send(signal.SIGTERM)
    expect(await process.ended() == 0, "the replica did not stop as it should")
    await asyncio.sleep(1)
    await process.start()


# --- the store is away ---


async def tells_of_store(back: asyncio.Event, _: Site, front: Front) -> str:
    """Pollers hear from the service that it cannot tell now, and hear from it again as soon as it can."""
    ends_at = time.monotonic() + AWAY_SECONDS
    while time.monotonic() < ends_at:
        seen = await front.poll("going")
        expect(seen.status == 503 and seen.is_ours and "Retry-After" in seen.headers, f"{seen} from the proxy")
        await asyncio.sleep(0.1)
    await back.wait()
    back_at = time.monotonic()
    await until(lambda: _answers(front, 202, times=4), STEP_SECONDS)
    late = time.monotonic() - back_at
    expect(late <= LATE_SECONDS, f"back {late:.1f} s after the replicas")
    return f"+{late:.1f} s"


async def take_store_away(site: Site, back: asyncio.Event) -> None:
    """Give it back after a while, and say when both replicas have it."""
    await asyncio.sleep(AWAY_SECONDS + 1)
    await asyncio.to_thread(site.store.start)
    for replica in site.replicas:
        await until(lambda: _answers(replica, 202), STEP_SECONDS)  # noqa: B023  # awaited at once
    back.set()


async def _answers(front: Front, status: int, times: int = 1) -> bool:
    return all([(await front.poll("going")).status == status for _ in range(times)])


# --- all of it ---


async def note(site: Site, front: Front, row: str, check: Check) -> None:
    """Let the front be checked, and keep what was found or what was wrong."""
    try:
        front.cells[row] = await check(site, front)
    except (Wrong, *FAILURES) as wrong:
        front.cells[row] = "[red]wrong"
        front.problems.append(f"{front.name}: {row}: {type(wrong).__name__}: {wrong}")


async def check_all(site: Site, fronts: Sequence[Front], silent_seconds: float) -> None:
    rpc_fronts = [front for front in fronts if front.rpc_port is not None]
    for front in fronts:
        await note(site, front, "answers", passes_answers)
        await note(site, front, "events", sends_events)
    await site.processes[1].start()
    for front in fronts:
        await note(site, front, "a wait", ends_waits)
        await note(site, front, "16 MiB", sends_large)
    for front in rpc_fronts:
        await note(site, front, "gRPC: 16 MiB", carries_large)
    polls, calls = partial(keeps_silent_polls, silent_seconds), partial(keeps_silent_calls, silent_seconds)
    await together(site, [(fronts, "longest wait", polls), (rpc_fronts, "gRPC: silence", calls)])
    await check_stop(site, fronts, rpc_fronts)
    await check_store(site, fronts)


async def together(site: Site, checks: Sequence[tuple[Sequence[Front], str, Check]], *others: Awaitable[None]) -> None:
    """Check fronts at the same time, while something else happens."""
    notes = [note(site, front, row, check) for fronts, row, check in checks for front in fronts]
    await asyncio.gather(*notes, *others)


async def check_stop(site: Site, fronts: Sequence[Front], rpc_fronts: Sequence[Front]) -> None:
    ends_at = asyncio.get_running_loop().time() + STOP_SECONDS
    polls, calls = partial(survives_stop, ends_at), partial(repeats_calls, ends_at)
    await together(site, [(fronts, "a stop", polls), (rpc_fronts, "gRPC: a stop", calls)], stop_one(site))


async def check_store(site: Site, fronts: Sequence[Front]) -> None:
    back = asyncio.Event()
    site.store.kill()
    for replica in site.replicas:
        await until(lambda: _answers(replica, 503), STEP_SECONDS)  # noqa: B023  # awaited at once
    await together(site, [(fronts, "store away", partial(tells_of_store, back))], take_store_away(site, back))


async def run(proxies: Sequence[Proxy], folder: Path, silent_seconds: float) -> list[Front]:
    """Start everything, and return the fronts with what was found."""
    async with AsyncExitStack() as stack:
        http, rpc, admin = (reserve(hosts=[*HOSTS.values()]) for _ in range(3))
        site = await _site(stack, folder, {"HTTP": http, "GRPC": rpc, "ADMIN": admin})
        fronts = [site.replicas[0]]
        for proxy in proxies:
            rest, calls = (reserve(hosts=[*HOSTS.values()]) for _ in range(2))
            ports = Ports(http=http, grpc=rpc, admin=admin, rest=rest, rpc=calls)
            await stack.enter_async_context(running(proxy, folder / proxy.file, ports))
            rpc_port = calls if proxy.speaks_grpc else None
            fronts.append(await _front(stack, proxy.described(), f"127.0.0.1:{rest}", rpc_port))
        await check_all(site, fronts, silent_seconds)
    return fronts


async def _site(stack: AsyncExitStack, folder: Path, ports: Mapping[str, int]) -> Site:
    """The store, the first replica, and the second one, which is still to be started; and jobs in each state."""
    store = Server().start()
    stack.callback(store.remove)
    processes = []
    for name, host in HOSTS.items():
        (folder / name).mkdir()
        addresses = {setting: f"{host}:{port}" for setting, port in ports.items()}
        processes.append(Process(folder / name, STORE=store.url(), **addresses))
    await stack.enter_async_context(processes[0])
    stack.push_async_callback(processes[1].__aexit__)
    service = await stack.enter_async_context(processes[0].connected())
    for job_id in ("going", "done", "large"):
        await create(service, job_id)
    await complete(service, "done")
    await complete(service, "large", b'"' + b"x" * (16 * MIB - 2) + b'"')
    replicas = [await _front(stack, name, f"{host}:{ports['HTTP']}", ports["GRPC"]) for name, host in HOSTS.items()]
    return Site(store=store, processes=processes, service=service, replicas=replicas)


async def _front(stack: AsyncExitStack, name: str, address: str, rpc_port: int | None) -> Front:
    session = aiohttp.ClientSession(
        f"http://{address}", connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
    )
    return Front(name=name, session=await stack.enter_async_context(session), rpc_port=rpc_port)


def table_of(fronts: Sequence[Front]) -> Table:
    """What was found, for a person."""
    table = Table("", *(front.name for front in fronts))
    for row in dict.fromkeys(row for front in fronts for row in front.cells):
        table.add_row(row, *(front.cells.get(row, "-") for front in fronts))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [proxy.name.split(" ")[0].lower() for proxy in PROXIES]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="which proxies")
    parser.add_argument("--silent-seconds", type=float, default=SILENT_SECONDS, help="(%(default)s)")
    given = parser.parse_args()
    wanted = [proxy for name, proxy in zip(names, PROXIES, strict=True) if name in given.only]
    installed = [proxy for proxy in wanted if proxy.program is not None]
    console = Console()
    with tempfile.TemporaryDirectory(prefix="proxies-") as folder, console.status(", ".join(given.only)):
        Path(folder).chmod(0o755)  # a proxy's processes may be another user's
        fronts = asyncio.run(run(installed, Path(folder), given.silent_seconds))
    missing = [proxy.name for proxy in wanted if proxy not in installed]
    if missing:
        console.print(f"Not installed: {', '.join(missing)}.")
    return verdict(console, table_of(fronts), [problem for front in fronts for problem in front.problems])


if __name__ == "__main__":
    sys.exit(main())
