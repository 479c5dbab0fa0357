"""What the service counts, for Prometheus. The edges and the core report here; nobody reads it but /metrics."""

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest

from jobstatus.core.job import JobState

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BATCH: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """One registry for one process; implements `core.observer.Observer`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        given = {"registry": self._registry}
        self._requests = Counter("jobstatus_http_requests", "REST requests answered.", ("route", "code"), **given)
        self._request_seconds = Histogram(
            "jobstatus_http_request_seconds", "Time to answer a REST request.", ("route",), buckets=_SECONDS, **given
        )
        self._refusals = Counter(
            "jobstatus_credentials_refused", "Credentials refused, by reason.", ("reason",), **given
        )
        self._rpcs = Counter("jobstatus_rpcs", "RPCs answered.", ("method", "code"), **given)
        self._rpc_seconds = Histogram(
            "jobstatus_rpc_seconds", "Time to answer an RPC.", ("method",), buckets=_SECONDS, **given
        )
        self._jobs = Gauge("jobstatus_jobs", "Jobs in the store, by state.", ("state",), **given)
        self._batch = Histogram("jobstatus_batch_commands", "Writes in one commit.", buckets=_BATCH, **given)
        self._races = Counter("jobstatus_races_lost", "Writes decided anew since their job had changed.", **given)
        self._swept = Counter(
            "jobstatus_sweeps", "Jobs settled or purged by sweeps, and sweeps failed.", ("what",), **given
        )
        self._store_seconds = Histogram(
            "jobstatus_store_seconds", "Time the store took.", ("operation",), buckets=_SECONDS, **given
        )
        self._request_children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}

    def request_answered(self, route: str, code: int, seconds: float) -> None:
        """A REST request was answered. Both labels come from closed lists."""
        children = self._request_children.get((route, code))
        if children is None:
            children = (self._requests.labels(route, code), self._request_seconds.labels(route))
            self._request_children[route, code] = children
        children[0].inc()
        children[1].observe(seconds)

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

    def store_answered(self, operation: str, seconds: float) -> None:
        self._store_seconds.labels(operation).observe(seconds)

    def exposition(self) -> bytes:
        """All of it, in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)
