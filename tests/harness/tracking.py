"""The core upon a store, without its edges, and an account of what its writers were told."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import apsw
from jobstatus.core.commands import Command, CompleteJob, CreateJob
from jobstatus.core.errors import JobStatusError, StoreFull, StoreUnavailable
from jobstatus.core.job import Job, RequestType
from jobstatus.core.rules import Policy
from jobstatus.core.store import JobStore
from jobstatus.core.timekeeper import MS_NS, Timekeeper
from jobstatus.core.tracker import JobTracker, TrackerLimits
from jobstatus.core.write_queue import WriterLimits

from harness.stores import IgnoringObserver

START_MS: Final = 1_700_000_000_000


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms

    def move(self, seconds: float) -> None:
        self.now_ms += int(seconds * 1000)


def timekeeper(clock: Callable[[], int]) -> Timekeeper:
    """Tells the time of a clock that tests move."""
    return Timekeeper(wall_ms=clock, monotonic_ns=lambda: clock() * MS_NS, pulse=lambda: 0, follows_store=False)


def tracker_on(
    store: JobStore, clock: Clock | None = None, writes: WriterLimits | None = None, **policy: int
) -> JobTracker:
    """The core upon an open store."""
    limits = TrackerLimits(writes=writes or WriterLimits())
    return JobTracker(
        store, clock=timekeeper(clock or Clock()), policy=Policy(**policy), observer=IgnoringObserver(), limits=limits
    )


def creation(job_id: str, **fields: Any) -> CreateJob:
    """A new transcription."""
    return CreateJob(**({"job_id": job_id, "request_type": RequestType.TRANSCRIPTION} | fields))


def completion(job_id: str, size: int = 0, **fields: Any) -> CompleteJob:
    """An end with a result of its own, which has at least `size` bytes."""
    return CompleteJob(job_id=job_id, result=json.dumps([job_id, "x" * size]).encode(), **fields)


def batch(number: int, size: int = 6000) -> list[Command]:
    """Two new jobs, and the end of one of the batch before: all of it is to happen, or none."""
    created: list[Command] = [creation(f"job-{number}-a"), creation(f"job-{number}-b")]
    return [*created, completion(f"job-{number - 1}-a", size)] if number else created


class Ledger:
    """What writers were told: what must be there whatever happens."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, Job] = {}

    async def write(self, tracker: JobTracker, number: int) -> JobStatusError | None:
        """Write the batch of this number; note what was acknowledged, or return why nothing was."""
        return self.note(await tracker.write(batch(number)))

    def note(self, outcomes: Sequence[Job | JobStatusError]) -> JobStatusError | None:
        """Outcomes of one batch: acknowledged all, or the store failed all."""
        refusals = [outcome for outcome in outcomes if isinstance(outcome, JobStatusError)]
        if refusals:
            assert len(refusals) == len(outcomes), outcomes
            assert isinstance(refusals[0], StoreUnavailable | StoreFull), refusals
            return refusals[0]
        self.acknowledged |= {job.job_id: job for job in outcomes if isinstance(job, Job)}
        return None

    def copy(self) -> dict[str, Job]:
        """What must be there if the lights go out now."""
        return dict(self.acknowledged)


async def missing(store: JobStore, acknowledged: dict[str, Job]) -> list[str]:
    """The acknowledged jobs that are not there as they were acknowledged, nor in a later version."""
    stored = await store.read_jobs(list(acknowledged), with_results=True)
    return [
        told.job_id
        for told, found in zip(acknowledged.values(), stored, strict=True)
        if not isinstance(found, Job)
        or found.version < told.version
        or (found.version == told.version and found != told)
    ]


async def torn(store: JobStore, numbers: range) -> list[int]:
    """The batches of which a part happened and a part did not."""
    found = []
    for number in numbers:
        command_ids = [command.job_id for command in batch(number)]
        jobs = await store.read_jobs(command_ids, with_results=False)
        happened = {job is not None for job in jobs[:2]}
        happened |= {isinstance(job, Job) and job.is_terminal for job in jobs[2:]}
        if len(happened) > 1:
            found.append(number)
    return found


def integrity(path: Path) -> str:
    """What SQLite says of the whole file: "ok", or what is wrong."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        return str(connection.execute("PRAGMA integrity_check").get)
    finally:
        connection.close()
