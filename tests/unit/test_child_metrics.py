"""One set of metrics of several processes."""

from jobstatus.core.job import JobState
from jobstatus.core.store import JobCount
from jobstatus.processes.child_metrics import MergedMetrics
from jobstatus.telemetry.metrics import Metrics
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest


def figures(metrics: MergedMetrics) -> dict[str, float]:
    """Every sample of the merged exposition, by its name and labels as they stand there."""
    registry = CollectorRegistry()
    registry.register(metrics)
    lines = generate_latest(registry).decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


async def told(*steps: int, pending: int | None = None) -> str:
    """What a process tells that has answered so many polls, one after the other with these codes."""
    metrics = Metrics()
    for code in steps:
        metrics.request_answered("transcription", code, 0.002)
        metrics.rpc_answered("GetJob", "OK", 0.002)
    if pending is not None:
        metrics.jobs_counted(JobCount({JobState.PENDING: pending}, None, None))
    return (await metrics.exposition()).decode()


async def test_what_is_counted_is_summed_and_of_gauges_the_largest_counts() -> None:
    """Counters and the buckets of histograms add up by their labels; a gauge is one process's."""
    workers = MergedMetrics()
    workers.tell(1, await told(200, 200, 202, pending=7))
    workers.tell(2, await told(202))
    merged = figures(workers)
    assert merged['jobstatus_http_request_seconds_count{code="200",route="transcription"}'] == 2
    assert merged['jobstatus_http_request_seconds_count{code="202",route="transcription"}'] == 2
    assert merged['jobstatus_http_request_seconds_bucket{code="202",le="0.001",route="transcription"}'] == 0
    assert merged['jobstatus_http_request_seconds_bucket{code="202",le="0.0025",route="transcription"}'] == 2
    assert merged['jobstatus_rpcs_total{code="OK",method="GetJob"}'] == 4
    assert merged['jobstatus_jobs{state="pending"}'] == 7


async def test_what_is_told_anew_takes_the_place_of_what_was_told() -> None:
    """A process that is asked twice does not count twice."""
    workers = MergedMetrics()
    for steps in ((200,), (200, 200)):
        workers.tell(1, await told(*steps))
    assert figures(workers)['jobstatus_rpcs_total{code="OK",method="GetJob"}'] == 2


async def test_no_sum_falls_when_a_process_ends() -> None:
    """What it had counted stays, and goes on with its successor's; its gauges are gone."""
    workers = MergedMetrics()
    workers.tell(1, await told(200, 200, pending=7))
    workers.end(1)
    workers.end(3)  # one that had told nothing yet
    assert figures(workers)['jobstatus_rpcs_total{code="OK",method="GetJob"}'] == 2
    assert 'jobstatus_jobs{state="pending"}' not in figures(workers)
    workers.tell(2, await told(200))
    workers.end(2)
    assert figures(workers)['jobstatus_rpcs_total{code="OK",method="GetJob"}'] == 3
