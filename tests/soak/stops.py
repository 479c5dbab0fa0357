"""One of two replicas stops while clients write that never try a call again: is any write lost?

    python tests/soak/stops.py [--rounds 3] [--rate 100] [--only direct haproxy nginx]

Writes go to both replicas directly, through HAProxy and through nginx, with the files of docs/proxies; a proxy that is
not installed is named. In each round the second replica gets SIGTERM amid the writes, and is started again. Prints how
many writes there were and how those ended that failed. Exits with 0 when none did, else with 1.
"""

import argparse
import asyncio
import itertools
import os
import signal
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
from harness.ports import reserve
from harness.proxies import HOSTS, PROXIES, Ports, Proxy, running
from harness.service import Process
from harness.valkey import Server
from harness.verdict import verdict
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub
from rich.console import Console
from rich.table import Table

DIRECT: Final = "direct"
CHANNELS: Final = 10
CHANNEL: Final = (("grpc.use_local_subchannel_pool", 1),)
"""Each channel has a connection of its own, and gRPC's defaults besides."""
CALL_SECONDS: Final = 10.0
PAUSE_SECONDS: Final = 0.5
"""How long clients write before the stop, and after it."""


@dataclass(slots=True)
class Form:
    """One way to the replicas: `targets` are those of the channels, in turn."""

    name: str
    targets: Sequence[str]
    writes: int = 0
    lost: Counter[str] = field(default_factory=Counter)


async def write(jobs: JobStatusStub, form: Form) -> None:
    """Write once, and note how it failed if it did."""
    form.writes += 1
    request = pb.CreateJobRequest(job_id=str(uuid.uuid4()), request_type=pb.REQUEST_TYPE_OCR)
    try:
        await jobs.CreateJob(request, timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as error:
        form.lost[f"{error.code().name}: {error.details()}"] += 1


@asynccontextmanager
async def writing(form: Form, rate: float) -> AsyncIterator[None]:
    """Write at a steady rate meanwhile, however long the answers take."""
    async with AsyncExitStack() as stack:
        targets = itertools.islice(itertools.cycle(form.targets), CHANNELS)
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(at, CHANNEL)) for at in targets]
        for channel in channels:
            await asyncio.wait_for(channel.channel_ready(), CALL_SECONDS)
        async with asyncio.TaskGroup() as calls:
            clock = calls.create_task(_start_calls(calls, form, [JobStatusStub(channel) for channel in channels], rate))
            yield
            clock.cancel()


async def _start_calls(calls: asyncio.TaskGroup, form: Form, stubs: Sequence[JobStatusStub], rate: float) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number, jobs in enumerate(itertools.cycle(stubs)):
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        calls.create_task(write(jobs, form))


async def stop_amid_writes(process: Process, form: Form, rate: float) -> None:
    """One round: the process stops amid the writes, and is there again afterwards."""
    async with writing(form, rate):
        await asyncio.sleep(PAUSE_SECONDS)
        process.send(signal.SIGTERM)
        if code := await process.ended():
            form.lost[f"the replica ended with {code}"] += 1
        await asyncio.sleep(PAUSE_SECONDS)
    await process.start()


@asynccontextmanager
async def replicas(folder: Path, **settings: str) -> AsyncIterator[tuple[list[Process], dict[str, int]]]:
    """Two services on one Valkey, and the ports that they have alike: of http, grpc and admin."""
    async with AsyncExitStack() as stack:
        store = Server().start()
        stack.callback(store.remove)
        places = {name: reserve(hosts=[*HOSTS.values()]) for name in ("http", "grpc", "admin")}
        processes = []
        for name, host in HOSTS.items():
            (folder / name).mkdir()
            addresses = {kind.upper(): f"{host}:{port}" for kind, port in places.items()}
            process = Process(folder / name, STORE=store.url(), **addresses, **settings)
            processes.append(await stack.enter_async_context(process))
        yield processes, places


async def run(proxies: Sequence[Proxy], folder: Path, *, rounds: int, rate: float, direct: bool) -> list[Form]:
    """Return what became of the writes, for each way to the replicas."""
    async with AsyncExitStack() as stack:
        processes, places = await stack.enter_async_context(replicas(folder))
        hosts = [f"{host}:{places['grpc']}" for host in HOSTS.values()]
        both = (f"ipv4:{','.join(hosts)}", f"ipv4:{','.join(reversed(hosts))}")
        forms = [Form(DIRECT, both)] if direct else []
        for proxy in proxies:
            rest, calls = (reserve(hosts=[*HOSTS.values()]) for _ in range(2))
            ports = Ports(**places, rest=rest, rpc=calls)
            await stack.enter_async_context(running(proxy, folder / proxy.file, ports))
            forms.append(Form(proxy.described(), [f"127.0.0.1:{calls}"]))
        for _, form in itertools.product(range(rounds), forms):
            await stop_amid_writes(processes[-1], form, rate)
    return forms


def table_of(forms: Sequence[Form]) -> Table:
    """What was found, for a person."""
    table = Table("way", "writes", "lost")
    for form in forms:
        table.add_row(form.name, f"{form.writes:,}", str(form.lost.total()))
    return table


def main() -> int:
    known = {proxy.name.lower(): proxy for proxy in PROXIES if proxy.name in ("HAProxy", "nginx")}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="stops for each way (%(default)s)")
    parser.add_argument("--rate", type=float, default=100, help="writes a second (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=[DIRECT, *known], default=[DIRECT, *known], help="which ways")
    given = parser.parse_args()
    wanted = [proxy for name, proxy in known.items() if name in given.only]
    installed = [proxy for proxy in wanted if proxy.program is not None]
    console = Console()
    with tempfile.TemporaryDirectory(prefix="stops-") as folder, console.status(", ".join(given.only)):
        Path(folder).chmod(0o755)  # a proxy's processes may be another user's
        rounds = run(installed, Path(folder), rounds=given.rounds, rate=given.rate, direct=DIRECT in given.only)
        forms = asyncio.run(rounds)
    if missing := [proxy.name for proxy in wanted if proxy not in installed]:
        console.print(f"Not installed: {', '.join(missing)}.")
    problems = [f"{form.name}: {count} times {how}" for form in forms for how, count in form.lost.items()]
    return verdict(console, table_of(forms), problems)


if __name__ == "__main__":
    sys.exit(main())
