"""What the service counts, for Prometheus. The edges and the core report here; nobody reads it but /metrics."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from jobstatus.core.job import JobState

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BATCH: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Requests(Collector):
    """Polls, counted without locks: only the event loop's thread does. prometheus-client's own histogram would cost a
    poll several microseconds."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], list[int]] = {}
        self._seconds: dict[tuple[str, int], float] = {}

    def observe(self, route: str, code: int, seconds: float) -> None:
        key = (route, code)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = [0] * (len(_SECONDS) + 1)
            self._seconds[key] = 0.0
        counts[bisect_left(_SECONDS, seconds)] += 1
        self._seconds[key] += seconds

    def collect(self) -> Iterable[Metric]:
        """One histogram; its count is the number of requests."""
        family = HistogramMetricFamily(
            "jobstatus_http_request_seconds", "REST requests, and the time to answer them.", labels=("route", "code")
        )
        bounds = [*map(floatToGoString, _SECONDS), "+Inf"]
        for (route, code), counts in self._counts.items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric((route, str(code)), buckets, self._seconds[route, code])
        yield family


class Metrics:
    """One registry for one process; implements `core.observer.Observer`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self._requests = Requests()
        self._registry.register(self._requests)
        self._refusals = Counter(
            "jobstatus_credentials_refused", "Credentials refused, by reason.", ("reason",), registry=registry
        )
        self._rpcs = Counter("jobstatus_rpcs", "RPCs answered.", ("method", "code"), registry=registry)
        self._rpc_seconds = Histogram(
            "jobstatus_rpc_seconds", "Time to answer an RPC.", ("method",), buckets=_SECONDS, registry=registry
        )
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
        self._store_seconds = Histogram(
            "jobstatus_store_seconds", "Time the store took.", ("operation",), buckets=_SECONDS, registry=registry
        )

    def request_answered(self, route: str, code: int, seconds: float) -> None:
        """A REST request was answered. Both labels come from closed lists."""
        self._requests.observe(route, code, seconds)

    def credential_refused(self, reason: str) -> None:
        """A credential was refused; the reason is one of the words of `auth.errors`."""
        self._refusals.labels(reason).inc()

    def rpc_answered(self, method: str, code: str, seconds: float) -> None:
        """An RPC was answered with a gRPC code's name."""
        self._rpcs.labels(method, code).inc()
        self._rpc_seconds.labels(method).observe(seconds)

    def jobs_counted(self, counts: Mapping[JobState, int]) -> None:
        """The store holds this many jobs of each state."""
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

    def store_answered(self, operation: str, seconds: float) -> None:
        self._store_seconds.labels(operation).observe(seconds)

    def exposition(self) -> bytes:
        """All of it, in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)
