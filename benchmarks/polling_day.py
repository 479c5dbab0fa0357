"""How many polls a day takes, and how late the news comes, under several rules for when to ask again.

A simulation of one service and one day, on no clock but its own: jobs arrive at random, up to two a second, along a day
with a busy afternoon and a quiet night; how long they take is drawn from their type's distribution; now and then one
fails at once. Each job has one poller, which asks right after the job was created and then as it is told, a network
apart. The rule "learned" is the service's own code, with what it has learned since the morning and nothing more;
"a tenth of the age" is what that code does while it knows too little.
"""

import argparse
import heapq
import math
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from jobstatus.core.job import RequestType
from jobstatus.core.retry_after import RetryAfterEstimator, unlearned_retry_after_ms
from jobstatus.rest.headers import MAX_RETRY_AFTER_SECONDS, retry_after_seconds
from jobstatus.settings import Settings
from rich.console import Console
from rich.table import Table

DAY_SECONDS: Final = 86_400
BUSIEST_HOUR: Final = 15
QUIET_SHARE: Final = 0.1
"""Of the arrivals in the busiest hour, how many come in the quietest."""
FIRST_POLL_SECONDS: Final = 0.05
NETWORK_SECONDS: Final = (0.02, 0.12)
"""Between the time that a poller was told and the time when it asks, at least and at most."""
FAILS_AT_ONCE: Final = 0.02
FAILURE_SECONDS: Final = (0.3, 3.0)
LEAST_SECONDS: Final = Settings.model_fields["retry_after_seconds"].default


class Mode(NamedTuple):
    """A lognormal part of a type's durations: its weight, median and sigma."""

    weight: float
    median_seconds: float
    sigma: float


MIX: Final[dict[RequestType, tuple[float, tuple[Mode, ...]]]] = {
    RequestType.TRANSCRIPTION: (0.30, (Mode(1, 240, 0.6),)),
    RequestType.CHAT_COMPLETION: (0.40, (Mode(1, 8, 0.5),)),
    RequestType.IMAGE_GENERATION: (0.15, (Mode(1, 25, 0.4),)),
    RequestType.OCR: (0.10, (Mode(0.7, 10, 0.4), Mode(0.3, 120, 0.5))),
    RequestType.EMBEDDING: (0.05, (Mode(1, 2, 0.4),)),
}
"""Which part of the jobs each type is, and how long its jobs take."""


class Job(NamedTuple):
    job_id: str
    request_type: RequestType
    created_at: float
    duration: float


class Rule(NamedTuple):
    """After how many seconds to ask again: of the job, its age in seconds and the number of the poll; and what is to be
    told of each job that a poll finds ended."""

    pause: Callable[[Job, float, int], float]
    ended: Callable[[Job], None] = lambda _: None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a day was like for some of the jobs."""

    polls: int
    lateness: Sequence[float]

    @property
    def polls_per_job(self) -> float:
        return self.polls / len(self.lateness)

    def percentile(self, percent: int) -> float:
        return statistics.quantiles(self.lateness, n=100)[percent - 1]


def day(seed: int, seconds: float, per_second: float) -> Iterator[Job]:
    """The jobs of a day, or of its first seconds, in the order of their arrival."""
    chance = random.Random(seed)
    types, shares = list(MIX), [share for share, _ in MIX.values()]
    at, number = 0.0, 0
    while (at := at + chance.expovariate(per_second)) < seconds:
        height = (1 + math.cos(2 * math.pi * (at / DAY_SECONDS - BUSIEST_HOUR / 24))) / 2
        if chance.random() < QUIET_SHARE + (1 - QUIET_SHARE) * height:
            number += 1
            (request_type,) = chance.choices(types, shares)
            yield Job(f"job-{number}", request_type, at, _duration(chance, request_type))


def _duration(chance: random.Random, request_type: RequestType) -> float:
    if chance.random() < FAILS_AT_ONCE:
        return chance.uniform(*FAILURE_SECONDS)
    modes = MIX[request_type][1]
    (mode,) = chance.choices(modes, [mode.weight for mode in modes])
    return mode.median_seconds * math.exp(chance.gauss(0, mode.sigma))


def learned() -> Rule:
    """The service's own rule, and what its process would learn."""
    expected = RetryAfterEstimator()

    def pause(job: Job, age: float, _: int) -> float:
        return retry_after_seconds(
            expected.retry_after_ms(job.job_id, job.request_type, int(age * 1000)), LEAST_SECONDS
        )

    def ended(job: Job) -> None:
        if expected.first_seen_ended(job.job_id):
            expected.learn(job.request_type, int(job.duration * 1000))

    return Rule(pause, ended)


RULES: Final[dict[str, Callable[[], Rule]]] = {
    "every 2 s": lambda: Rule(lambda *_: 2),
    "every 5 s": lambda: Rule(lambda *_: 5),
    "2 s doubling to 30 s": lambda: Rule(lambda _, __, count: min(2.0 * 2**count, MAX_RETRY_AFTER_SECONDS)),
    "a tenth of the age": lambda: Rule(
        lambda _, age, __: retry_after_seconds(unlearned_retry_after_ms(int(age * 1000)), LEAST_SECONDS)
    ),
    "learned": learned,
}


def polled(jobs: Sequence[Job], rule: Rule, seed: int) -> dict[RequestType, Outcome]:
    """Poll all the jobs to their end, in the order in which a service would be asked."""
    chance = random.Random(seed)
    polls = dict.fromkeys(MIX, 0)
    lateness: dict[RequestType, list[float]] = {request_type: [] for request_type in MIX}
    due = [(job.created_at + FIRST_POLL_SECONDS, number, 0) for number, job in enumerate(jobs)]
    heapq.heapify(due)
    while due:
        at, number, count = due[0]
        job = jobs[number]
        age = at - job.created_at
        polls[job.request_type] += 1
        if age >= job.duration:
            heapq.heappop(due)
            lateness[job.request_type].append(age - job.duration)
            rule.ended(job)
        else:
            following = at + rule.pause(job, age, count) + chance.uniform(*NETWORK_SECONDS)
            heapq.heapreplace(due, (following, number, count + 1))
    return {request_type: Outcome(polls[request_type], lateness[request_type]) for request_type in MIX}


def whole(outcomes: dict[RequestType, Outcome]) -> Outcome:
    """Of all types together."""
    late = [seconds for outcome in outcomes.values() for seconds in outcome.lateness]
    return Outcome(sum(outcome.polls for outcome in outcomes.values()), late)


def table(title: str, of_rules: dict[str, Outcome]) -> Table:
    """One line for each rule; what it saves is against the first."""
    drawn = Table(title=title, title_justify="left")
    for name in ("rule", "polls a job", "saved", "late: mean s", "p50", "p95", "max"):
        drawn.add_column(name, justify="left" if name == "rule" else "right")
    most = next(iter(of_rules.values())).polls
    for name, outcome in of_rules.items():
        late = (
            statistics.fmean(outcome.lateness),
            outcome.percentile(50),
            outcome.percentile(95),
            max(outcome.lateness),
        )
        saved = f"{1 - outcome.polls / most:.0%}"
        drawn.add_row(name, f"{outcome.polls_per_job:.1f}", saved, *(f"{seconds:.1f}" for seconds in late))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=float, default=24, help="how much of the day, from midnight on")
    parser.add_argument("--per-second", type=float, default=2, help="jobs a second in the busiest hour")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    jobs = list(day(chosen.seed, chosen.hours * 3600, chosen.per_second))
    if len(jobs) < 100 * len(MIX):
        sys.exit("that is too little of a day to say anything")
    console = Console(width=100)
    console.print(f"{len(jobs):,} jobs, one poller each; Retry-After from {LEAST_SECONDS} s on")
    outcomes = {}
    for name, rule in RULES.items():
        with console.status(name):
            outcomes[name] = polled(jobs, rule(), chosen.seed)
    console.print(table("all jobs", {name: whole(found) for name, found in outcomes.items()}))
    for request_type, (share, modes) in MIX.items():
        medians = " and ".join(f"{mode.median_seconds:g} s" for mode in modes)
        of_type = {name: found[request_type] for name, found in outcomes.items()}
        console.print(table(f"{request_type.value}: {share:.0%}, median {medians}", of_type))


if __name__ == "__main__":
    main()
