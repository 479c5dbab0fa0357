"""What the service counts, for Prometheus. The edges and the core report here; nobody reads it but /metrics."""

import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.process_collector import ProcessCollector

from jobstatus import __version__
from jobstatus.core.job import RequestType
from jobstatus.core.readiness import Health, Status
from jobstatus.core.rules import JobOutcome
from jobstatus.core.store import JobCount
from jobstatus.telemetry import logs
from jobstatus.telemetry.certificates import CertificateDates
from jobstatus.telemetry.collectors import JOB_SECONDS, Computed, Counts, Format, Labels, Timings, expose
from jobstatus.telemetry.job_figures import JobFigures

_CODES: Final = {code: str(code) for code in range(100, 600)}
_BATCH: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_HTTP_FAILURES: Final = ("500", "503")
RPC_FAILURES: Final = ("INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE")
"""The codes by which the service fails; all others are about the request."""
NOT_READY: Final = 2
"""The worst value of the health."""
_HEALTH: Final = {Status.READY: 0, Status.DEGRADED: 1, Status.NOT_READY: NOT_READY}
_ENDINGS: Final[list[Labels]] = [
    (request_type.value, outcome.value) for request_type in RequestType for outcome in JobOutcome
]
_DAY_SECONDS: Final = 24 * 60 * 60


class Level(Enum):
    """Something of which a process has so much at present, and a limit: the metric's name, and what it is."""

    CONNECTIONS = ("jobstatus_http_connections", "REST connections that are open.")
    WAITING_POLLS = ("jobstatus_waiting_polls", "Polls that wait for a job's end.")
    LARGE_ANSWER_BYTES = ("jobstatus_large_answer_bytes", "Memory held by large answers being sent.")
    WATCHERS = ("jobstatus_watchers", "WatchJob streams.")
    QUEUED_WRITES = ("jobstatus_queued_writes", "Writes that wait for a commit, in the longest queue.")
    QUEUED_WRITE_BYTES = ("jobstatus_queued_write_bytes", "Results that wait for a commit, in the largest queue.")


class Metrics:
    """One registry for one process; implements `core.observer.Observer`."""

    def __init__(self, clock: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds since the epoch by this machine's clock, `monotonic` seconds that never step."""
        self._registry = CollectorRegistry()
        self._clock = clock
        self._monotonic = monotonic
        self._tls_files = CertificateDates()
        self.jobs: Final = JobFigures()
        self._tell_what_runs()
        self._count_requests()
        self._count_rpcs()
        self._count_jobs()
        self._count_lives_of_jobs()
        self._count_writes()
        self._count_background_work()
        self._count_refused_polls()
        self._count_lost_lines()

    def _tell_what_runs(self) -> None:
        ProcessCollector(registry=self._registry)
        build: dict[Labels, int] = {(__version__, platform.python_version()): 1}
        labels = ("version", "python")
        Computed("jobstatus_build_info", "What runs.", lambda: build, self._registry, labels=labels)

    def _count_requests(self) -> None:
        registry = self._registry
        self._requests = Timings(
            "jobstatus_http_request_seconds", "REST requests, and the time to answer them.", ("route", "code"), registry
        )
        Computed(
            "jobstatus_http_failures",
            "REST requests that the service could not answer as it should.",
            self._http_failures,
            registry,
            labels=("code",),
            kind=CounterMetricFamily,
        )
        self._connections_refused = Counts(
            "jobstatus_http_connections_refused",
            "REST connections closed at once, by the limit that they were over.",
            ("limit",),
            registry,
        )
        self._refusals = Counts(
            "jobstatus_credentials_refused", "Credentials refused, by reason.", ("reason",), registry
        )

    def _count_rpcs(self) -> None:
        registry = self._registry
        self._rpcs = Counts("jobstatus_rpcs", "RPCs answered.", ("method", "code"), registry)
        self._rpc_seconds = Timings("jobstatus_rpc_seconds", "Time to answer an RPC.", ("method",), registry)
        self._messages = Gauge(
            "jobstatus_rpc_message_bytes", "Bytes of RPCs' messages that are in memory.", registry=registry
        )

    def _count_jobs(self) -> None:
        """Make the gauges of what only the process that leads knows of the store."""
        registry = self._registry
        self._counted: dict[Labels, float] = {}
        self._oldest_pending: dict[Labels, float] = {}
        self._oldest_unleased: dict[Labels, float] = {}
        self._swept_at: float | None = None
        Computed("jobstatus_jobs", "Jobs in the store, by state.", lambda: self._counted, registry, labels=("state",))
        Computed(
            "jobstatus_oldest_pending_job_seconds",
            "Time since the oldest pending job was created.",
            lambda: self._oldest_pending,
            registry,
        )
        Computed(
            "jobstatus_oldest_unleased_job_seconds",
            "Longest time that a job has been processing without a running lease.",
            lambda: self._oldest_unleased,
            registry,
        )
        Computed("jobstatus_last_sweep_seconds", "Time since the last sweep.", self._sweep_age, registry)

    def _count_lives_of_jobs(self) -> None:
        registry = self._registry
        Computed(
            "jobstatus_jobs_created",
            "Jobs that were created, by request type.",
            lambda: self.jobs.created,
            registry,
            labels=("type",),
            kind=CounterMetricFamily,
        )
        self._ended: defaultdict[Labels, int] = defaultdict(int)
        Computed(
            "jobstatus_jobs_ended",
            "Jobs that ended, by request type and outcome.",
            lambda: self._ended,
            registry,
            labels=("type", "outcome"),
            kind=CounterMetricFamily,
        )
        self._queued = Timings(
            "jobstatus_job_queued_seconds", "From a job's creation to its start.", ("type",), registry, JOB_SECONDS
        )
        self._run = Timings(
            "jobstatus_job_run_seconds", "From a job's start to its end.", ("type",), registry, JOB_SECONDS
        )

    def _count_writes(self) -> None:
        registry = self._registry
        self._batch = Histogram("jobstatus_batch_commands", "Writes in one commit.", buckets=_BATCH, registry=registry)
        self._races = Counter(
            "jobstatus_races_lost", "Writes decided anew since their job had changed.", registry=registry
        )
        self._store_seconds = Timings("jobstatus_store_seconds", "Time the store took.", ("operation",), registry)

    def _count_background_work(self) -> None:
        registry = self._registry
        self._swept = Counts("jobstatus_swept_jobs", "Jobs settled or purged by sweeps.", ("what",), registry)
        self._chores_failed = Counts(
            "jobstatus_chores_failed", "Background chores that failed, to be tried again.", ("chore",), registry
        )
        self._clock_offset = Gauge(
            "jobstatus_clock_offset_seconds",
            "How far the store's clock, which counts, is ahead of this machine's.",
            registry=registry,
        )

    def _count_refused_polls(self) -> None:
        registry = self._registry
        self._large_refused = Counter(
            "jobstatus_large_answers_refused", "Large answers refused for lack of room.", registry=registry
        )
        self._rate_limited = Counter(
            "jobstatus_polls_rate_limited", "Polls refused because of the rate limit.", registry=registry
        )

    def _count_lost_lines(self) -> None:
        registry = self._registry
        Computed(
            "jobstatus_log_lines_dropped",
            "Log lines dropped because nobody read the log.",
            lambda: {(): logs.dropped_lines()},
            registry,
            kind=CounterMetricFamily,
        )
        self._audit_lost = Counter(
            "jobstatus_audit_lines_lost", "Lines of the audit log that could not be written.", registry=registry
        )

    def expect_refusals(self, reasons: Iterable[str], limits: Iterable[str]) -> None:
        """Have the counters of refused credentials and connections from the start, by reason and limit.

        Prometheus does not see the first increase of a counter that was not there before.
        """
        self._refusals.expect((reason,) for reason in reasons)
        self._connections_refused.expect((limit,) for limit in limits)

    def expect_writes(self, methods: Iterable[str]) -> None:
        """Have the counters of jobs, sweeps and failed RPCs of these methods from the start, for the same reason.

        The time since the last sweep counts from now.
        """
        self._rpcs.expect((method, code) for method in methods for code in RPC_FAILURES)
        self._swept.expect((what,) for what in ("settled", "purged"))
        self._ended |= dict.fromkeys(_ENDINGS, 0)
        self.jobs.expect()
        self.sweep_done(leads=True)

    def report_level(self, level: Level, value: Callable[[], float], limit: float) -> None:
        """Report how much of this there is, whenever that is asked, and the most that there may be."""
        name, documentation = level.value
        Gauge(name, documentation, registry=self._registry).set_function(value)
        Gauge(f"{name}_limit", f"The most of {name}.", registry=self._registry).set(limit)

    def report_health(self, health: Callable[[], Health]) -> None:
        """Report the health, whenever that is asked. A larger number is worse."""
        Computed(
            "jobstatus_health",
            "0: ready, 1: degraded (no writes), 2: not ready.",
            lambda: {(): _HEALTH[health().status]},
            self._registry,
        )

    def report_keys(
        self, *, files: Callable[[], Mapping[str, float]], fetched: Callable[[], Mapping[str, float]]
    ) -> None:
        """Report how old keys are, whenever that is asked.

        `files` returns when each key file in use was changed, in seconds since the epoch, and `fetched` how many
        seconds ago the keys of each issuer were fetched. `tls_files_read` adds to the files.
        """
        clock = self._clock

        def file_ages() -> dict[Labels, float]:
            changed_at = {**files(), **self._tls_files.changed_at}
            return {(path,): clock() - at for path, at in changed_at.items()}

        def days_left() -> dict[Labels, float]:
            return {(path,): (at - clock()) / _DAY_SECONDS for path, at in self._tls_files.ends_at.items()}

        def fetched_ages() -> dict[Labels, float]:
            return {(issuer,): seconds for issuer, seconds in fetched().items()}

        for name, documentation, values, label in (
            ("jobstatus_key_file_age_seconds", "Time since a key file in use was changed.", file_ages, "file"),
            ("jobstatus_certificate_days_left", "Days until a certificate in use ends.", days_left, "file"),
            ("jobstatus_issuer_keys_age_seconds", "Time since keys were fetched.", fetched_ages, "issuer"),
        ):
            Computed(name, documentation, values, self._registry, labels=(label,))

    def tls_files_read(self, files: CertificateDates) -> None:
        """These TLS files are in use now, instead of those before."""
        self._tls_files = files

    def connection_refused(self, limit: str) -> None:
        """A REST connection was closed at once because of this limit, which has the name of its setting."""
        self._connections_refused.add((limit,))

    def large_answer_refused(self) -> None:
        """A large answer was refused for lack of room."""
        self._large_refused.inc()

    def measure_messages(self, count_bytes: Callable[[], int]) -> None:
        """Tell as a metric how many bytes of gRPC messages are counted, whenever that is asked."""
        self._messages.set_function(count_bytes)

    def rate_limited(self) -> None:
        """A poll was refused because its virtual key sends too many."""
        self._rate_limited.inc()

    def audit_lines_lost(self, lines: int) -> None:
        """So many lines of the audit log could not be written. Threads may call this."""
        self._audit_lost.inc(lines)

    def request_answered(self, route: str, code: int, seconds: float) -> None:
        """A REST request was answered. Both labels come from closed lists."""
        self._requests.observe((route, _CODES[code]), seconds)

    def credential_refused(self, reason: str) -> None:
        """A credential was refused; the reason is one of the words of `auth.errors`."""
        self._refusals.add((reason,))

    def rpc_answered(self, method: str, code: str, seconds: float) -> None:
        """An RPC was answered with a gRPC code's name."""
        self._rpcs.add((method, code))
        self._rpc_seconds.observe((method,), seconds)

    def jobs_counted(self, count: JobCount | None, now_ms: int = 0) -> None:
        """This is what the store held at this time; None when it is not this process that counts."""
        if count is None:
            self._counted, self._oldest_pending, self._oldest_unleased = {}, {}, {}
            return
        self._counted = {(state.value,): number for state, number in count.by_state.items()}
        self._oldest_pending = {(): _seconds_since(count.oldest_created_ms, now_ms)}
        self._oldest_unleased = {(): _seconds_since(count.leased_until_ms, now_ms)}

    def sweep_done(self, *, leads: bool) -> None:
        """This process has swept, or learnt that another one does. It is not called when a sweep fails."""
        self._swept_at = self._monotonic() if leads else None

    def _sweep_age(self) -> dict[Labels, float]:
        return {} if self._swept_at is None else {(): self._monotonic() - self._swept_at}

    def job_created(self, request_type: RequestType) -> None:
        self.jobs.job_created(request_type)

    def job_started(self, request_type: RequestType, queued_seconds: float) -> None:
        self.jobs.job_started(queued_seconds)
        self._queued.observe((request_type,), queued_seconds)

    def job_ended(self, request_type: RequestType, outcome: JobOutcome, run_seconds: float | None) -> None:
        self._ended[request_type, outcome] += 1
        self.jobs.job_ended(outcome, run_seconds)
        if run_seconds is not None:
            self._run.observe((request_type,), run_seconds)

    def batch_written(self, commands: int) -> None:
        self._batch.observe(commands)

    def races_lost(self, commands: int) -> None:
        self._races.inc(commands)

    def swept(self, what: str, jobs: int) -> None:
        self._swept.add((what,), jobs)

    def chore_begun(self, chore: str) -> None:
        """Something is done in the background, which may fail; also called when it is done again."""
        self._chores_failed.add((chore,), 0)

    def chore_failed(self, chore: str) -> None:
        """Something done in the background (sweep, refresh_credentials, …) failed; it is tried again."""
        self._chores_failed.add((chore,))

    def clock_compared(self, store_ahead_seconds: float) -> None:
        """The store has told its time."""
        self._clock_offset.set(store_ahead_seconds)

    def store_answered(self, operation: str, seconds: float) -> None:
        self._store_seconds.observe((operation,), seconds)

    def _http_failures(self) -> Mapping[Labels, float]:
        failures: dict[Labels, float] = {(code,): 0 for code in _HTTP_FAILURES}
        for (_, code), count in self._requests.counts().items():
            if code.startswith("5"):
                failures[(code,)] = failures.get((code,), 0) + count
        return failures

    async def exposition(self, form: Format = Format.TEXT) -> bytes:
        """All of it, in this format."""
        return expose(self._registry, form)


def _seconds_since(at_ms: int | None, now_ms: int) -> float:
    return 0 if at_ms is None else max(0, now_ms - at_ms) / 1000
