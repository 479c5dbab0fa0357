"""How soon a SIGHUP is obeyed under load, and whether it fails a call.

    python tests/soak/reloads.py [--rounds 10] [--workers 1 2]

A service with TLS, on SQLite, is polled 200 times and called 50 times a second. Each round puts a new certificate and a
new secret in place, sends SIGHUP, and asks on new connections until both are in use; then a broken file, which must
change nothing. Ends with 1 if a call fails, or if a round takes longer than a second.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
import uvloop
from harness.certificates import Authorities
from harness.http import request
from harness.jobs import creation
from harness.service import INSTALLED, Process
from harness.tokens import bearer, virtual_key_token
from harness.verdict import verdict
from harness.waiting import until
from harness.workers import log_of
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub
from rich.console import Console
from rich.table import Table

POLLS: Final = 200
CALLS: Final = 50
LIMIT_SECONDS: Final = 1.0
PAUSE_SECONDS: Final = 0.5
"""Between two reloads, so that many calls are under way at different moments of each."""
PATH: Final = "/v1/async/audio/transcriptions/job-1"
STEADY: Final = "a secret that stays, with more than 32 bytes in it"


def secret_of(number: int) -> str:
    return f"the secret of round {number}, with more than 32 bytes in it"


def put(path: Path, text: str) -> None:
    """Replace a file as documented: by one beside it."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.rename(path)


async def at_rate(rate: float, call: Callable[[], Awaitable[object]], outcomes: Counter[str]) -> None:
    """Call at a steady rate until this is cancelled, and count what comes of it."""

    async def one() -> None:
        try:
            outcomes[str(await call())] += 1
        except (OSError, grpc.aio.AioRpcError) as error:
            outcomes[type(error).__name__] += 1

    async with asyncio.TaskGroup() as calls:
        began = time.perf_counter()
        number = 0
        while True:
            calls.create_task(one())
            number += 1
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))


@asynccontextmanager
async def under_load(process: Process, channel: grpc.aio.Channel) -> AsyncIterator[Counter[str]]:
    """Poll and call with credentials that stay."""
    outcomes: Counter[str] = Counter()
    header = bearer(virtual_key_token("vk-1", iss="steady", secret=STEADY))
    stub = JobStatusStub(channel)

    async def poll() -> int:
        return (await request(process.port("HTTP"), PATH, header)).status

    async def call() -> str:
        return (await stub.GetJob(pb.GetJobRequest(job_id="job-1"))).job.job_id

    loads = [asyncio.create_task(at_rate(POLLS, poll, outcomes)), asyncio.create_task(at_rate(CALLS, call, outcomes))]
    try:
        yield outcomes
    finally:
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)


async def reload(process: Process, authorities: Authorities, folder: Path, number: int) -> float:
    """Reload once; return the seconds until a new certificate and a new secret are in use on new connections."""
    await asyncio.sleep(PAUSE_SECONDS)
    before = await authorities.certificate_of(process.port("GRPC"))
    header = bearer(virtual_key_token("vk-1", secret=secret_of(number)))
    authorities.settings(folder)
    put(folder / "secret", secret_of(number))
    began = time.perf_counter()
    process.send(signal.SIGHUP)

    async def is_in_use() -> bool:
        if (await request(process.port("HTTP"), PATH, header)).status != 202:
            return False
        return bool(await authorities.certificate_of(process.port("GRPC")) != before)

    await until(is_in_use)
    return time.perf_counter() - began


async def run(workers: int, rounds: int, table: Table) -> list[str]:
    """Measure with so many serving processes, and return what is not as it should be."""
    authorities = Authorities()
    with tempfile.TemporaryDirectory(prefix="reloads-") as name:
        folder = Path(name)
        tls = {key.upper(): str(path) for key, path in authorities.settings(folder).items()}
        put(folder / "secret", secret_of(0))
        put(folder / "steady", STEADY)
        put(
            folder / "jobstatus.toml",
            f'[[issuers]]\nissuer = "steady"\naudience = "jobstatus"\nalgorithm = "HS256"\n'
            f'secret_file = "{folder / "steady"}"\n',
        )
        settings = {"JWT_SECRET": "", "JWT_SECRET_FILE": str(folder / "secret"), "WORKERS": str(workers)} | tls
        process = Process(
            folder, STORE=f"sqlite:///{folder / 'jobs.db'}", CONFIG=str(folder / "jobstatus.toml"), **settings
        )
        process.start_command = INSTALLED
        async with (
            process,
            grpc.aio.secure_channel(f"127.0.0.1:{process.port('GRPC')}", authorities.client("worker")) as channel,
        ):
            await JobStatusStub(channel).CreateJob(creation("job-1"))
            async with under_load(process, channel) as outcomes:
                taken = [await reload(process, authorities, folder, number) for number in range(1, rounds + 1)]
                put(Path(tls["GRPC_TLS_KEY"]), "no key")
                process.send(signal.SIGHUP)
                await until(lambda: log_of(process, "reload_refused") != [])
            refusals = len(log_of(process, "reload_refused"))
    spread = f"{min(taken):.2f} to {max(taken):.2f} s"
    table.add_row(
        str(workers),
        str(rounds),
        spread,
        ", ".join(f"{key}: {count}" for key, count in outcomes.items()),
        str(refusals),
    )
    checks = {
        f"calls ended as {dict(outcomes)}": set(outcomes) <= {"202", "job-1"},
        f"a reload took {max(taken):.2f} s": max(taken) <= LIMIT_SECONDS,
        f"a broken file left {refusals} lines": refusals == 1,
    }
    return [f"{workers} processes: {problem}" for problem, is_well in checks.items() if not is_well]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    console, problems = Console(), []
    table = Table("processes", "reloads", "until in use", "calls", "refusals of a broken file")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, console.status("reloading"):
        for workers in given.workers:
            problems += runner.run(run(workers, given.rounds, table))
    return verdict(console, table, problems)


if __name__ == "__main__":
    sys.exit(main())
