"""The CPU time of a poll against that of a bare aiohttp handler, both measured in one run.

`jobstatus serve` on SQLite with 100,000 jobs (half of them completed with a result of 1 KB, half pending) is polled
with 1,000 different virtual-key tokens; the reference is an aiohttp handler on the same route that does nothing and
returns the same bytes, in a process of its own on the same kind of loop. Both are asked in turn, round after round, by
one load generator over keep-alive connections; what is compared is the user and system time of the serving process for
each request, so that other work on the machine matters little. Prints the median of the rounds and their spread.
"""

import argparse
import asyncio
import os
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import jwt
import psutil
import uvloop
from aiohttp import web
from jobstatus.core.answer import RESULT_TAIL, render
from jobstatus.core.commands import CompleteJob, CreateJob
from jobstatus.core.job import Job, RequestType
from jobstatus.core.rules import Policy, decide
from jobstatus.core.store import Change
from jobstatus.stores import open_store
from rich.console import Console
from rich.progress import track
from rich.table import Table

PATH = "/v1/async/audio/transcriptions/"
RESULT = b'{"text":"' + b"x" * 1003 + b'"}'
SECRET = secrets.token_urlsafe(48)
SEED_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Target:
    """A server to ask, as name, port and process."""

    name: str
    port: int
    process: psutil.Process

    def cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


def make_job(number: int, keys: int, now_ms: int) -> tuple[Job, bytes]:
    """A job, every second one completed, and the bytes that a poll of it answers."""
    policy = Policy()
    virtual_key_id = f"vk-{number % keys}"
    create = CreateJob(job_id=f"job-{number}", request_type=RequestType.TRANSCRIPTION, virtual_key_id=virtual_key_id)
    job, _ = decide(None, create, now_ms, policy)
    if number % 2:
        job, _ = decide(job, CompleteJob(job_id=create.job_id, result=RESULT), now_ms, policy)
    assert job is not None
    return job, render(job) if job.result is None else render(job) + job.result + RESULT_TAIL


async def seed(url: str, jobs: int, keys: int) -> None:
    """Fill the store."""
    now_ms = time.time_ns() // 1_000_000
    async with open_store(url) as store:
        for first in track(range(0, jobs, SEED_BATCH), "storing jobs", transient=True):
            made = [make_job(number, keys, now_ms)[0] for number in range(first, min(first + SEED_BATCH, jobs))]
            await store.commit([Change(job_id=job.job_id, replaces=0, job=job, answer=render(job)) for job in made])


def bare_server(keys: int) -> None:
    """Serve two fixed answers on the same route, and print the port."""
    now_ms = time.time_ns() // 1_000_000
    pending, completed = (make_job(number, keys, now_ms)[1] for number in (0, 1))

    async def answer(request: web.Request) -> web.Response:
        is_completed = int(request.match_info["job_id"][4:]) % 2
        if is_completed:
            return web.Response(status=200, body=completed, content_type="application/json")
        return web.Response(status=202, body=pending, content_type="application/json")

    async def serve() -> None:
        app = web.Application()
        app.router.add_get(PATH + "{job_id}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(site.port, flush=True)
        await asyncio.Event().wait()

    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serve())


class Poller(asyncio.Protocol):
    """One keep-alive connection that asks one request after the other."""

    def __init__(self, requests: Sequence[bytes], done: asyncio.Future[None]) -> None:
        self._requests = iter(requests)
        self._done = done
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        following = next(self._requests, None)
        if following is None:
            self._done.set_result(None)
            self._transport.close()
        else:
            self._transport.write(following)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if separator:
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            if len(body) >= length:
                if head[9:12] in (b"200", b"202"):
                    self._buffer = b""
                    self._ask()
                else:
                    self._done.set_exception(RuntimeError(f"unexpected answer: {head!r}"))
                    self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or RuntimeError("the server closed the connection"))


async def load(target: Target, requests: Sequence[bytes], connections: int) -> float:
    """Ask everything; microseconds of the server's CPU time for each request."""
    loop = asyncio.get_running_loop()
    before = target.cpu_seconds()
    waits = []
    for number in range(connections):
        done = loop.create_future()
        waits.append(done)
        share = requests[number::connections]
        await loop.create_connection(lambda done=done, share=share: Poller(share, done), "127.0.0.1", target.port)  # type: ignore[misc]  # a lambda's defaults
    await asyncio.gather(*waits)
    return (target.cpu_seconds() - before) / len(requests) * 1e6


def make_requests(count: int, jobs: int, keys: int) -> list[bytes]:
    """Polls of random jobs by their owners."""
    until = int(time.time()) + 24 * 3600
    tokens = [
        jwt.encode({"iss": "bench", "aud": "bench", "exp": until, "virtual_key_id": f"vk-{key}"}, SECRET)
        for key in range(keys)
    ]
    lines = "GET {path}job-{number} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n"
    numbers = random.Random(1).choices(range(jobs), k=count)
    return [lines.format(path=PATH, number=number, token=tokens[number % keys]).encode() for number in numbers]


@asynccontextmanager
async def jobstatus_server(folder: Path, store: str) -> AsyncIterator[Target]:
    """`jobstatus serve` on free ports."""
    given = {"HTTP": "127.0.0.1:0", "GRPC": "127.0.0.1:0", "ADMIN": "127.0.0.1:0", "STORE": store, "LOG_FORMAT": "json"}
    issuer = {"JWT_ISSUER": "bench", "JWT_AUDIENCE": "bench", "JWT_ALGORITHM": "HS256", "JWT_SECRET": SECRET}
    environment = os.environ | {f"JOBSTATUS_{name}": value for name, value in (given | issuer).items()}
    command = (str(Path(sys.executable).with_name("jobstatus")), "serve")
    child = await asyncio.create_subprocess_exec(*command, env=environment, cwd=folder, stderr=asyncio.subprocess.PIPE)
    try:
        assert child.stderr is not None
        while b'"serving"' not in (line := await child.stderr.readline()):
            if not line:
                raise RuntimeError("the service did not start")
        port = int(line.partition(b'"http": "127.0.0.1:')[2].partition(b'"')[0])
        yield Target("jobstatus", port, psutil.Process(child.pid))
    finally:
        child.kill()
        await child.wait()


@asynccontextmanager
async def bare_process(keys: int) -> AsyncIterator[Target]:
    """The reference in a process of its own."""
    command = (sys.executable, __file__, "--bare", "--keys", str(keys))
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert child.stdout is not None
        port = int(await child.stdout.readline())
        yield Target("bare aiohttp", port, psutil.Process(child.pid))
    finally:
        child.kill()
        await child.wait()


async def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Microseconds for each request, by server and round; the first round warms up and does not count."""
    requests = make_requests(options.requests, options.jobs, options.keys)
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        store = f"sqlite:///{name}/jobs.db"
        await seed(store, options.jobs, options.keys)
        async with jobstatus_server(Path(name), store) as ours, bare_process(options.keys) as bare:
            for number in track(range(options.rounds + 1), "polling", transient=True):
                for target in (ours, bare):
                    figure = await load(target, requests, options.connections)
                    if number:
                        figures.setdefault(target.name, []).append(figure)
    return figures


def report(figures: dict[str, list[float]]) -> None:
    table = Table("server", "CPU µs a poll, median", "least", "most", title="CPU time of the serving process")
    for name, values in figures.items():
        table.add_row(name, *(f"{figure(values):.1f}" for figure in (statistics.median, min, max)))
    console = Console()
    console.print(table)
    ours, bare = figures.values()
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    console.print(
        f"ratio, round by round: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=1000, help="different tokens")
    parser.add_argument("--requests", type=int, default=20_000, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare_server(options.keys)
    else:
        report(asyncio.Runner(loop_factory=uvloop.new_event_loop).run(measure(options)))


if __name__ == "__main__":
    main()
