"""The stores that every contract test runs over, and what a test of a store is made of."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from jobstatus.core.answer import render
from jobstatus.core.circuit_breaker import BreakerLimits
from jobstatus.core.job import Job, JobState, RequestType
from jobstatus.core.rules import JobOutcome
from jobstatus.core.store import Change, NoticeChannel, Store
from jobstatus.stores import open_store
from jobstatus.stores.postgresql import PostgreSQLJobStore
from jobstatus.stores.postgresql.limits import PostgreSQLLimits
from jobstatus.stores.redis.cluster.limits import ClusterLimits
from jobstatus.stores.redis.store import RedisJobStore, RedisLimits

from harness import postgresql, valkey

STORES: Final[dict[str, Callable[[Path], str]]] = {
    "memory": lambda _: "memory://",
    "sqlite": lambda folder: f"sqlite:///{folder / 'jobs.db'}",
    "postgresql": postgresql.url_for,
    "valkey": valkey.single_url_for,
    "cluster": valkey.cluster_url_for,
}
"""The URL of a store of each kind that belongs to a folder: empty at first, and the same whenever it is asked for.

Servers start when they are first needed, and end with the tests.
"""
SHARED: Final = tuple(name for name in STORES if name != "memory")
"""The stores that several processes can share."""


PATIENT: Final = ClusterLimits(
    operation_seconds=10, connect_seconds=10, silence_seconds=10, health_check_seconds=10, durable_ms=10_000
)
PATIENT_POSTGRESQL: Final = PostgreSQLLimits(
    connect_seconds=10, operation_seconds=10, breaker=BreakerLimits(silence_seconds=10, health_check_seconds=10)
)
"""How soon a server counts as gone is for the tests of faults; elsewhere it may be slow."""


def store_in(kind: str, folder: Path) -> Store:
    """The folder's store of this kind, to be entered."""
    return patient_store(STORES[kind](folder))


def patient_store(url: str) -> Store:
    """The store that the URL names, to be entered. It waits long for its server."""
    if url.startswith("redis"):
        return RedisJobStore(url, limits=RedisLimits(cluster=PATIENT))
    if url.startswith("postgresql"):
        return PostgreSQLJobStore(url, PATIENT_POSTGRESQL)
    return open_store(url)


class DelegatingStore:
    """A store in front of a real one: every operation is the real one's, unless a subclass overrides it.

    It passes no notices of changes on.
    """

    notices: NoticeChannel | None = None

    def __init__(self, real: Store) -> None:
        self.real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    async def __aenter__(self) -> Self:
        await self.real.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.real.__aexit__(kind, error, traceback)


class IgnoringObserver:
    """An observer for tests that measure nothing."""

    def job_created(self, request_type: RequestType) -> None: ...

    def job_started(self, request_type: RequestType, queued_seconds: float) -> None: ...

    def job_ended(self, request_type: RequestType, outcome: JobOutcome, run_seconds: float | None) -> None: ...

    def batch_written(self, commands: int) -> None: ...

    def races_lost(self, commands: int) -> None: ...

    def swept(self, what: str, jobs: int) -> None: ...

    def store_answered(self, operation: str, seconds: float) -> None: ...


def job(job_id: str = "job-1", **fields: object) -> Job:
    """A pending job as of version 1, but for the fields given."""
    values: dict[str, object] = {
        "request_type": RequestType.TRANSCRIPTION,
        "state": JobState.PENDING,
        "version": 1,
        "virtual_key_id": None,
        "provider": None,
        "model_requested": None,
        "created_at_ms": 1000,
        "due_at_ms": 50_000,
        "result_ttl_ms": 3_600_000,
        "max_attempts": 1,
    }
    return Job(job_id=job_id, **(values | fields))  # type: ignore[arg-type]  # one dict for fields of several types


def change(following: Job, replaces: int = 0) -> Change:
    """The step to this version."""
    return Change(job_id=following.job_id, replaces=replaces, job=following, answer=render(following))


def deletion(job_id: str, replaces: int) -> Change:
    """The removal of this version."""
    return Change(job_id=job_id, replaces=replaces, job=None, answer=None)
