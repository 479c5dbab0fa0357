"""What does it cost the others when somebody abuses the service? One load after the other, beside a good client.

    python tests/soak/abuse.py [--only invented-keys waits] [--stores sqlite postgresql valkey edge] [--seconds 10]

The good client polls 50 times and writes 10 times a second, from another address than the load and from a process of
its own. Every load has a new process of the installed command. For each the table says: the good client's polls and
writes (p50 and p99) and their multiples of what they are without a load; the processor time of one abuse, also in plain
polls; the longest time in which the service's loop answered nothing; the memory before, and the most of it; lines of
the log.
*edge* is an edge before a service on SQLite: polls and loads go to the edge, and the edge is what is measured.
Exits with 0 when everything was within its bounds, else with 1.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

import psutil
import uvloop
from harness import good_client
from harness.flood.plan import Plan
from harness.forging import EC_KEY, public_file, rsa_key
from harness.jobs import complete, put_virtual_key
from harness.service import INSTALLED, EdgeProcess, Process, Service
from harness.stores import STORES
from harness.tokens import AUDIENCE, ISSUER
from harness.told import Maker, percentile
from harness.verdict import Found, verdict
from jobstatus.core.virtual_keys import KEY_PREFIX, hash_key
from rich.console import Console, Group
from rich.table import Table
from soak.loads import BAD, FEW, GOOD, LOADS, MIB, NOTHING, PATH, REFERENCES, ROWS, Ground, Row, get

KINDS: Final = ("sqlite", "postgresql", "valkey", "edge")
GOOD_KEY: Final = f"{KEY_PREFIX}of-the-good-client"
GOOD_JOBS: Final = 20
LOG_LINES: Final = 50
"""No load makes the service write more."""
SECONDS: Final = 10.0
GONE_SECONDS: Final = 60.0
SAMPLE_SECONDS: Final = 0.02
SETTLE_SECONDS: Final = 60.0
SETTLE_SAMPLE_SECONDS: Final = 0.5
SETTLED_SHARE: Final = 0.1
"""Of a processor: what a process without clients takes at most."""
WIDTH: Final = 220
"""Of the table where nobody says how wide the screen is."""
GOOD_ANSWERS: Final = frozenset({"poll 200", "poll 202", "write OK", "large 200"})
NO_FLOOD: Final[Mapping[str, Any]] = {"count": 0, "answers": {}, "spans": []}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large the loads are, and the bounds of what they may do."""

    seconds: float = SECONDS
    crowd: float = 1.0
    """This share of the connections."""
    result_bytes: int = 16 * MIB
    p99_times: float = 3.0
    """The good client's p99 is at most so many times what it is without a load."""
    p99_ms: float = 100.0
    stall_ms: float = 50.0
    """The longest stall of the loop by one message or result."""
    judges_costs: bool = True
    """Whether processor times count, which a busy machine falsifies."""
    gone_seconds: float = GONE_SECONDS
    """Connections that take no answers are closed within this time; 0: nobody waits for it."""
    installed: bool = True
    """Whether the command is started as installed, or by a fork that is ready sooner."""


@dataclass(frozen=True, slots=True)
class Makers:
    """The processes of those who ask: the good client, and the load."""

    good: Maker
    flood: Maker


@asynccontextmanager
async def asking() -> AsyncIterator[Makers]:
    """Start them; they serve many measurements."""
    async with Maker("harness.good_client") as good, Maker("harness.flood") as flood:
        yield Makers(good, flood)


# --- one measurement ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured in one load, or without one."""

    polls: Sequence[float]
    writes: Sequence[float]
    large: Sequence[float]
    good_answers: Mapping[str, int]
    stall_ms: float
    stalled_by: str
    count: int
    answers: Mapping[str, int]
    cpu_seconds: float
    seconds: float
    memory: tuple[int, int]
    """Bytes before, and the most."""
    log_lines: int
    gone_after: float | None
    """When the connections of the load were gone; None: they were not, or nobody waited."""


class Watch:
    """The memory, the processor time and the log of a process, from now on."""

    def __init__(self, process: Process) -> None:
        assert process.child is not None
        self._system = psutil.Process(process.child.pid)
        self._log = process.log_path
        self._log_before = self._log.stat().st_size
        self.before = self.most = self._system.memory_info().rss
        self.files = self._system.num_fds()
        self._cpu_before = 0.0
        self._began = 0.0

    async def settled(self) -> None:
        """Return once the process does next to nothing, such as after the set-up of a load."""
        async with asyncio.timeout(SETTLE_SECONDS):
            before, spent = self._cpu(), SETTLED_SHARE
            while spent >= SETTLED_SHARE:
                await asyncio.sleep(SETTLE_SAMPLE_SECONDS)
                now = self._cpu()
                spent, before = (now - before) / SETTLE_SAMPLE_SECONDS, now

    def begin(self) -> None:
        """Count processor time from now on."""
        self._cpu_before, self._began = self._cpu(), time.monotonic()

    def end(self) -> tuple[float, float]:
        """Return the processor time since `begin`, and how long ago that is."""
        return self._cpu() - self._cpu_before, time.monotonic() - self._began

    def _cpu(self) -> float:
        times = self._system.cpu_times()
        return times.user + times.system

    async def sample(self) -> None:
        """Note the most memory until this is cancelled."""
        while True:
            self.most = max(self.most, self._system.memory_info().rss)
            await asyncio.sleep(SAMPLE_SECONDS)

    def log_lines(self) -> int:
        return self._log.read_bytes()[self._log_before :].count(b"\n")

    async def gone(self, seconds: float) -> float | None:
        """Return after how long the process has about as many files open as at first."""
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            if self._system.num_fds() <= self.files + FEW:
                return passed
            await asyncio.sleep(10 * SAMPLE_SECONDS)
        return None


async def measure(makers: Makers, ground: Ground, row: Row | None, scale: Scale) -> Measured:
    """Run the good client, and the load beside it."""
    async with AsyncExitStack() as stack:
        large = get(PATH + await ground.large(GOOD), ground.credential(GOOD)) if row and row.reads_large else ""
        needs = await row.prepare(ground) if row else {}
        good_load = await stack.enter_async_context(makers.good.ready(await good_plan(ground, large, scale)))
        watch = Watch(ground.measured)
        sampling = asyncio.create_task(watch.sample())
        stack.callback(sampling.cancel)
        loads = [good_load]
        if row:
            loads.append(await stack.enter_async_context(makers.flood.ready(plan_of(ground, row, needs, scale))))
        if row and row.unit != "request":
            await watch.settled()  # else one heartbeat seems to cost a share of the waits' set-up
        watch.begin()
        told = await asyncio.gather(*(load() for load in loads))
        cpu, seconds = watch.end()
        gone = await watch.gone(scale.gone_seconds) if row and row.is_cut_off and scale.gone_seconds else None
        good, flood = told[0], (told[1] if row else NO_FLOOD)
        stall, stalled_by = longest_stall(good, flood["spans"])
        return Measured(
            **{name: good[name] for name in ("polls", "writes", "large")},
            good_answers=good["answers"],
            stall_ms=stall,
            stalled_by=stalled_by,
            count=flood["count"],
            answers=flood["answers"],
            cpu_seconds=cpu,
            seconds=seconds,
            memory=(watch.before, watch.most),
            log_lines=watch.log_lines(),
            gone_after=gone,
        )


async def good_plan(ground: Ground, large: str, scale: Scale) -> good_client.Plan:
    """The good client polls jobs that are pending and jobs that have ended, with a token and with a key."""
    polls, names = [], [f"good-{number}" for number in range(GOOD_JOBS)]
    job_ids = await asyncio.gather(*(ground.job(GOOD, name) for name in names))
    await asyncio.gather(*(complete(ground.service, job_id) for job_id in job_ids[::2]))
    for job_id in job_ids:
        credentials = (ground.credential(GOOD), f"Authorization: Bearer {GOOD_KEY}")
        polls += [get(PATH + job_id, credential) for credential in credentials]
    return good_client.Plan(
        http_port=ground.measured.port("HTTP"),
        grpc_port=ground.service.grpc_port,
        seconds=scale.seconds,
        virtual_key_id=GOOD,
        polls=polls,
        large=large,
        prefix=f"{ground.prefix}-written",
    )


def plan_of(ground: Ground, row: Row, needs: Mapping[str, Any], scale: Scale) -> Plan:
    share = scale.crowd if row.shrinks else 1
    fields: dict[str, Any] = {
        "kind": row.kind,
        "http_port": ground.measured.port("HTTP"),
        "grpc_port": ground.service.grpc_port,
        "seconds": scale.seconds,
        "connections": max(1, round(row.connections * share)),
    }
    return Plan(**{**fields, **needs})


def longest_stall(good: Mapping[str, Any], spans: Sequence[tuple[str, float, float]]) -> tuple[float, str]:
    """Return the longest time that the loop did not answer, and what was under way then, if that has a name."""
    at, longest = max(good["slow_probes"], key=lambda probe: probe[1], default=(0.0, good["longest_probe"]))
    names = {name for name, began, ended in spans if began < at + longest / 1000 and ended > at}
    return longest, ", ".join(sorted(names)) if len({name for name, _, _ in spans}) > 1 else ""


# --- the judgement ---


@dataclass(frozen=True, slots=True)
class Base:
    """What there is without an abuse."""

    idle: Measured
    polls: Mapping[int, float]
    """The processor time of a plain poll, by how many connections poll."""

    @property
    def cpu_share(self) -> float:
        """Processor time in each second that the good client takes."""
        return self.idle.cpu_seconds / self.idle.seconds

    def seconds_each(self, measured: Measured) -> float:
        """Return the processor time of one of what a load does."""
        spent = measured.cpu_seconds - self.cpu_share * measured.seconds
        return spent / measured.count if measured.count else 0.0


def judge(name: str, row: Row | None, measured: Measured, base: Base | None, scale: Scale) -> Found:
    """Compare what was measured with the bounds. There is nothing to compare with where `base` is None."""
    found = Found(name=name)
    judge_good(found, measured, base, scale)
    if row:
        judge_cost(found, row, measured, base, scale)
        wrong = sorted(measured.answers.keys() - row.answers)
        counts = ", ".join(f"{count:,} {answer}" for answer, count in sorted(measured.answers.items()))
        found.note("answers", counts or "-", wrong=bool(wrong))
    stalled = row is not None and row.judges_stall and measured.stall_ms > scale.stall_ms
    cell = f"{measured.stall_ms:,.0f} ms"
    found.note("stall", f"{cell} {measured.stalled_by}".strip(), wrong=stalled, why=f"at most {scale.stall_ms:.0f} ms")
    before, most = (size / MIB for size in measured.memory)
    limit = row.memory_mib if row else ROWS["no-credential"].memory_mib
    found.note("MiB", f"{before:.0f}, {most:.0f}", wrong=most - before > limit, why=f"{limit} more at most")
    found.note("log", str(measured.log_lines), wrong=measured.log_lines > LOG_LINES)
    if row and row.is_cut_off and scale.gone_seconds:
        gone = measured.gone_after
        found.note("gone", "never" if gone is None else f"{gone:.0f} s", wrong=gone is None)
    return found


def judge_good(found: Found, measured: Measured, base: Base | None, scale: Scale) -> None:
    """Note how the good client fared."""
    for what in ("polls", "writes"):
        values = getattr(measured, what)
        p50, p99 = (percentile(values, share) for share in (0.5, 0.99))
        times = p99 / percentile(getattr(base.idle, what), 0.99) if base else 1.0
        wrong = p99 > scale.p99_ms or times > scale.p99_times
        limits = f"at most {scale.p99_times:g} times as usual and {scale.p99_ms:g} ms"
        found.note(f"{what} p50, p99", f"{p50:.1f}, {p99:.1f} ms, {times:.1f}x", wrong=wrong, why=limits)
    if measured.large:
        p50, most = percentile(measured.large, 0.5), max(measured.large)
        found.note("others' large", f"{len(measured.large)}: {p50:.0f}, most {most:.0f} ms")
    bad = {answer: count for answer, count in measured.good_answers.items() if answer not in GOOD_ANSWERS}
    if bad:
        found.note("good client", ", ".join(f"{count} {answer}" for answer, count in bad.items()), wrong=True)


def judge_cost(found: Found, row: Row, measured: Measured, base: Base | None, scale: Scale) -> None:
    """Note what one abuse costs, and what that is in plain polls."""
    if row.unit == "-":
        return
    found.note("a second", f"{measured.count / measured.seconds:,.1f}")
    if base is None:
        return
    each = base.seconds_each(measured)
    if row.most_ms is not None or row.unit != "request":
        wrong = scale.judges_costs and row.most_ms is not None and 1000 * each > row.most_ms
        found.note("one costs", f"{1000 * each:.1f} ms a {row.unit}", wrong=wrong, why=f"at most {row.most_ms} ms")
        return
    if not base.polls:  # this is the first that others are compared with
        found.note("one costs", f"{1_000_000 * each:,.0f} µs")
        return
    usual = base.polls[min(base.polls, key=lambda connections: abs(connections - row.connections))]
    polls = each / usual
    wrong = scale.judges_costs and row.most_polls is not None and polls > row.most_polls
    cell = f"{1_000_000 * each:,.0f} µs, {polls:.1f} polls"
    found.note("one costs", cell, wrong=wrong, why=f"at most {row.most_polls} polls")


# --- the processes ---


def issuers(folder: Path) -> str:
    """Two issuers with asymmetric keys, in addition to the one that tests have."""
    files = {"RS256": public_file(folder, "rsa", rsa_key()), "ES256": public_file(folder, "ec", EC_KEY)}
    return json.dumps(
        [
            {
                "issuer": f"{ISSUER}/{algorithm}",
                "audience": AUDIENCE,
                "algorithm": algorithm,
                "public_key_file": str(path),
            }
            for algorithm, path in files.items()
        ]
    )


@dataclass(frozen=True, slots=True)
class Running:
    """What runs: a service on a store of this kind, and the process that is measured."""

    kind: str
    service: Service
    measured: Process


@asynccontextmanager
async def serving(kind: str, folder: Path, scale: Scale, **settings: str) -> AsyncIterator[Running]:
    """Start a service on a store of this kind, with an edge before it if that is what is asked for."""
    store = STORES["sqlite" if kind == "edge" else kind](folder)
    settings = {"ISSUERS": issuers(folder), **settings}
    async with AsyncExitStack() as stack:
        process = await stack.enter_async_context(_started(Process(folder, STORE=store, **settings), scale))
        service = await stack.enter_async_context(process.connected())
        measured = process
        if kind == "edge":
            edge = EdgeProcess(folder, service, **settings)
            measured = await stack.enter_async_context(_started(edge, scale))
        await put_virtual_key(service, GOOD, key_sha256=[hash_key(GOOD_KEY)])
        await put_virtual_key(service, BAD)
        yield Running(kind, service, measured)


def _started(process: Process, scale: Scale) -> Process:
    if scale.installed:
        process.start_command = INSTALLED
    return process


async def run(
    makers: Makers, running: Running, name: str, scale: Scale, base: Base | None = None
) -> tuple[Found, Measured]:
    """Measure and judge the load of this name, or none."""
    row = LOADS.get(name)
    ground = Ground(running.service, running.measured, prefix=name, result_bytes=scale.result_bytes)
    measured = await measure(makers, ground, row, scale)
    return judge(f"{running.kind}: {row.title if row else NOTHING}", row, measured, base, scale), measured


async def run_all(kind: str, names: Sequence[str], scale: Scale, on_done: Callable[[Found], None]) -> list[Found]:
    """Measure what there is without abuse, then one load after the other, each on a process of its own."""
    all_found = []
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="abuse-")))
        makers = await stack.enter_async_context(asking())

        async def one(name: str, scale: Scale, base: Base | None) -> Measured:
            settings = LOADS[name].settings if name in LOADS else {}
            async with serving(kind, folder, scale, **settings) as running:
                found, measured = await run(makers, running, name, scale, base)
            all_found.append(found)
            on_done(found)
            return measured

        base = Base(await one(NOTHING, replace(unjudged(scale), seconds=2 * scale.seconds), None), {})
        for connections, name in REFERENCES.items():
            measured = await one(name, unjudged(scale), base)
            base = Base(base.idle, {**base.polls, connections: base.seconds_each(measured)})
        for name in names:
            if kind != "edge" or LOADS[name].on_edge:
                await one(name, scale, base)
    return all_found


def unjudged(scale: Scale) -> Scale:
    """Return the same for a load that everybody may make."""
    return replace(scale, p99_times=float("inf"), p99_ms=float("inf"))


def table_of(title: str, found: Sequence[Found]) -> Table:
    """What was found, for a person."""
    columns = list(dict.fromkeys(column for each in found for column in each.cells))
    table = Table("", *columns, title=title)
    for each in found:
        table.add_row(each.name.partition(": ")[2], *(each.cells.get(column, "-") for column in columns))
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="LOAD", help=", ".join(ROWS))
    parser.add_argument("--stores", "--store", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each load (%(default)s)")
    given = parser.parse_args()
    console, scale = Console(width=None if sys.stdout.isatty() else WIDTH), Scale(seconds=given.seconds)
    tables: dict[str, list[Found]] = {}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, console.status("loads"):

        def show(found: Found) -> None:
            cells = "; ".join(f"{column} {cell}" for column, cell in found.cells.items())
            console.print(f"{found.name}: {cells}", style="dim", soft_wrap=True)

        for kind in given.stores:
            tables[kind] = runner.run(run_all(kind, given.only, scale, show))
    problems = [problem for found in tables.values() for each in found for problem in each.problems]
    return verdict(console, Group(*(table_of(kind, found) for kind, found in tables.items())), problems)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
