"""Restarts, crashes and replaces a PostgreSQL primary while clients write and poll, and judges what was answered.

    python tests/soak/postgresql_torture.py --rounds 5 [--writers 100] [--seed N]

The service (the installed command) is on a primary with a synchronous standby, and knows the addresses of both. Each
round does one of these under load, in turn: the primary is restarted with `-m fast`, and with `-m immediate`; it is
killed, or it hangs, and its standby is promoted, and gets a new standby where the old primary was. The service is never
restarted. In the gap polls may be answered 503 with Retry-After, and nothing else that is no answer. What every client
did and saw makes one history, which `harness.history` judges at the end; every job whose creation was acknowledged is
looked at. Exits with 0 when nothing was wrong, and the service well again within ten seconds each time, else with 1.
"""

import argparse
import asyncio
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else it remarks on each start of the service

import grpc
import uvloop
from harness.history import History
from harness.patient_load import PatientLoad, Polled, Written, clients, ended, writes_in_words
from harness.postgresql import Server
from harness.postgresql import until as until_now
from harness.service import Process
from harness.verdict import verdict
from rich.console import Console
from rich.table import Table

HEALED_SECONDS: Final = 10.0
ENOUGH: Final = 100
"""How many jobs must have ended before a fault, and after all is well again."""
_SETTINGS: Final = {"wal_retrieve_retry_interval": "200ms"}
"""A standby that has lost its primary looks for it often, so that commits do not wait for it long."""


class Pair:
    """A primary and its synchronous standby, at two addresses that stay the same."""

    def __init__(self) -> None:
        self.primary = Server()
        self.standby = Server()
        self.lost: Server | None = None

    def start(self) -> None:
        self.primary.create().start(**_SETTINGS)
        self._follow()

    def url(self) -> str:
        return self.primary.url("postgres", self.standby)

    def restart_fast(self) -> None:
        self.primary.restart("fast")

    def restart_immediate(self) -> None:
        self.primary.restart("immediate")

    def kill_and_promote(self) -> None:
        self.primary.kill()
        self._promote()

    def freeze_and_promote(self) -> None:
        self.primary.freeze()
        self._promote()

    def repair(self) -> None:
        """Return when there is a synchronous standby, a new one where a primary was lost."""
        if self.lost is None:
            self._until_followed()
            return
        if (self.lost.data / "postmaster.pid").exists():
            self.lost.kill()  # or it would go on as a second primary
        self.lost.remove()
        self.standby, self.lost = Server(self.lost.port), None
        self._follow()

    def remove(self) -> None:
        for server in {self.primary, self.standby, self.lost or self.primary}:
            server.remove()

    def _promote(self) -> None:
        self.standby.promote()
        self.primary, self.lost = self.standby, self.primary
        self.primary.set_for_all(synchronous_standby_names="")

    def _follow(self) -> None:
        self.standby.copy_of(self.primary, "standby").start(**_SETTINGS)
        until_now(lambda: self._states() == ["async"])
        self.primary.set_for_all(synchronous_standby_names="standby")
        self._until_followed()

    def _until_followed(self) -> None:
        until_now(lambda: self._states() == ["sync"])

    def _states(self) -> list[str]:
        asked = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'"
        return [str(state) for (state,) in self.primary.execute(asked)]


FAULTS: Final[dict[str, Callable[[Pair], None]]] = {
    "restart -m fast": Pair.restart_fast,
    "restart -m immediate": Pair.restart_immediate,
    "killed, standby promoted": Pair.kill_and_promote,
    "hangs, standby promoted": Pair.freeze_and_promote,
}


@dataclass(slots=True, kw_only=True)
class Round:
    """What one fault did. Seconds are since it began."""

    fault: str
    server_back: float = 0.0
    polls_answered: int = 0
    polls_refused: int = 0
    polled_again: float = 0.0
    slowest_poll: float = 0.0
    writes_acknowledged: int = 0
    writes_refused: int = 0
    written_again: float = 0.0


@dataclass(slots=True, kw_only=True)
class Report:
    """What was done, and what was wrong."""

    rounds: list[Round] = field(default_factory=list)
    history: History = field(default_factory=History)
    violations: list[str] = field(default_factory=list)
    jobs: int = 0
    seconds: float = 0.0


class Torture:
    """All rounds upon one pair of servers and one service."""

    def __init__(
        self, folder: Path, *, faults: Sequence[str], writers: int, seed: int, on_round: Callable[[Round], None]
    ) -> None:
        """`folder` gets the service's files; `on_round` is told after each fault."""
        self._folder = folder
        self._faults = faults
        self._writers = writers
        self._chance = random.Random(seed)
        self._on_round = on_round
        self._report = Report()
        self._pair = Pair()

    async def run(self) -> Report:
        """The report; what went wrong is in it. Raises TimeoutError when something takes longer than it may."""
        began, report = time.monotonic(), self._report
        try:
            await asyncio.to_thread(self._pair.start)
            async with Process(self._folder, STORE=self._pair.url()) as process:
                ports = {"http_port": process.port("HTTP"), "grpc_port": process.port("GRPC")}
                load = PatientLoad(report.history, self._chance, **ports)
                try:
                    async with clients(load, (f"job-{index}" for index in itertools.count()), self._writers):
                        for fault in self._faults:
                            report.rounds.append(await self._one(load, fault))
                            self._on_round(report.rounds[-1])
                    await load.look_at(load.created)
                finally:
                    await load.close()
                process.send(signal.SIGTERM)
                if code := await process.ended():
                    report.history.faults.append(f"the service ended with {code} when it was told to stop")
        finally:
            await asyncio.to_thread(self._pair.remove)
        report.violations = await asyncio.to_thread(report.history.violations)
        report.jobs = len(load.created)
        report.seconds = time.monotonic() - began
        return report

    async def _one(self, load: PatientLoad, fault: str) -> Round:
        """Let it happen under load, and wait until all is well."""
        await ended(load, ENOUGH)
        polls, writes, began = len(load.polls), len(load.written), time.monotonic()
        await asyncio.to_thread(FAULTS[fault], self._pair)
        back = time.monotonic() - began
        await ended(load, ENOUGH)
        seen = load.polls[polls:], load.written[writes:]
        await asyncio.to_thread(self._pair.repair)
        await ended(load, ENOUGH)
        round_ = Round(fault=fault, server_back=back)
        _tell(round_, *seen, began)
        return round_


def _tell(round_: Round, polls: Sequence[Polled], writes: Sequence[Written], began: float) -> None:
    """Sum up what was answered since the fault."""
    refused = [poll for poll in polls if poll.status == 503]
    failed = [write for write in writes if write.code is grpc.StatusCode.UNAVAILABLE]
    round_.polls_answered, round_.polls_refused = len(polls) - len(refused), len(refused)
    round_.polled_again = max((poll.at + poll.seconds - began for poll in refused), default=0.0)
    round_.slowest_poll = max((poll.seconds for poll in polls), default=0.0)
    round_.writes_acknowledged = sum(write.code is grpc.StatusCode.OK for write in writes)
    round_.writes_refused = len(failed)
    round_.written_again = max((write.at - began for write in failed), default=0.0)


def problems(report: Report) -> list[str]:
    """All that was not as it should be."""
    found = list(report.violations)
    for number, round_ in enumerate(report.rounds, 1):
        slowest = max(round_.polled_again, round_.written_again)
        if slowest > HEALED_SECONDS:
            found.append(f"round {number}, {round_.fault}: clients were refused for {slowest:.1f} s")
    return found


def table_of(report: Report) -> Table:
    """The report for a person."""
    table = Table(title="Faults of a PostgreSQL primary under load; seconds since the fault")
    table.add_column("fault", no_wrap=True)
    for name in ("back", "polls", "503", "until", "slowest", "writes", "no", "until"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in report.rounds:
        polls = (f"{one.polls_answered}", f"{one.polls_refused}", f"{one.polled_again:.2f}", f"{one.slowest_poll:.2f}")
        writes = (f"{one.writes_acknowledged}", f"{one.writes_refused}", f"{one.written_again:.2f}")
        table.add_row(one.fault, f"{one.server_back:.2f}", *polls, *writes)
    table.caption = (
        f"{report.jobs:,} jobs; {writes_in_words(report.history)}; {len(report.violations)} violations"
        f" in {report.seconds:.0f} s"
    )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each fault happens")
    parser.add_argument("--writers", type=int, default=100, help="how many clients write at a time")
    parser.add_argument("--seed", type=int, default=None, help="repeats the choices of an earlier run")
    given = parser.parse_args()
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    console = Console()

    def show(one: Round) -> None:
        console.print(f"{one.fault}: {max(one.polled_again, one.written_again):.2f} s", style="dim")

    with (
        tempfile.TemporaryDirectory(prefix="postgresql-torture-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        faults = [*FAULTS] * given.rounds
        torture = Torture(Path(folder), faults=faults, writers=given.writers, seed=seed, on_round=show)
        report = runner.run(torture.run())
    return verdict(console, table_of(report), problems(report))


if __name__ == "__main__":
    sys.exit(main())
