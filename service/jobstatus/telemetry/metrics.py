"""What the service counts, for Prometheus. The edges and the core report here; nobody reads it but /metrics."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from jobstatus.core.job import JobState
from jobstatus.telemetry import logs

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_CODES: Final = {code: str(code) for code in range(100, 600)}
_BATCH: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Timings(Collector):
    """A histogram of seconds, counted without locks: only the event loop's thread does. prometheus-client's own would
    cost each poll and each RPC several microseconds."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._counts: dict[tuple[str, ...], list[int]] = {}
        self._seconds: dict[tuple[str, ...], float] = {}
        registry.register(self)

    def observe(self, labels: tuple[str, ...], seconds: float) -> None:
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(_SECONDS) + 1)
            self._seconds[labels] = 0.0
        counts[bisect_left(_SECONDS, seconds)] += 1
        self._seconds[labels] += seconds

    def collect(self) -> Iterable[Metric]:
        """One family; its count is how often it was observed."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        bounds = [*map(floatToGoString, _SECONDS), "+Inf"]
        for labels, counts in self._counts.items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric(labels, buckets, self._seconds[labels])
        yield family


class _DroppedLines(Collector):
    """Tells how many lines the log of this process has lost."""

    def collect(self) -> Iterable[Metric]:
        """One counter without labels."""
        yield CounterMetricFamily(
            "jobstatus_log_lines_dropped", "Log lines dropped because nobody read the log.", value=logs.dropped_lines()
        )


class Metrics:
    """One registry for one process; implements `core.observer.Observer`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Timings(
            "jobstatus_http_request_seconds", "REST requests, and the time to answer them.", ("route", "code"), registry
        )
        self._connections_refused = Counter(
            "jobstatus_http_connections_refused",
            "REST connections closed at once, by the limit that they were over.",
            ("limit",),
            registry=registry,
        )
        self._refusals = Counter(
            "jobstatus_credentials_refused", "Credentials refused, by reason.", ("reason",), registry=registry
        )
        self._refusals_by_reason: dict[str, Counter] = {}
        self._rpcs = Counter("jobstatus_rpcs", "RPCs answered.", ("method", "code"), registry=registry)
        self._rpc_seconds = Timings("jobstatus_rpc_seconds", "Time to answer an RPC.", ("method",), registry)
        self._jobs = Gauge("jobstatus_jobs", "Jobs in the store, by state.", ("state",), registry=registry)
        self._batch = Histogram("jobstatus_batch_commands", "Writes in one commit.", buckets=_BATCH, registry=registry)
        self._races = Counter(
            "jobstatus_races_lost", "Writes decided anew since their job had changed.", registry=registry
        )
        self._swept = Counter("jobstatus_swept_jobs", "Jobs settled or purged by sweeps.", ("what",), registry=registry)
        self._chores_failed = Counter(
            "jobstatus_chores_failed",
            "Background chores that failed, to be tried again.",
            ("chore",),
            registry=registry,
        )
        self._clock_offset = Gauge(
            "jobstatus_clock_offset_seconds",
            "How far the store's clock, which counts, is ahead of this machine's.",
            registry=registry,
        )
        registry.register(_DroppedLines())
        self._large_refused = Counter(
            "jobstatus_large_answers_refused", "Large answers refused for lack of room.", registry=registry
        )
        self._rate_limited = Counter(
            "jobstatus_polls_rate_limited", "Polls refused because of the rate limit.", registry=registry
        )
        self._audit_lost = Counter(
            "jobstatus_audit_lines_lost", "Lines of the audit log that could not be written.", registry=registry
        )
        self._store_seconds = Timings("jobstatus_store_seconds", "Time the store took.", ("operation",), registry)

    def count_waiting(self, count: Callable[[], int]) -> None:
        """Tell as a metric how many polls wait, whenever that is asked."""
        waiting = Gauge("jobstatus_waiting_polls", "Polls that wait for a job's end.", registry=self._registry)
        waiting.set_function(count)

    def count_connections(self, count: Callable[[], int]) -> None:
        """Tell as a metric how many REST connections are open, whenever that is asked."""
        connections = Gauge("jobstatus_http_connections", "REST connections that are open.", registry=self._registry)
        connections.set_function(count)

    def connection_refused(self, limit: str) -> None:
        """A REST connection was closed at once because of this limit, which has the name of its setting."""
        self._connections_refused.labels(limit).inc()

    def count_large_answers(self, held_bytes: Callable[[], int]) -> None:
        """Tell as a metric how much memory large answers hold, whenever that is asked."""
        held = Gauge(
            "jobstatus_large_answer_bytes", "Memory held by large answers being sent.", registry=self._registry
        )
        held.set_function(held_bytes)

    def large_answer_refused(self) -> None:
        """A large answer was refused for lack of room."""
        self._large_refused.inc()

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
        refusals = self._refusals_by_reason.get(reason)
        if refusals is None:
            refusals = self._refusals_by_reason[reason] = self._refusals.labels(reason)
        refusals.inc()

    def rpc_answered(self, method: str, code: str, seconds: float) -> None:
        """An RPC was answered with a gRPC code's name."""
        self._rpcs.labels(method, code).inc()
        self._rpc_seconds.observe((method,), seconds)

    def jobs_counted(self, counts: Mapping[JobState, int]) -> None:
        """The store holds this many jobs of each state; none given: it is not this process that counts."""
        if not counts:
            self._jobs.clear()
        for state, count in counts.items():
            self._jobs.labels(state.value).set(count)

    def batch_written(self, commands: int) -> None:
        self._batch.observe(commands)

    def races_lost(self, commands: int) -> None:
        self._races.inc(commands)

    def swept(self, what: str, jobs: int) -> None:
        self._swept.labels(what).inc(jobs)

    def chore_failed(self, chore: str) -> None:
        """Something done in the background (sweep, refresh_credentials, …) failed; it is tried again."""
        self._chores_failed.labels(chore).inc()

    def clock_compared(self, store_ahead_seconds: float) -> None:
        """The store has told its time."""
        self._clock_offset.set(store_ahead_seconds)

    def store_answered(self, operation: str, seconds: float) -> None:
        self._store_seconds.observe((operation,), seconds)

    async def exposition(self) -> bytes:
        """All of it, in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)
