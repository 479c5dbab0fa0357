"""A test double of the service, for those who build on it: real enough for a worker's tests, and set up in a line.

    async with ServiceDouble() as service, JobStatusClient(service.target) as client:
        job = await client.create_job(request_type=RequestType.OCR)
        await my_worker.run(service.target, job.job_id)
        assert (await client.get_job(job.job_id)).state is JobState.COMPLETED

It is a gRPC server on a free loopback port, with the service's own rules and messages over the memory store. So the
caller's client is the real one, and encoding, errors, retries and deadlines are those of production; a fake client
would have to imitate them. A start takes a few milliseconds. The package alone is enough, without the extra `server`.

It has no REST, TLS, health or reflection. Time stands still until a test moves it.
"""

from collections import defaultdict, deque
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self

import grpc

from jobstatus.client.blocking import Blocking, arguments_of, blocking_call
from jobstatus.client.forks import check_process
from jobstatus.core.commands import StartJob
from jobstatus.core.errors import JobStatusError
from jobstatus.core.job import RequestType
from jobstatus.core.rules import JobOutcome, Policy, lease_end
from jobstatus.core.sweeper import Sweeper
from jobstatus.core.timekeeper import MS_NS, Timekeeper
from jobstatus.core.tracker import JobTracker
from jobstatus.rpc.errors import CODES
from jobstatus.rpc.handlers import RpcAdapter
from jobstatus.rpc.intake import Context, Intake
from jobstatus.rpc.job_status import JobStatusServicer
from jobstatus.rpc.options import DESCRIPTORS, RpcLimits, max_message_length, server_options
from jobstatus.rpc.virtual_keys import VirtualKeysServicer
from jobstatus.stores.memory import MemoryJobStore

METHODS: Final = frozenset(method.name for service in DESCRIPTORS for method in service.methods)

MAX_RESULT_BYTES: Final = 16 * 1024 * 1024
GRACE_SECONDS: Final = 0.5
"""Without any, clients write to stderr that all calls are cancelled. Nothing takes so long."""
OTHER_WORKER: Final = "another-worker"


class _Answered:
    """Notes which calls were answered. Implements the observers of the core and of the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def rpc_answered(self, method: str, code: str, seconds: float) -> None:  # noqa: ARG002  # the port's
        self.calls.append((method, code))

    def job_created(self, request_type: RequestType) -> None: ...

    def job_started(self, request_type: RequestType, queued_seconds: float) -> None:  # noqa: ARG002  # the port's
        return None

    def job_ended(
        self,
        request_type: RequestType,  # noqa: ARG002  # the port's
        outcome: JobOutcome,  # noqa: ARG002  # the port's
        run_seconds: float | None,  # noqa: ARG002  # the port's
    ) -> None:
        return None

    def batch_written(self, commands: int) -> None:  # noqa: ARG002  # the port's
        return None

    def races_lost(self, commands: int) -> None:  # noqa: ARG002  # the port's
        return None

    def swept(self, what: str, jobs: int) -> None:  # noqa: ARG002  # the port's
        return None

    def store_answered(self, operation: str, seconds: float) -> None:  # noqa: ARG002  # the port's
        return None


class ServiceDouble:
    """A service in this process, running while its context is entered. Use it on the event loop that entered it.

    `target` is its address for clients. `answered` are the calls it has answered so far, each with the name of its
    status code, for example ("CompleteJob", "OK"). `max_result_bytes` bounds a result.
    """

    def __init__(self, *, max_result_bytes: int = MAX_RESULT_BYTES) -> None:
        self._max_result_bytes = max_result_bytes
        self._now_ms = int(datetime.now(UTC).timestamp() * 1000)
        self._store = MemoryJobStore()
        self._observer = _Answered()
        self._failures: defaultdict[str, deque[JobStatusError]] = defaultdict(deque)
        self._server: grpc.aio.Server | None = None
        self.target = "127.0.0.1:0"

    @property
    def answered(self) -> list[tuple[str, str]]:
        return list(self._observer.calls)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            await self.stop()

    async def start(self) -> None:
        """Serve again after `stop`, at the same address and with the same jobs. Leases run once more in full."""
        if self._server is not None:
            raise RuntimeError("the service is running")
        check_process()
        self._time = time = Timekeeper(
            wall_ms=self._clock,
            monotonic_ns=lambda: self._clock() * MS_NS,
            pulse=lambda: 0,
            follows_store=False,
        )
        self._tracker = JobTracker(self._store, clock=time, policy=Policy(), observer=self._observer)
        self._sweeper = Sweeper(self._tracker, self._store, clock=time, observer=self._observer, every_seconds=1)
        jobs = JobStatusServicer(self._tracker, max_result_bytes=self._max_result_bytes)
        virtual_keys = VirtualKeysServicer(store=self._store, clock=self._clock, on_change=lambda: None)
        limits = RpcLimits()
        intake = Intake(limits.max_message_bytes, max_message_length(self._max_result_bytes))
        adapter = RpcAdapter(self._observer, self._fail_if_told, intake)
        server = grpc.aio.server(
            options=server_options(self._max_result_bytes, limits, shared=False),
            maximum_concurrent_rpcs=limits.max_rpcs,
        )
        server.add_generic_rpc_handlers(
            [adapter.service(*pair) for pair in zip(DESCRIPTORS, (jobs, virtual_keys), strict=True)]
        )
        self.target = f"127.0.0.1:{server.add_insecure_port(self.target)}"
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Go down: watches break, and later calls find nobody, until `start`. Jobs are kept.

        As in a stop of the service, calls in progress are answered first.
        """
        server, self._server = self._server, None
        if server is None:
            raise RuntimeError("the service is stopped")
        self._tracker.end_watches()
        await server.stop(GRACE_SECONDS)
        await self._tracker.close()
        await self._sweeper.resign()

    async def advance(self, span: timedelta) -> None:
        """Let time pass for the service: leases and timeouts end, and jobs expire. Clients do not wait for it.

        A worker hears that its job has ended at its next heartbeat, soon after a report.
        """
        self._now_ms += span // timedelta(milliseconds=1)
        if self._server is not None:
            await self._sweeper.sweep()

    async def lose_lease(self, job_id: str) -> None:
        """Let the lease of a job end, as if its worker had been cut off, and time pass for all jobs until then.

        With attempts left another worker has the job then, and its first worker's writes raise LeaseLost. On its last
        attempt the job has failed, and they raise JobTerminal. Raises JobNotFound, or ValueError without a lease.
        """
        job = await self._tracker.get(job_id)
        if job.lease_expires_at_ms is None:
            raise ValueError(f"job {job_id} has no lease")
        ends_at_ms = lease_end(job, Policy(leases_count_from_ms=self._time.leases_count_from_ms()))
        await self.advance(timedelta(milliseconds=max(0, ends_at_ms - self._now_ms)))
        if job.attempt < job.max_attempts:
            worker_id = f"{OTHER_WORKER}-{job.attempt + 1}"  # one that has not had the job, as it may be lost again
            await self._tracker.apply(StartJob(job_id=job_id, worker_id=worker_id, lease_ms=job.lease_ms))

    def fail_next(self, method: str, *errors: JobStatusError) -> None:
        """Answer the next calls of this RPC, for example "CompleteJob", with these errors, one each, unapplied.

        A client repeats a call that fails with what may pass, such as StoreUnavailable, unless it has `retry=False`.
        """
        if method not in METHODS:
            raise ValueError(f"{method} is not one of {', '.join(sorted(METHODS))}")
        for error in errors:
            if type(error) not in CODES:
                raise ValueError(f"a service does not answer {type(error).__name__}; `stop` makes it unreachable")
        self._failures[method].extend(errors)

    def _clock(self) -> int:
        return self._now_ms

    def _fail_if_told(self, _: Context, method: str) -> None:
        if self._failures[method]:
            raise self._failures[method].popleft()


class BlockingServiceDouble(Blocking[ServiceDouble]):
    """The double for tests without an event loop; it has one in a thread of its own.

    @pytest.fixture
    def service() -> Iterator[BlockingServiceDouble]:
        with BlockingServiceDouble() as service:
            yield service
    """

    @arguments_of(ServiceDouble.__init__)
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(ServiceDouble(*arguments, **options))

    @property
    def target(self) -> str:
        """The address for clients."""
        return self._served.target

    @property
    def answered(self) -> list[tuple[str, str]]:
        """The calls answered so far, each with the name of its status code."""
        return self._served.answered

    @arguments_of(ServiceDouble.fail_next)
    def fail_next(self, *arguments: Any, **options: Any) -> None:
        """Answer the next calls of an RPC with errors. See `ServiceDouble.fail_next`."""
        self._served.fail_next(*arguments, **options)

    start = blocking_call(ServiceDouble.start)
    stop = blocking_call(ServiceDouble.stop)
    advance = blocking_call(ServiceDouble.advance)
    lose_lease = blocking_call(ServiceDouble.lose_lease)
