"""Networks that fall silent under load, without a reset: how long does anybody wait, and is anything untrue afterwards?

    python tests/soak/partitions.py [--only postgresql edge primary minority worker sessions vanished] [--seconds 30]

*postgresql*: nothing passes between a service and its PostgreSQL. *edge*: between an edge and its service. *primary*: a
primary of a cluster stands still, and its replica takes over. *minority*: one host has a primary of a cluster and a
service, and is cut off from the rest, where another service is. *worker*: nothing passes between a worker and its
service, and another worker takes over. *sessions*: packets between a service and its PostgreSQL are dropped; what is
left of it in both. *vanished*: clients of all kinds vanish.

The last three but *worker* need packets that are really dropped, and so network namespaces and root; else the table
says that they were not run. Clients write and poll all the while, and what every client did and saw makes one history,
which `harness.history` judges. Exits with 0 when nothing was wrong, else with 1.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import grpc
import psutil
import psycopg
import uvloop
from harness import crowd, hosts, ports, postgresql, valkey
from harness.history import History
from harness.http import request
from harness.jobs import creation
from harness.load import until_cancelled
from harness.patient_load import LIMIT_SECONDS, POLLERS, PatientLoad, Polled, Written, clients, ended
from harness.relays import Relay
from harness.service import COMMAND, EdgeProcess, Process
from harness.verdict import Found, verdict
from harness.waiting import until
from jobstatus.client import JobStatusClient, LeaseHeld, LeaseLost, RequestType
from jobstatus.stores.redis.keys import Keys, bucket_of
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub
from rich.console import Console
from rich.table import Table

CUT_SECONDS: Final = 30.0
POLL_SECONDS: Final = 3.2
"""No answer to a poll comes later."""
WRITE_SECONDS: Final = 6.2
"""No answer to a write comes later."""
SETTLED_SECONDS: Final = 5.0
"""After so much of a cut polls are refused at once, in the middle of all."""
REFUSED_SECONDS: Final = 0.05
HEALED_SECONDS: Final = 10.0
HEALTHY_TIMES: Final = 2.0
"""The healthy shares of a cluster take at most so many times as long as usual."""
NORMAL_SECONDS: Final = 60.0
"""Descriptors, sessions and places are as they were within this time."""
NEARLY: Final = 10
"""So many more descriptors than before are as many as before: connections are made as they are needed."""
ENOUGH: Final = 60
WRITERS: Final = 20
TRIES: Final = 1_000_000
VANISHED: Final = 2000
SECOND: Final = "the-second"
_BUCKETS: Final = Keys("any").buckets


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How long a run takes, and how much more than documented a busy machine may need."""

    seconds: float = CUT_SECONDS
    slack_seconds: float = 0.0
    """For whatever takes longest."""
    middle_slack_seconds: float = 0.0
    """For what is usual."""
    vanished: int = VANISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """When a cut began and ended, what was seen since, and how long the same took before."""

    began: float
    healed: float
    polls: Sequence[Polled]
    written: Sequence[Written]
    polls_before: Sequence[Polled]
    written_before: Sequence[Written]


# --- what runs have in common ---


def names_of(purpose: str, slots: AbstractSet[int] = frozenset()) -> Iterator[str]:
    """Ids of jobs, none of which is in these slots."""
    names = (f"{purpose}-{index}" for index in itertools.count())
    return (name for name in names if not slots or slot_of(name) not in slots)


async def cut_under_load(
    load: PatientLoad,
    scale: Scale,
    *,
    cut: Callable[[], Any],
    heal: Callable[[], Any],
    writers: int = WRITERS,
    slots: AbstractSet[int] = frozenset(),
) -> Cut:
    """Cut, wait, heal, and wait until all is well, while clients write and poll.

    Some writers have jobs of other slots than these only, so that they are not kept by what the cut keeps.
    """
    async with (
        clients(load, names_of("any"), writers),
        clients(load, names_of("other", slots), writers if slots else 0),
    ):
        await ended(load, ENOUGH)
        polls, written, began = len(load.polls), len(load.written), time.monotonic()
        cut()
        await asyncio.sleep(scale.seconds)
        heal()
        healed = time.monotonic()
        await ended(load, ENOUGH)
    return Cut(
        began=began,
        healed=healed,
        polls=load.polls[polls:],
        written=load.written[written:],
        polls_before=load.polls[:polls],
        written_before=load.written[:written],
    )


def judge(found: Found, cut: Cut, scale: Scale, *, refused_at_once: bool) -> None:
    """Sum up how long clients waited. With `refused_at_once` polls are to be quick when the cut has lasted a while."""
    refused = [poll for poll in cut.polls if poll.status == 503]
    first = min((poll.at + poll.seconds for poll in refused), default=None)
    found.note("first 503", "-" if first is None else f"{first - cut.began:.1f} s")
    longest = max(poll.seconds for poll in cut.polls)
    limit = POLL_SECONDS + scale.slack_seconds
    found.note("longest poll", f"{longest:.1f} s", wrong=longest > limit)
    longest = max((write.seconds for write in cut.written), default=0.0)
    limit = WRITE_SECONDS + scale.slack_seconds
    found.note("longest write", f"{longest:.1f} s", wrong=longest > limit)
    late = [poll.seconds for poll in cut.polls if cut.began + SETTLED_SECONDS <= poll.at < cut.healed]
    middle = statistics.median(late) if late else 0.0
    limit = REFUSED_SECONDS + scale.middle_slack_seconds
    found.note("p50 after 5 s", f"{1000 * middle:.0f} ms", wrong=refused_at_once and middle > limit)
    failures = [poll.at + poll.seconds for poll in refused if poll.at >= cut.healed - scale.seconds]
    failures += [write.at for write in cut.written if write.code is grpc.StatusCode.UNAVAILABLE]
    healed = max([0.0, *(at - cut.healed for at in failures)])
    found.note("well after", f"{healed:.1f} s", wrong=healed > HEALED_SECONDS + scale.slack_seconds)


async def judge_history(found: Found, load: PatientLoad) -> None:
    """Look at all jobs, and tell what was lost, and what was older than acknowledged."""
    await load.look_at(load.created)
    violations = await asyncio.to_thread(load.history.violations)
    stale = [wrong for wrong in violations if "went back" in wrong]
    lost = [wrong for wrong in violations if wrong not in stale]
    for column, wrongs in (("lost", lost), ("stale", stale)):
        found.note(column, str(len(wrongs)), wrong=bool(wrongs), why=str(wrongs[:1]))


class Log:
    """The lines of warnings and errors that processes log from now on."""

    def __init__(self, *processes: Process) -> None:
        self._starts = {process: process.log_path.stat().st_size for process in processes}

    def note(self, found: Found) -> None:
        """Note how many there are."""
        lines = [
            line
            for process, start in self._starts.items()
            for line in process.log_path.read_bytes()[start:].splitlines()
            if line.startswith(b"{") and json.loads(line)["level"] in ("warning", "error", "critical")
        ]
        found.note("log", str(len(lines)))


def pid_of(process: Process) -> int:
    assert process.child is not None
    return process.child.pid


async def judge_descriptors(found: Found, process: Process, before: int, scale: Scale) -> None:
    """Wait until the process has about as many file descriptors open as before."""
    system, began = psutil.Process(pid_of(process)), time.monotonic()
    most = system.num_fds()
    try:
        await until(lambda: system.num_fds() <= before + NEARLY, NORMAL_SECONDS + scale.slack_seconds)
    except TimeoutError:
        found.note("descriptors", f"{before}, {most}, {system.num_fds()}", wrong=True)
    else:
        found.note("descriptors", f"{before}, {most}, as before in {time.monotonic() - began:.0f} s")


@asynccontextmanager
async def loading(
    http_port: int, grpc_port: int, *, history: History | None = None, created: list[str] | None = None
) -> AsyncIterator[PatientLoad]:
    """Clients of a service; with the history, and the jobs, of others they are judged together."""
    load = PatientLoad(history or History(), random.Random(1), http_port=http_port, grpc_port=grpc_port, tries=TRIES)
    if created is not None:
        load.created = created
    try:
        yield load
    finally:
        await load.close()


# --- cuts by a relay ---


async def postgresql_cut(folder: Path, scale: Scale) -> Found:
    """Nothing passes between a service and PostgreSQL."""
    found, server = Found(name="service | PostgreSQL"), postgresql.server()
    database = server.database()
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(Relay(server.port))
        url = f"postgresql://{postgresql.USER}@127.0.0.1:{relay.port}/{database}"
        process = await stack.enter_async_context(Process(folder, STORE=url))
        load = await stack.enter_async_context(loading(process.port("HTTP"), process.port("GRPC")))
        await warm(load)
        log, before = Log(process), psutil.Process(pid_of(process)).num_fds()
        cut = await cut_under_load(load, scale, cut=relay.cut, heal=relay.heal)
        judge(found, cut, scale, refused_at_once=True)
        log.note(found)
        await judge_history(found, load)
        await judge_descriptors(found, process, before, scale)
    return found


async def warm(load: PatientLoad) -> None:
    """Let all connections be made that a service makes under this load."""
    async with clients(load, names_of("warm"), WRITERS):
        await ended(load, ENOUGH)


async def edge_cut(folder: Path, scale: Scale) -> Found:
    """Nothing passes between an edge and its service."""
    found = Found(name="edge | service")
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(Process(folder))
        relay = await stack.enter_async_context(Relay(process.port("GRPC")))
        service = await stack.enter_async_context(process.connected())
        edge = await stack.enter_async_context(EdgeProcess(folder, replace(service, grpc_port=relay.port)))
        load = await stack.enter_async_context(loading(edge.port("HTTP"), process.port("GRPC")))
        await warm(load)
        log, before = Log(edge), psutil.Process(pid_of(edge)).num_fds()
        cut = await cut_under_load(load, scale, cut=relay.cut, heal=relay.heal, writers=4)
        judge(found, cut, scale, refused_at_once=True)
        log.note(found)
        await judge_history(found, load)
        await judge_descriptors(found, edge, before, scale)
    return found


async def worker_cut(folder: Path, scale: Scale) -> Found:
    """Nothing passes between a worker and its service; when its lease has ended another worker takes over."""
    found, lease = Found(name="worker | service"), timedelta(seconds=5)
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(Process(folder))
        relay = await stack.enter_async_context(Relay(process.port("GRPC")))
        far = await stack.enter_async_context(JobStatusClient(f"127.0.0.1:{relay.port}"))
        near = await stack.enter_async_context(JobStatusClient(f"127.0.0.1:{process.port('GRPC')}"))
        job = await near.create_job(request_type=RequestType.OCR, max_attempts=2)
        began = asyncio.Event()
        working = asyncio.ensure_future(_work_until_lost(far, job.job_id, lease, began))
        await began.wait()
        await asyncio.sleep(lease.total_seconds())
        relay.cut()
        cut_at = time.monotonic()
        await until(lambda: _takes(near, job.job_id, lease), 4 * lease.total_seconds() + scale.slack_seconds)
        taken_at = time.monotonic()
        async with near.run_job(job.job_id, worker_id=SECOND, lease=lease) as run:
            await asyncio.sleep(max(0.0, cut_at + 3 * lease.total_seconds() - time.monotonic()))
            relay.heal()
            lost_at = await working
            run.complete({"text": "of the second worker"})
        found.note("given to another after", f"{taken_at - cut_at:.1f} s")
        both = lost_at - taken_at
        found.note("lost to the first after", f"{lost_at - cut_at:.1f} s", wrong=both > scale.slack_seconds)
        ended_job = await near.get_job(job.job_id)
        result = (ended_job.result or b"").decode()
        found.note("result", "the second's", wrong="of the second worker" not in result)
    return found


async def _work_until_lost(client: JobStatusClient, job_id: str, lease: timedelta, began: asyncio.Event) -> float:
    """Return when the worker was told that the job is not its own any more."""
    try:
        async with client.run_job(job_id, lease=lease):
            began.set()
            await asyncio.Event().wait()
    except LeaseLost:
        return time.monotonic()
    raise AssertionError("the worker was not told")


async def _takes(client: JobStatusClient, job_id: str, lease: timedelta) -> bool:
    """Whether the second worker gets the job."""
    try:
        await client.start_job(job_id, worker_id=SECOND, lease=lease)
    except LeaseHeld:
        return False
    return True


# --- a cluster ---


@cache
def slot_of(job_id: str) -> int:
    return _BUCKETS[bucket_of(job_id.encode())].slot


async def primary_cut(folder: Path, scale: Scale) -> Found:
    """A primary stands still for so long that its replica takes over; the other shares are healthy."""
    found, cluster = Found(name="a primary of a cluster"), valkey.Cluster()
    try:
        await asyncio.to_thread(cluster.start)
        async with AsyncExitStack() as stack:
            environment = {"STORE": cluster.url(), "REDIS_REPLICAS": "1"}
            process = await stack.enter_async_context(Process(folder, **environment))
            load = await stack.enter_async_context(loading(process.port("HTTP"), process.port("GRPC")))
            await warm(load)
            victim = cluster.servers[0]
            slots = {bucket.slot for bucket in _BUCKETS if cluster.owner(bucket.slot) is victim}
            log, before = Log(process), psutil.Process(pid_of(process)).num_fds()
            stop, go_on = partial(victim.send, signal.SIGSTOP), partial(victim.send, signal.SIGCONT)
            stack.callback(go_on)
            cut = await cut_under_load(load, scale, cut=stop, heal=go_on, slots=slots)
            judge(found, cut, scale, refused_at_once=False)
            judge_healthy(found, cut, slots, scale)
            log.note(found)
            await asyncio.to_thread(cluster.wait)
            await judge_history(found, load)
            await judge_descriptors(found, process, before, scale)
    finally:
        await asyncio.to_thread(cluster.remove)
    return found


def judge_healthy(found: Found, cut: Cut, slots: AbstractSet[int], scale: Scale) -> None:
    """Compare what answers of the shares of other primaries take, in the middle, with what they took before."""

    def healthy(calls: Sequence[Polled | Written]) -> list[float]:
        return [
            call.seconds
            for call in calls
            if is_answer(call) and call.job_id and slot_of(call.job_id) not in slots and call.at < cut.healed
        ]

    for column, before, since in (
        ("healthy polls", cut.polls_before, cut.polls),
        ("healthy writes", cut.written_before, cut.written),
    ):
        usual, during = healthy(before), healthy(since)
        middles = [statistics.median(each) for each in (usual, during)]
        told = f"{1000 * middles[0]:.0f} to {1000 * middles[1]:.0f} ms, at worst {max(during):.1f} s"
        limit = HEALTHY_TIMES * middles[0] + scale.middle_slack_seconds
        found.note(column, told, wrong=middles[1] > limit)


def is_answer(call: Polled | Written) -> bool:
    """Whether it is more than that the store cannot be asked."""
    return call.status != 503 if isinstance(call, Polled) else call.code is grpc.StatusCode.OK


# --- packets that are dropped ---


class DistantPostgreSQL(postgresql.Server):
    """A server on another host, to which this one talks through a socket in the file system as well."""

    def __init__(self, host: hosts.Host) -> None:
        self._host = host
        super().__init__()

    def serve(self) -> Self:
        """Make it, and return when it answers."""
        self.create()
        with (self.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {self._host.our_address}/32 trust\n")
        return self.start(listen_addresses=f"{self._host.address}")

    def url(self, database: str = "postgres", *others: postgresql.Server, user: str = postgresql.USER) -> str:
        assert not others
        return f"postgresql://{user}@{self._host.address}:{self.port}/{database}"

    def abandoned(self, client: psutil.Process) -> int:
        """How many sessions it has that are none of the client's any more, by its own account, by way of no network."""
        with psycopg.connect(host=str(self.folder), port=self.port, user=postgresql.USER, dbname="postgres") as inside:
            rows = inside.execute("SELECT client_port FROM pg_stat_activity WHERE client_addr IS NOT NULL").fetchall()
        return len({port for (port,) in rows} - {connection.laddr.port for connection in client.net_connections()})

    def _command(self, *words: str) -> list[str]:
        return [*self._host.through, *super()._command(*words)]


async def sessions_left(folder: Path, scale: Scale) -> Found:
    """Packets between a service and PostgreSQL are dropped for longer than the kernel tells of an end."""
    found = Found(name="service | PostgreSQL, packets dropped")
    async with AsyncExitStack() as stack:
        host = stack.enter_context(hosts.Host())
        server = DistantPostgreSQL(host)
        stack.callback(server.remove)
        await asyncio.to_thread(server.serve)
        process = await stack.enter_async_context(Process(folder, STORE=server.url()))
        load = await stack.enter_async_context(loading(process.port("HTTP"), process.port("GRPC")))
        await warm(load)
        log, system = Log(process), psutil.Process(pid_of(process))
        before = system.num_fds()
        cut = await cut_under_load(load, scale, cut=host.cut, heal=host.heal)
        judge(found, cut, scale, refused_at_once=True)
        log.note(found)
        await judge_history(found, load)
        await judge_descriptors(found, process, before, scale)
        limit = cut.healed + NORMAL_SECONDS + scale.slack_seconds
        at = await _when(limit, partial(_at_most, partial(server.abandoned, system), 0))
        told = "some abandoned still" if at is None else f"none abandoned {at - cut.healed:.0f} s after"
        found.note("sessions", told, wrong=at is None)
    return found


async def vanished_clients(folder: Path, scale: Scale) -> Found:
    """Clients of all kinds vanish: the places that they had, and the descriptors, are free again."""
    found = Found(name=f"{scale.vanished} clients vanish")
    async with AsyncExitStack() as stack:
        host = stack.enter_context(hosts.Host())
        http, rpc = (f"{host.our_address}:{ports.reserve(hosts=(host.our_address,))}" for _ in range(2))
        limits = {
            "MAX_CONNECTIONS_EACH": "0",
            "MAX_WAITING_POLLS_EACH": str(scale.vanished),
            "MAX_WATCHERS": str(scale.vanished // 20),
        }
        process = Process(folder, HTTP=http, GRPC=rpc, GRPC_INSECURE="true", **limits)
        await stack.enter_async_context(process)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(rpc))
        jobs = JobStatusStub(channel)
        await jobs.CreateJob(creation("going"))
        system = psutil.Process(pid_of(process))
        before = system.num_fds()
        await stack.enter_async_context(crowd_on(host, http, rpc, scale.vanished))
        places = await waiting_polls(process)
        most = system.num_fds()
        assert not await can_watch(jobs), "the crowd has not all watches"
        host.cut()
        cut_at = time.monotonic()
        limit = cut_at + NORMAL_SECONDS + scale.slack_seconds
        free = await asyncio.gather(
            _when(limit, partial(_none_waits, process)),
            _when(limit, partial(can_watch, jobs)),
            _when(limit, partial(_at_most, system.num_fds, before + NEARLY)),
        )
        had = (f"{places}", f"{scale.vanished // 20}", f"{before}, {most}")
        for column, was, at in zip(("waits and streams", "watches", "descriptors"), had, free, strict=True):
            left = "" if at else f", {system.num_fds()}" if column == "descriptors" else ", not free"
            found.note(column, f"{was}{left}" if at is None else f"{was}, free after {at - cut_at:.0f} s", wrong=not at)
    return found


async def _when(limit: float, condition: Callable[[], Awaitable[bool]]) -> float | None:
    """The moment from which on it holds; None if it does not until the limit."""
    while time.monotonic() < limit:
        if await condition():
            return time.monotonic()
        await asyncio.sleep(0.5)
    return None


async def _at_most(count: Callable[[], int], most: int) -> bool:
    return count() <= most


async def waiting_polls(process: Process) -> int:
    metrics = (await request(process.port("ADMIN"), "/metrics")).body.decode()
    (line,) = (line for line in metrics.splitlines() if line.startswith("jobstatus_waiting_polls "))
    return round(float(line.split()[1]))


async def _none_waits(process: Process) -> bool:
    return await waiting_polls(process) == 0


async def can_watch(jobs: JobStatusStub) -> bool:
    """Whether there is a place for one more watch."""
    watch = jobs.WatchJob(pb.WatchJobRequest(job_id="going"), timeout=POLL_SECONDS)
    try:
        await watch.read()
    except grpc.aio.AioRpcError:
        return False
    watch.cancel()
    return True


@asynccontextmanager
async def crowd_on(host: hosts.Host, http: str, rpc: str, count: int) -> AsyncIterator[None]:
    """Clients on the other host: half of them event streams, the others of all kinds."""
    part = count // 10
    counts = (count - 5 * part, 3 * part, part, part, count // 20)
    words = (*host.through, *crowd.command(http, rpc, "going", counts))
    child = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, env=crowd.environment(os.environ)
    )
    try:
        assert child.stdout is not None
        async with asyncio.timeout(LIMIT_SECONDS):
            assert await child.stdout.readline() == crowd.READY
        yield
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        await child.wait()


# --- a cluster of which a part is cut off ---


class DistantProcess(Process):
    """`jobstatus serve` on another host."""

    def __init__(self, host: hosts.Host, folder: Path, **settings: str) -> None:
        super().__init__(folder, **settings)
        self._host = host

    async def spawn(self) -> None:
        with self.log_path.open("ab") as log:
            words = (*self._host.through, COMMAND, *self.command)
            self.child = await asyncio.create_subprocess_exec(
                *words, env=self.environment, cwd=self.folder, stdout=log, stderr=log
            )


async def minority_cut(folder: Path, scale: Scale) -> Found:
    """One host has a primary and a service, A; the other has the rest, its replica and a service, B."""
    found = Found(name="minority with the old primary | majority")
    async with AsyncExitStack() as stack:
        host = stack.enter_context(hosts.Host())
        here = valkey.Place(host.our_address)
        cluster = valkey.Cluster(places=[valkey.Place(host.address, host.through), *(valkey.SERVERS - 1) * (here,)])
        stack.push_async_callback(asyncio.to_thread, cluster.remove)
        await asyncio.to_thread(cluster.start)
        settings = {"STORE": cluster.url(), "REDIS_REPLICAS": "1"}
        for name in ("A", "B"):
            (folder / name).mkdir()
        a = await stack.enter_async_context(DistantProcess(host, folder / "A", **settings))
        b = await stack.enter_async_context(Process(folder / "B", **settings))
        load = await stack.enter_async_context(loading(b.port("HTTP"), b.port("GRPC")))
        to_a = [
            await stack.enter_async_context(Relay(a.port(name), make_socket=host.socket)) for name in ("HTTP", "GRPC")
        ]
        cut_off = await stack.enter_async_context(
            loading(to_a[0].port, to_a[1].port, history=load.history, created=load.created)
        )
        await warm(load)
        log = Log(a, b)
        polling = [asyncio.ensure_future(until_cancelled(cut_off.poll)) for _ in range(POLLERS)]
        try:
            cut = await cut_under_load(load, scale, cut=host.cut, heal=host.heal)
        finally:
            for task in polling:
                task.cancel()
            outcomes = await asyncio.gather(*polling, return_exceptions=True)
        found.problems += [f"{found.name}: {wrong!r}" for wrong in outcomes if isinstance(wrong, Exception)]
        judge(found, cut, scale, refused_at_once=False)
        judge_minority(found, [poll for poll in cut_off.polls if poll.at >= cut.began], cut, scale)
        log.note(found)
        await asyncio.to_thread(cluster.wait)
        await judge_history(found, load)
    return found


def judge_minority(found: Found, polls: Sequence[Polled], cut: Cut, scale: Scale) -> None:
    """What was polled through the service that was cut off."""
    during = [poll for poll in polls if poll.at < cut.healed]
    refused = [poll for poll in polls if poll.status == 503]
    longest = max(poll.seconds for poll in polls)
    limit = POLL_SECONDS + scale.slack_seconds
    found.note("cut off: polls", f"{len(during)}, {sum(poll.status == 503 for poll in during)} refused")
    found.note("longest", f"{longest:.1f} s", wrong=longest > limit)
    well = max([0.0, *(poll.at + poll.seconds - cut.healed for poll in refused)])
    found.note("it is well after", f"{well:.1f} s", wrong=well > HEALED_SECONDS + scale.slack_seconds)


# --- all of it ---

RUNS: Final[dict[str, Callable[[Path, Scale], Awaitable[Found]]]] = {
    "postgresql": postgresql_cut,
    "edge": edge_cut,
    "primary": primary_cut,
    "worker": worker_cut,
    "minority": minority_cut,
    "sessions": sessions_left,
    "vanished": vanished_clients,
}
DROPPING: Final = ("minority", "sessions", "vanished")
"""The runs that need packets to be dropped."""


async def run_all(names: Sequence[str], scale: Scale, on_done: Callable[[Found], None]) -> list[Found]:
    """Run one after the other."""
    missing, found = hosts.why_not(), []
    for name in names:
        if name in DROPPING and missing:
            found.append(Found(name=name, cells={"not run": missing}))
            continue
        with tempfile.TemporaryDirectory(prefix="partitions-") as folder:
            found.append(await RUNS[name](Path(folder), scale))
        on_done(found[-1])
    return found


def table_of(found: Sequence[Found]) -> Table:
    """What was found, for a person."""
    table = Table("", *(each.name for each in found))
    for row in dict.fromkeys(row for each in found for row in each.cells):
        table.add_row(row, *(each.cells.get(row, "-") for each in found))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*RUNS], default=[*RUNS])
    parser.add_argument("--seconds", type=float, default=CUT_SECONDS, help="how long a cut lasts (%(default)s)")
    given = parser.parse_args()
    console = Console()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, console.status(", ".join(given.only)):

        def show(found: Found) -> None:
            console.print(f"{found.name}: {'; '.join(found.problems) or 'well'}", style="dim", markup=False)

        found = runner.run(run_all(given.only, Scale(seconds=given.seconds), show))
    return verdict(console, table_of(found), [problem for each in found for problem in each.problems])


if __name__ == "__main__":
    sys.exit(main())
