"""One set of metrics of several processes."""

from harness.figures import parse
from jobstatus.core.job import JobState
from jobstatus.core.readiness import Health, Status
from jobstatus.core.store import JobCount
from jobstatus.processes.child_metrics import MergedMetrics
from jobstatus.telemetry.certificates import CertificateDates
from jobstatus.telemetry.collectors import Format, expose
from jobstatus.telemetry.metrics import Level, Metrics
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families


def figures(metrics: MergedMetrics) -> dict[str, float]:
    """Every sample of the merged exposition, by its name and labels as they stand there."""
    registry = CollectorRegistry()
    registry.register(metrics)
    return parse(expose(registry, Format.TEXT).decode())


async def told(*steps: int, pending: int | None = None) -> str:
    """What a process tells that has answered so many polls, one after the other with these codes."""
    metrics = Metrics()
    metrics.expect_refusals(["expired", "malformed"], [])
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


async def told_of(**values: float) -> str:
    """What a process tells whose gauges have these values: a health, an age, a certificate's last day."""
    metrics = Metrics(clock=lambda: 0)
    metrics.report_health(lambda: Health([Status.READY, Status.DEGRADED, Status.NOT_READY][int(values["health"])]))
    metrics.report_keys(files=lambda: {"key.pem": -values["age"]}, fetched=dict)
    metrics.tls_files_read(CertificateDates(ends_at={"cert.pem": values["days"] * 86_400}))
    metrics.report_level(Level.WATCHERS, lambda: values["watchers"], 100)
    return (await metrics.exposition()).decode()


async def test_of_several_processes_the_one_that_is_worst_off_counts() -> None:
    """The worst health, the highest age, the first end, the fullest; memory is added up, and what runs is one fact."""
    children = MergedMetrics()
    children.tell(1, await told_of(health=1, age=50, days=9, watchers=3))
    children.tell(2, await told_of(health=0, age=70, days=8, watchers=4))
    merged = figures(children)
    assert merged["jobstatus_health"] == 1
    assert merged['jobstatus_key_file_age_seconds{file="key.pem"}'] == 70
    assert merged['jobstatus_certificate_days_left{file="cert.pem"}'] == 8
    assert (merged["jobstatus_watchers"], merged["jobstatus_watchers_limit"]) == (4, 100)
    assert [value for name, value in merged.items() if name.startswith("jobstatus_build_info")] == [1]
    children.end(1)
    alone = figures(children)
    assert 1.5 * alone["process_resident_memory_bytes"] < merged["process_resident_memory_bytes"]
    assert alone["process_cpu_seconds_total"] == merged["process_cpu_seconds_total"]
    children.not_ready = True
    assert figures(children)["jobstatus_health"] == 2


async def test_one_set_is_valid_openmetrics() -> None:
    """The text that children tell has the times of creation as families of their own, which OpenMetrics forbids.

    It also wants the samples of the same labels together, of which the credentials refused have two kinds.
    """
    children = MergedMetrics()
    children.tell(1, await told(200))
    children.tell(2, await told(503))
    registry = CollectorRegistry()
    registry.register(children)
    text = expose(registry, Format.OPENMETRICS).decode()
    families = {
        family.name: family
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    }
    (created,) = [sample for sample in families["jobstatus_rpcs"].samples if sample.name == "jobstatus_rpcs_created"]
    assert created.value == figures(children)['jobstatus_rpcs_created{code="OK",method="GetJob"}']
    assert "jobstatus_rpcs_created" not in families


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
