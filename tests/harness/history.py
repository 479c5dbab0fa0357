"""What many clients did and saw at the same time, and whether one honest service can have answered so.

The manner is Jepsen's, small enough to read. Every call is noted with the moments at which it was made and answered,
and ends in one of three ways: `ok`, `refused` (it certainly did not happen) or `unknown` (a timeout, a lost connection:
it happened wholly or not at all). Jobs are independent of each other, so each is judged by its own calls.
"""

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

Ending = Literal["ok", "refused", "unknown"]

GONE, PENDING, PROCESSING, ENDED = range(4)
"""How far a job is."""

STATES: Final = {"pending": PENDING, "processing": PROCESSING, "completed": ENDED, "failed": ENDED}


def digest(content: bytes) -> str:
    """Stands for bytes that are only compared."""
    return hashlib.sha256(content).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A job as an answer showed it.

    `version` 0 where the answer does not tell it; `snapshot` stands for all of the job's fields but its result, and
    `outcome` for how it ended. Both are empty where the answer does not tell them.
    """

    rank: int
    version: int = 0
    snapshot: str = ""
    outcome: str = ""
    body: str = ""


@dataclass(slots=True, kw_only=True)
class Call:
    """One call about one job. `wanted` is how it would end the job, for those that would."""

    kind: str
    job_id: str
    rank: int
    wanted: str = ""
    made_at: int
    answered_at: int = 0
    ending: Ending = "unknown"
    seen: Seen | None = None


@dataclass(slots=True)
class History:
    """Every call of a run, in the order in which they were made."""

    calls: list[Call] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What no client should ever see, noted as it was seen."""
    _now: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def begin(self, kind: str, job_id: str, rank: int = GONE, wanted: str = "") -> Call:
        """Note a call that is about to be made; `rank` is how far it would bring the job, GONE for a read."""
        call = Call(kind=kind, job_id=job_id, rank=rank, wanted=wanted, made_at=next(self._now))
        self.calls.append(call)
        return call

    def end(self, call: Call, ending: Ending, seen: Seen | None = None) -> None:
        """Note how the call ended and what it showed."""
        call.answered_at, call.ending, call.seen = next(self._now), ending, seen

    def count(self) -> Counter[tuple[str, Ending]]:
        """How many calls of each kind ended how."""
        return Counter((call.kind, call.ending) for call in self.calls)

    def violations(self) -> list[str]:
        """All that no honest service can have answered; empty is what one hopes for."""
        jobs: defaultdict[str, list[Call]] = defaultdict(list)
        for call in self.calls:
            jobs[call.job_id].append(call)
        return self.faults + [f"{job_id}: {wrong}" for job_id, calls in jobs.items() for wrong in _judge(calls)]


def _judge(calls: list[Call]) -> Iterator[str]:
    answered = sorted((call for call in calls if call.seen is not None), key=lambda call: call.answered_at)
    yield from _going_back(calls, answered)
    yield from _from_nowhere(calls, answered)
    yield from _disagreeing(answered)
    yield from _outcomes(calls, answered)


def _going_back(calls: list[Call], answered: list[Call]) -> Iterator[str]:
    """No answer shows less than what had been answered to anybody before it was asked for."""
    following = iter(answered)
    earlier = next(following, None)
    rank = version = 0
    for call in calls:
        while earlier is not None and earlier.seen is not None and earlier.answered_at < call.made_at:
            rank, version = max(rank, earlier.seen.rank), max(version, earlier.seen.version)
            earlier = next(following, None)
        seen = call.seen
        if seen is not None and (seen.rank < rank or 0 < seen.version < version):
            yield f"went back: {call.kind} saw {_words(seen)} after rank {rank}, version {version} had been answered"


def _from_nowhere(calls: list[Call], answered: list[Call]) -> Iterator[str]:
    """No answer shows more than what had been asked for before it was given."""
    asked = iter(calls)
    later = next(asked, None)
    rank, wanted = GONE, {""}
    for call in answered:
        while later is not None and later.made_at < call.answered_at:
            rank = max(rank, later.rank)
            wanted.add(later.wanted)
            later = next(asked, None)
        if call.seen is not None and (call.seen.rank > rank or call.seen.outcome not in wanted):
            yield f"from nowhere: {call.kind} saw {_words(call.seen)}, which nobody had asked for"


def _disagreeing(answered: list[Call]) -> Iterator[str]:
    """All who see the same version see the same job, and all who see the end see the same bytes."""
    snapshots: dict[int, str] = {}
    bodies, outcomes = set(), set()
    for call in answered:
        seen = call.seen
        if seen is None:
            continue
        if seen.snapshot and snapshots.setdefault(seen.version, seen.snapshot) != seen.snapshot:
            yield f"two jobs of version {seen.version}"
        bodies.update({seen.body} - {""})
        outcomes.update({seen.outcome} - {""})
    if len(outcomes) > 1:
        yield f"{len(outcomes)} outcomes: {', '.join(sorted(outcomes))}"
    if len(bodies) > 1:
        yield f"{len(bodies)} bodies of the end"


def _outcomes(calls: list[Call], answered: list[Call]) -> Iterator[str]:
    """The job has ended, as nobody was told that it did not, and as everybody was told who was told that it did."""
    final = {call.seen.outcome for call in answered if call.seen is not None} - {""}
    if not final:
        yield "never seen to have ended"
    for call in calls:
        if call.wanted and call.ending == "ok" and call.wanted not in final:
            yield f"lost: {call.kind} {call.wanted} was acknowledged"
        if call.wanted and call.ending == "refused" and call.wanted in final:
            yield f"refused and done: {call.kind} {call.wanted}"


def _words(seen: Seen) -> str:
    return f"rank {seen.rank}, version {seen.version}, outcome {seen.outcome or 'none'}"
