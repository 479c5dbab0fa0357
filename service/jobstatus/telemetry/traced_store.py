"""A store whose operations are spans, by OpenTelemetry's conventions for databases.

A read is a child of the span of the call that needs it; one that several callers share is a child of the first one's.
A commit is for the jobs of several callers. So it is linked to the requests that submitted the jobs, and is a child of
the only one where they have one in common. No span tells a value, a result or a name of a server.
"""

import time
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext, SpanKind

from jobstatus.core.job import Job
from jobstatus.core.store import Answer, Change, CommitError, JobPage, Listing, NotNow, Store, StoreError
from jobstatus.core.virtual_keys import VirtualKey
from jobstatus.telemetry.spans import Attributes, Spans, context_of, failed, links_to, origins

T = TypeVar("T")

JOBS: Final = "jobs"
VIRTUAL_KEYS: Final = "virtual_keys"
_SYSTEMS: Final = {"sqlite": "sqlite", "postgresql": "postgresql", "postgres": "postgresql", "redis": "redis"}


class TracedStore:
    """A store in front of the real one. What is not traced is the real one's."""

    def __init__(self, store: Store, spans: Spans, url: str) -> None:
        """`url` is that of the store, of which only the scheme is told."""
        self._store = store
        self._tracer = spans.tracer
        scheme = url.partition(":")[0].removesuffix("s") if url.startswith("rediss") else url.partition(":")[0]
        self._system = _SYSTEMS.get(scheme, "other_sql" if scheme != "memory" else "memory")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def try_read_answer(self, job_id: str) -> Answer | StoreError | NotNow | None:
        if not trace.get_current_span().is_recording():
            return self._store.try_read_answer(job_id)
        started_ns = time.time_ns()
        answer = self._store.try_read_answer(job_id)
        span = self._tracer.start_span(
            f"read_answers {JOBS}",
            kind=SpanKind.CLIENT,
            attributes=self._attributes("read_answers", JOBS, 1),
            start_time=started_ns,
        )
        _end(span, answer if isinstance(answer, StoreError) else None)
        return answer

    async def read_answers(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        return await self._read("read_answers", JOBS, len(job_ids), self._store.read_answers(job_ids))

    async def read_jobs(self, job_ids: Sequence[str], *, with_results: bool) -> list[Job | StoreError | None]:
        reading = self._store.read_jobs(job_ids, with_results=with_results)
        return await self._read("read_jobs", JOBS, len(job_ids), reading)

    async def list_page(self, listing: Listing, now_ms: int) -> JobPage:
        return await self._read("list_page", JOBS, 1, self._store.list_page(listing, now_ms))

    async def read_virtual_keys(self, virtual_key_ids: Sequence[str]) -> list[VirtualKey | None]:
        reading = self._store.read_virtual_keys(virtual_key_ids)
        return await self._read("read_virtual_keys", VIRTUAL_KEYS, len(virtual_key_ids), reading)

    async def find_virtual_keys(self, digests: Sequence[bytes]) -> list[VirtualKey | None]:
        reading = self._store.find_virtual_keys(digests)
        return await self._read("find_virtual_keys", VIRTUAL_KEYS, len(digests), reading)

    async def put_virtual_key(self, virtual_key: VirtualKey) -> VirtualKey:
        return await self._read("put_virtual_key", VIRTUAL_KEYS, 1, self._store.put_virtual_key(virtual_key))

    async def disable_virtual_key(self, virtual_key_id: str, now_ms: int) -> bool:
        disabling = self._store.disable_virtual_key(virtual_key_id, now_ms)
        return await self._read("disable_virtual_key", VIRTUAL_KEYS, 1, disabling)

    async def delete_virtual_key(self, virtual_key_id: str) -> bool:
        return await self._read("delete_virtual_key", VIRTUAL_KEYS, 1, self._store.delete_virtual_key(virtual_key_id))

    async def commit(self, changes: Sequence[Change]) -> Mapping[str, CommitError | None]:
        found = origins(change.job.traceparent for change in changes if change.job is not None)
        if not found:
            return await self._store.commit(changes)
        parent = found[0] if len(found) == 1 else None
        span = self._span("commit", JOBS, len(changes), context_of(parent), found)
        return await _ended(span, self._store.commit(changes))

    async def _read(self, operation: str, collection: str, count: int, work: Awaitable[T]) -> T:
        if not trace.get_current_span().is_recording():  # of a call that is not recorded, or has ended
            return await work
        return await _ended(self._span(operation, collection, count), work)

    def _span(
        self,
        operation: str,
        collection: str,
        count: int,
        context: Context | None = None,
        linked: Sequence[SpanContext] = (),
    ) -> trace.Span:
        return self._tracer.start_span(
            f"{operation} {collection}",
            context=context,
            kind=SpanKind.CLIENT,
            attributes=self._attributes(operation, collection, count),
            links=links_to(linked),
        )

    def _attributes(self, operation: str, collection: str, count: int) -> Attributes:
        given: dict[str, Any] = {
            "db.system.name": self._system,
            "db.operation.name": operation,
            "db.collection.name": collection,
        }
        return {**given, "db.operation.batch.size": count} if count > 1 else given


def traced_store(store: Store, spans: Spans, url: str) -> Store:
    """Return the store with spans."""
    return cast("Store", TracedStore(store, spans, url))


async def _ended(span: trace.Span, work: Awaitable[T]) -> T:
    """Await the work and end its span."""
    try:
        outcome = await work
    except BaseException as error:
        _end(span, error)
        raise
    _end(span, None)
    return outcome


def _end(span: trace.Span, error: BaseException | None) -> None:
    if error is not None:
        failed(span, type(error).__name__)
    span.end()
