"""Put spans around the parts of a service or an edge, where OpenTelemetry's variables ask for traces.

Where they do not, no part is wrapped, and nothing here imports OpenTelemetry.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc

from jobstatus.core.job import Job
from jobstatus.core.store import JobReader, Store
from jobstatus.rest.fast_path import Prepare
from jobstatus.rest.protocol import Handler
from jobstatus.telemetry.tracing import traces

if TYPE_CHECKING:
    from jobstatus.telemetry.spans import Spans


class Tracing:
    """Wraps the parts of one process. Each import is of a module that loads OpenTelemetry."""

    def __init__(self, spans: "Spans") -> None:
        self._spans = spans
        self._closing: list[Callable[[], Awaitable[None]]] = []

    def store(self, store: Store, url: str) -> Store:
        """Return the store with spans for what calls need of it."""
        from jobstatus.telemetry.traced_store import traced_store  # noqa: PLC0415

        return traced_store(store, self._spans, url)

    def polls(self, reader: JobReader, answer: Handler, prepare: Prepare) -> tuple[Handler, Prepare]:
        """Return both with spans, linked to the requests that submitted the jobs, of which `reader` tells."""
        from jobstatus.rest.traced_polls import TracedPolls  # noqa: PLC0415

        async def read_traceparent(job_id: str) -> str | None:
            (job,) = await reader.read_jobs((job_id,), with_results=False)
            return job.traceparent if isinstance(job, Job) else None

        traced = TracedPolls(self._spans, read_traceparent)
        self._closing.append(traced.close)
        return traced.handler(answer), traced.prepare(prepare)

    def server_interceptors(self) -> Sequence[grpc.aio.ServerInterceptor]:
        """Return what makes spans of the calls that a service answers."""
        from jobstatus.rpc.traced_calls import TracedCalls  # noqa: PLC0415

        return (TracedCalls(self._spans),)

    def client_interceptors(self) -> Sequence[grpc.aio.ClientInterceptor]:
        """Return what makes spans of the calls that an edge makes."""
        from jobstatus.upstream.traced_calls import TracedUpstream  # noqa: PLC0415

        return (TracedUpstream(self._spans),)

    async def close(self) -> None:
        """End the spans that wait for a read of the store."""
        for close in self._closing:
            await close()


@asynccontextmanager
async def open_tracing() -> AsyncIterator[Tracing | None]:
    """Yield what wraps the parts of this process; None where no traces are made."""
    async with traces() as spans:
        yield None if spans is None else Tracing(spans)
