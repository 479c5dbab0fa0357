"""Clocks that differ, clocks that step, and processes that stand still: does a live worker lose its job?

    python tests/soak/clocks.py [--only skew step pause] [--stores postgresql valkey] [--lease-seconds 10]

*skew*: two replicas share a store, and the clock of the second is wrong; each of them sweeps once. Workers send their
heartbeats through the first, through the second, and through both in turn; other workers vanish; jobs that have ended
are polled through both. *step*: the clock under one process goes an hour ahead and back. *pause*: all processes of a
service, or some, are stopped for longer than two leases. Prints a table for each. Exits with 0 when nothing was wrong,
else with 1.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import psutil
import uvloop
from harness import verdict
from harness.clocked import ClockFile, command, environment
from harness.http import Answer, request
from harness.jobs import completion, creation, failure
from harness.lives import Life, Lines
from harness.service import Process
from harness.stores import STORES
from harness.tokens import admin_token, bearer
from harness.waiting import until
from harness.workers import children_of, log_of
from jobstatus.v1 import job_status_pb2 as pb
from rich.console import Console, Group
from rich.table import Table

KINDS: Final = ("skew", "step", "pause")
SKEWS: Final = {"+20 s": 20.0, "+5 min": 300.0, "-5 min": -300.0, "+1 day": 86_400.0}
SWEEPERS: Final = ("A", "B")
SHARED: Final = ("postgresql", "valkey")
STEPPED: Final = ("sqlite", "postgresql")
STEP_SECONDS: Final = 3600.0
LEASE_SECONDS: Final = 10.0
LIVES_EACH: Final = 6
"""Workers on each way to the service."""
LOST_WITHIN_SECONDS: Final = 2.0
"""After the end of its lease a worker that vanished is found lost within this time."""
TIMES_SECONDS: Final = 1.0
"""A time that is written is the store's to this."""
START_SECONDS: Final = 60.0
PATIENCE_SECONDS: Final = 0.3
"""Of a worker whose service may stand still: a stopped process still gets half of the connections of its port."""
PATH: Final = "/v1/async/audio/transcriptions/"


class ClockedProcess(Process):
    """A service in a process of its own, whose wall clock is `clock.ahead` seconds ahead."""

    def __init__(self, folder: Path, *, ahead: float = 0.0, **settings: str) -> None:
        super().__init__(folder, **settings)
        self.clock = ClockFile(folder)
        self.clock.ahead = ahead

    async def spawn(self) -> None:
        with self.log_path.open("ab") as log:
            self._logged_before = log.tell()
            self.child = await asyncio.create_subprocess_exec(
                *command(), env=environment(self.environment), cwd=self.folder, stdout=log, stderr=log
            )


@dataclass(slots=True, kw_only=True)
class Found(verdict.Found):
    """What one run found of live workers and of the log."""

    def expect(self, is_so: bool, problem: str) -> None:
        if not is_so:
            self.problems.append(f"{self.name}: {problem}")

    def judge(self, column: str, lives: Sequence[Life]) -> None:
        """Note how many of these live workers have lost their jobs."""
        lost = [life for life in lives if life.lost_after is not None]
        self.cells[column] = f"{len(lives)} live" if not lost else f"[red]{len(lost)} of {len(lives)} failed"
        for life in lost[:1]:
            self.expect(False, f"{column}: {len(lost)} live jobs lost, {life.reason} after {life.lost_after:.1f} s")

    def told(self, processes: Sequence[Process], *events: str) -> None:
        """Note which of these events the processes have logged."""
        counts = {event: sum(len(log_of(process, event)) for process in processes) for event in events}
        self.cells["log"] = ", ".join(f"{count} {event}" for event, count in counts.items() if count) or "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How long runs take."""

    lease_seconds: float = LEASE_SECONDS
    lives_each: int = LIVES_EACH
    slack_seconds: float = 0.0
    """More time for a machine that is busy."""
    stop_seconds: float = 12.0
    paused_lease_seconds: float = 5.0


# --- what all runs do ---


async def poll(port: int, job_id: str, **claims: Any) -> Answer:
    return await request(port, PATH + job_id, bearer(admin_token(**claims)))


def _lives(way: str, count: int, lines: Lines, lease_seconds: float) -> list[Life]:
    return [Life(job_id=f"{way}-{number}", lines=lines, lease_seconds=lease_seconds) for number in range(count)]


async def _started(lives: Sequence[Life]) -> list[pb.Job]:
    return list(await asyncio.gather(*(life.start() for life in lives)))


async def _live(group: asyncio.TaskGroup, lives: Sequence[Life]) -> None:
    for life in lives:
        group.create_task(life.beat())


def _end(lives: Sequence[Life]) -> None:
    for life in lives:
        life.ended.set()


async def _finish(lines: Lines, job_id: str, ttl_seconds: int) -> float:
    """Complete a job whose result has this time to live; the moment before its end was asked for."""
    await lines.call("CreateJob", creation(job_id, result_ttl={"seconds": ttl_seconds}))
    began = time.monotonic()
    await lines.call("CompleteJob", completion(job_id))
    return began


async def leads(process: Process) -> bool:
    """Whether it is this process that sweeps."""
    metrics = (await request(process.port("ADMIN"), "/metrics")).body.decode()
    return "\njobstatus_jobs{" in metrics


# --- two replicas whose clocks differ ---


async def skew(store: str, ahead: str, sweeper: str, folder: Path, scale: Scale) -> Found:
    """Two replicas, the clock of B is wrong, and one of them sweeps."""
    found = Found(name=f"{store}, B {ahead}, {sweeper} sweeps")
    async with AsyncExitStack() as stack:
        url = STORES[store](folder)
        processes: dict[str, ClockedProcess] = {}
        for name in sorted(SWEEPERS, key=lambda name: name != sweeper):
            (folder / name).mkdir()
            process = ClockedProcess(folder / name, ahead=SKEWS[ahead] if name == "B" else 0, STORE=url)
            processes[name] = await stack.enter_async_context(process)
            await until(lambda: leads(processes[sweeper]), START_SECONDS)
        ways = {"A": ["A"], "B": ["B"], "both": ["A", "B"]}
        lines = {way: Lines([processes[name].port("GRPC") for name in names]) for way, names in ways.items()}
        for line in lines.values():
            stack.push_async_callback(line.close)
        ports = [processes[name].port("HTTP") for name in SWEEPERS]
        await _skewed(found, lines, ports, scale)
        found.expect(await leads(processes[sweeper]), "the leader has changed")
        found.told(list(processes.values()), "clock_differs", "clock_stepped", "process_paused", "chore_failed")
    return found


async def _skewed(found: Found, lines: Mapping[str, Lines], ports: Sequence[int], scale: Scale) -> None:
    lives = {way: _lives(f"live-{way}", scale.lives_each, line, scale.lease_seconds) for way, line in lines.items()}
    lost = {way: _lives(f"lost-{way}", 2, line, scale.lease_seconds) for way, line in lines.items()}
    everybody = [life for group in lives.values() for life in group]
    vanished = [life for group in lost.values() for life in group]
    asked_at = time.time()
    jobs = await _started([*everybody, *vanished])
    _judge_times(found, jobs, asked_at, scale)
    ttl = round(2 * scale.lease_seconds)
    async with asyncio.TaskGroup() as group:
        await _live(group, everybody)
        finding = [group.create_task(_found_lost(life, lines["both"])) for life in vanished]
        kept = [group.create_task(_kept(lines[way], f"kept-{way}", ttl, ports)) for way in lines]
        same = group.create_task(_same(lines, ports))
        await asyncio.sleep(2.5 * scale.lease_seconds)
        _end(everybody)
    for way, group_ in lives.items():
        found.judge(f"through {way}", group_)
    _judge_lost(found, [task.result() for task in finding], scale)
    gone = [task.result() for task in kept if task.result()]
    found.cells["results"] = f"[red]{gone[0]}" if gone else "kept"
    found.expect(not gone, f"results gone early: {gone}")
    found.cells["polls"] = same.result() or "the same"
    found.expect(not same.result(), f"polls differ: {same.result()}")


def _judge_times(found: Found, jobs: Sequence[pb.Job], asked_at: float, scale: Scale) -> None:
    """Compare the times that were written with this machine's, which is the store's."""
    now = time.time()
    told = [seconds(stamp) for job in jobs for stamp in (job.created_at, job.started_at)]
    off = max(max(asked_at - moment, moment - now, 0.0) for moment in told)
    found.cells["times"] = f"{off:.2f} s off"
    found.expect(off <= TIMES_SECONDS + scale.slack_seconds, f"times are {off:.2f} s off")


def seconds(stamp: Any) -> float:
    return float(stamp.seconds + stamp.nanos / 1e9)


def _judge_lost(found: Found, after: Sequence[float], scale: Scale) -> None:
    """Compare how long after their last sign of life the workers were found lost with the lease."""
    limit = scale.lease_seconds + LOST_WITHIN_SECONDS + scale.slack_seconds
    found.cells["lost found after"] = f"{min(after):.1f} to {max(after):.1f} s"
    found.expect(max(after) <= limit, f"lost workers were found after {max(after):.1f} s")
    found.expect(min(after) >= scale.lease_seconds - TIMES_SECONDS, f"a lease ended after {min(after):.1f} s")


async def _found_lost(life: Life, lines: Lines) -> float:
    """The seconds after which its job has failed; infinite where it has not within four leases."""
    limit = 4 * life.lease_seconds + 5
    while (after := time.monotonic() - life.started_at) < limit:
        answer = await lines.call("GetJob", pb.GetJobRequest(job_id=life.job_id))
        if answer.job.state == pb.JOB_STATE_FAILED:
            return after
        await asyncio.sleep(0.1)
    return float("inf")


async def _kept(lines: Lines, job_id: str, ttl_seconds: int, ports: Sequence[int]) -> str:
    """What was wrong with a result that has to be there through each replica until its time is over."""
    began = await _finish(lines, job_id, ttl_seconds)
    while (age := time.monotonic() - began) < ttl_seconds - TIMES_SECONDS:
        for port in ports:
            answer = await poll(port, job_id)
            late = time.monotonic() - began >= ttl_seconds - TIMES_SECONDS
            if answer.status != 200 and not late:
                return f"{answer.status} after {age:.1f} of {ttl_seconds} s"
        await asyncio.sleep(0.2)
    return ""


async def _same(lines: Mapping[str, Lines], ports: Sequence[int]) -> str:
    """How polls of jobs that have ended, or wait, differ between the replicas; of tokens near their end as well."""
    for way, line in lines.items():
        await line.call("CreateJob", creation(f"pending-{way}"))
        await line.call("CreateJob", creation(f"failed-{way}"))
        await line.call("FailJob", failure(f"failed-{way}"))
        await _finish(line, f"done-{way}", 3600)
    for way in lines:
        for kind in ("pending", "failed", "done"):
            one, other = [await poll(port, f"{kind}-{way}") for port in ports]
            if (one.status, one.body) != (other.status, other.body):
                return f"{one.status} {one.body[:60]!r}, {other.status} {other.body[:60]!r}"
    for name, claims in {"exp": {"exp": int(time.time()) + 15}, "nbf": {"nbf": int(time.time()) - 1}}.items():
        statuses = {(await poll(port, "done-A", **claims)).status for port in ports}
        if statuses != {200}:
            return f"a token with this {name} is answered {sorted(statuses)}"
    return ""


# --- a clock that steps ---


async def step(store: str, folder: Path, scale: Scale) -> Found:
    """The clock of one process goes an hour ahead, and back."""
    found = Found(name=f"{store}, +1 h and back")
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(ClockedProcess(folder, STORE=STORES[store](folder)))
        lines = Lines([process.port("GRPC")])
        stack.push_async_callback(lines.close)
        lives = _lives("live", 2 * scale.lives_each, lines, scale.lease_seconds)
        await _started(lives)
        meanwhile: list[int] = []
        for number in range(scale.lives_each):
            await _finish(lines, f"kept-{number}", 600)
        async with asyncio.TaskGroup() as group:
            await _live(group, lives)
            for ahead in (0.0, STEP_SECONDS, 0.0):
                process.clock.ahead = ahead
                await asyncio.sleep(1.5 * scale.lease_seconds)
                if ahead:
                    meanwhile = await _kept_polls(process.port("HTTP"), scale.lives_each)
            _end(lives)
        found.judge("live jobs", lives)
        kept = await _kept_polls(process.port("HTTP"), scale.lives_each)
        found.cells["polls of results, meanwhile"] = ", ".join(map(str, sorted(set(meanwhile))))
        found.cells["afterwards"] = ", ".join(map(str, sorted(set(kept))))
        for when, statuses in (("meanwhile", meanwhile), ("afterwards", kept)):
            found.expect(set(statuses) == {200}, f"polls of kept results are answered {statuses} {when}")
        vanished = _lives("lost", 2, lines, scale.lease_seconds)
        await _started(vanished)
        _judge_lost(found, [await _found_lost(life, lines) for life in vanished], scale)
        found.told([process], "clock_differs", "clock_stepped", "process_paused", "chore_failed")
    return found


async def _kept_polls(port: int, count: int) -> list[int]:
    """How polls of the kept results are answered, with a token that outlives any step."""
    exp = int(time.time() + 2 * STEP_SECONDS)
    return [(await poll(port, f"kept-{number}", exp=exp)).status for number in range(count)]


# --- a process that stands still ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is stopped: `stopped` names the processes of the first replica."""

    store: str
    replicas: int = 1
    workers: int = 1
    stopped: Callable[[Process], list[psutil.Process]]


def _whole(process: Process) -> list[psutil.Process]:
    assert process.child is not None
    return [psutil.Process(process.child.pid), *children_of(process)]


PAUSES: Final = {
    "one process, SQLite": Case(store="sqlite", stopped=_whole),
    "one process, PostgreSQL": Case(store="postgresql", stopped=_whole),
    "two processes, PostgreSQL": Case(store="postgresql", workers=2, stopped=_whole),
    "one of two processes, SQLite": Case(store="sqlite", workers=2, stopped=lambda it: children_of(it)[:1]),
    "one of two replicas, PostgreSQL": Case(store="postgresql", replicas=2, stopped=_whole),
    "one of two replicas, Valkey": Case(store="valkey", replicas=2, stopped=_whole),
}


async def pause(name: str, folder: Path, scale: Scale) -> Found:
    """Processes are stopped for longer than two leases, while workers go on asking."""
    found, case = Found(name=name), PAUSES[name]
    async with AsyncExitStack() as stack:
        processes = await _replicas(stack, folder, case)
        lives: list[Life] = []
        for number in range(2 * scale.lives_each):
            lines = Lines([process.port("GRPC") for process in processes], patience_seconds=PATIENCE_SECONDS)
            stack.push_async_callback(lines.close)
            lives += _lives(f"live-{number}", 1, lines, scale.paused_lease_seconds)
        await _started(lives)
        async with asyncio.TaskGroup() as group:
            await _live(group, lives)
            await asyncio.sleep(scale.paused_lease_seconds)
            await _stop_for(case.stopped(processes[0]), scale.stop_seconds)
            await asyncio.sleep(2 * scale.paused_lease_seconds)
            _end(lives)
        found.judge("live jobs", lives)
        found.cells["heartbeats"] = str(sum(life.beats for life in lives))
        found.told(processes, "process_paused", "clock_stepped", "child_hung", "child_replaced")
    return found


async def _replicas(stack: AsyncExitStack, folder: Path, case: Case) -> list[Process]:
    """The first of them sweeps."""
    url, processes = STORES[case.store](folder), []
    for number in range(case.replicas):
        (folder / str(number)).mkdir()
        process = Process(folder / str(number), STORE=url, WORKERS=str(case.workers))
        processes.append(await stack.enter_async_context(process))
        await until(lambda: leads(processes[0]), START_SECONDS)
    return processes


async def _stop_for(stopped: Sequence[psutil.Process], seconds: float) -> None:
    for process in stopped:
        process.suspend()
    try:
        await asyncio.sleep(seconds)
    finally:
        for process in stopped:
            with suppress(psutil.NoSuchProcess):  # its supervisor may have replaced it
                process.resume()


# --- all of it ---


@dataclass(frozen=True, slots=True)
class Run:
    """One run to be made, in a folder of its own."""

    kind: str
    name: str
    work: Callable[[Path, Scale], Awaitable[Found]]


def runs(kinds: Sequence[str], stores: Sequence[str]) -> list[Run]:
    """Return what is to be run."""
    all_runs = [
        Run("skew", f"{store} {ahead} {sweeper}", partial(skew, store, ahead, sweeper))
        for store in SHARED
        for ahead in SKEWS
        for sweeper in SWEEPERS
        if store in stores
    ]
    all_runs += [Run("step", store, partial(step, store)) for store in STEPPED if store in stores]
    all_runs += [Run("pause", name, partial(pause, name)) for name, case in PAUSES.items() if case.store in stores]
    return [run for run in all_runs if run.kind in kinds]


async def run_all(wanted: Sequence[Run], scale: Scale, together: int, on_done: Callable[[Found], None]) -> list[Found]:
    """Run all, so many at a time."""
    places = asyncio.Semaphore(together)

    async def one(run: Run) -> Found:
        async with places:
            with tempfile.TemporaryDirectory(prefix="clocks-") as folder:
                found = await run.work(Path(folder), scale)
        on_done(found)
        return found

    return list(await asyncio.gather(*map(one, wanted)))


def table_of(title: str, found: Sequence[Found]) -> Table:
    """What was found, for a person."""
    columns = list(dict.fromkeys(column for each in found for column in each.cells))
    table = Table("", *columns, title=title)
    for each in found:
        table.add_row(each.name, *(each.cells.get(column, "-") for column in columns))
    return table


TITLES: Final = {
    "skew": "Two replicas, the clock of B differs",
    "step": "The clock under one process steps",
    "pause": "SIGSTOP for longer than two leases",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stores = sorted({*SHARED, *STEPPED})
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--stores", nargs="+", choices=stores, default=stores)
    parser.add_argument("--lease-seconds", type=float, default=LEASE_SECONDS, help="(%(default)s)")
    parser.add_argument("--together", type=int, default=2, help="how many runs at a time (%(default)s)")
    given = parser.parse_args()
    console, wanted = Console(), runs(given.only, given.stores)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, console.status(f"{len(wanted)} runs"):

        def show(found: Found) -> None:
            console.print(f"{found.name}: {'; '.join(found.problems) or 'well'}", style="dim", markup=False)

        scale = Scale(lease_seconds=given.lease_seconds)
        found = runner.run(run_all(wanted, scale, given.together, show))
    tables = Group(
        *(
            table_of(TITLES[kind], [each for run, each in zip(wanted, found, strict=True) if run.kind == kind])
            for kind in given.only
        )
    )
    return verdict.verdict(console, tables, [problem for each in found for problem in each.problems])


if __name__ == "__main__":
    sys.exit(main())
