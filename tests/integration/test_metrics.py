"""What an alert may rely on: each metric is true of jobs that were made here."""

import gzip
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from google.protobuf.duration_pb2 import Duration
from harness.certificates import Authorities
from harness.faults import Clock, MeddledStore
from harness.figures import figures, parse
from harness.forging import public_file, rsa_key
from harness.http import request
from harness.jobs import KINDS, cancel, complete, completion, create, creation, fail, start, starting
from harness.service import AT_ONCE, Service, edge_here, service_here
from harness.tokens import AUDIENCE, ISSUER, bearer, virtual_key_token
from harness.waiting import until
from jobstatus.core.errors import StoreFull, StoreUnavailable
from jobstatus.core.store import Claim
from jobstatus.settings import IssuerSettings
from jobstatus.v1 import job_status_pb2 as pb
from prometheus_client.openmetrics.parser import text_string_to_metric_families

COUNTING = replace(AT_ONCE, count_jobs_seconds=0.05)
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OF_PROMETHEUS = (
    "Accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
OWNER = bearer(virtual_key_token("vk-1"))
DAY = 24 * 60 * 60


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def service(clock: Clock) -> AsyncIterator[Service]:
    async with service_here(limits=COUNTING, clock=clock, processing_timeout_seconds=5000) as running:
        yield running


async def has(admin_port: int, name: str, value: float | None) -> bool:
    return (await figures(admin_port)).get(name) == value


async def shows(service: Service, name: str, value: float | None) -> None:
    """Wait until the metric has this value; None: until it is not there."""
    await until(partial(has, service.admin_port, name, value))


def ended(outcome: str, kind: str = "transcription") -> str:
    return f'jobstatus_jobs_ended_total{{outcome="{outcome}",type="{kind}"}}'


async def test_each_end_is_counted_by_type_and_outcome(service: Service, clock: Clock) -> None:
    """Once each, also when a report is repeated; the types that had none are there with 0."""
    for name in ("completed", "failed", "cancelled", "lost", "timed-out"):
        await create(service, name)
    await create(service, "speech", request_type=pb.REQUEST_TYPE_SPEECH)
    await cancel(service, "cancelled")
    await start(service, "lost", lease=Duration(seconds=60))
    await start(service, "timed-out")
    for name in ("completed", "failed", "speech"):
        await start(service, name)
    for _ in range(2):
        await complete(service, "completed", attempt=1)
        await fail(service, "failed", attempt=1)
        await complete(service, "speech", attempt=1)
    clock.move(seconds=61)
    await shows(service, ended("worker_lost"), 1)
    clock.move(seconds=5000)
    await shows(service, ended("timed_out"), 1)
    await create(service, "never")
    clock.move(seconds=DAY)
    await shows(service, ended("never_started"), 1)
    found = await figures(service.admin_port)
    assert {name for name, value in found.items() if "jobs_ended_total" in name and value} == {
        ended("completed", "speech"),
        *map(ended, ("completed", "failed", "cancelled", "worker_lost", "timed_out", "never_started")),
    }
    assert [name for name, value in found.items() if "jobs_ended_total" in name and value > 1] == []
    assert len([name for name in found if "jobs_ended_total" in name]) == len(KINDS) * 6


async def test_what_was_not_committed_is_not_counted() -> None:
    """An end that the store refused counts when it is repeated; a new job with the id of an expired one counts anew."""
    store, clock = MeddledStore(), Clock()
    async with service_here(store, clock=clock, sweep_interval_seconds=60) as service:
        await create(service, "job-1")
        await start(service, "job-1")
        store.failures["commit"] = StoreUnavailable()
        with pytest.raises(grpc.aio.AioRpcError):
            await complete(service, "job-1", attempt=1)
        store.fail_all(None)
        assert (await figures(service.admin_port))[ended("completed")] == 0
        await complete(service, "job-1", attempt=1)
        assert (await figures(service.admin_port))[ended("completed")] == 1
        clock.move(seconds=2 * DAY)
        await service.jobs.BatchWrite(
            pb.BatchWriteRequest(
                operation=[
                    pb.Operation(create_job=creation("job-1")),
                    pb.Operation(start_job=starting("job-1")),
                    pb.Operation(complete_job=completion("job-1", attempt=1)),
                ]
            )
        )
        found = await figures(service.admin_port)
        assert found[ended("completed")] == 2
        assert found['jobstatus_job_queued_seconds_count{type="transcription"}'] == 2


async def test_times_queued_and_run_are_those_of_the_jobs(service: Service, clock: Clock) -> None:
    """From creation to the first start, and from there to the end, takeover included; by request type."""
    await create(service, "job-1", max_attempts=2)
    await create(service, "cancelled")
    clock.move(seconds=4)
    await start(service, "job-1", lease=Duration(seconds=10))
    clock.move(seconds=11)
    await start(service, "job-1", worker_id="worker-2")
    clock.move(seconds=9)
    await complete(service, "job-1", attempt=2)
    await cancel(service, "cancelled")
    found = await figures(service.admin_port)
    for name, seconds, bucket_below, bucket in (("queued", 4, "2.5", "5.0"), ("run", 20, "10.0", "30.0")):
        metric = f"jobstatus_job_{name}_seconds"
        assert found[f'{metric}_count{{type="transcription"}}'] == 1
        assert found[f'{metric}_sum{{type="transcription"}}'] == seconds
        assert found[f'{metric}_bucket{{le="{bucket_below}",type="transcription"}}'] == 0
        assert found[f'{metric}_bucket{{le="{bucket}",type="transcription"}}'] == 1


async def test_the_oldest_jobs_are_as_old_as_they_are(service: Service, clock: Clock) -> None:
    """The oldest that is pending, and the one that has been without a lease for longest; 0 where there is none."""
    pending, unleased = "jobstatus_oldest_pending_job_seconds", "jobstatus_oldest_unleased_job_seconds"
    await shows(service, pending, 0)
    await create(service, "first", max_attempts=2)
    clock.move(seconds=100)
    await create(service, "second")
    await shows(service, pending, 100)
    await start(service, "first", lease=Duration(seconds=60))
    clock.move(seconds=50)
    await shows(service, pending, 50)
    assert (await figures(service.admin_port))[unleased] == 0
    clock.move(seconds=20)
    await shows(service, unleased, 10)
    await start(service, "second")
    await shows(service, pending, 0)
    clock.move(seconds=5)
    await shows(service, unleased, 15)
    await start(service, "first", worker_id="worker-2", lease=Duration(seconds=60))
    await shows(service, unleased, 5)


async def test_the_time_since_the_last_sweep_grows_when_sweeps_fail() -> None:
    """It is told by the process that leads, and by nobody who has learnt that another one does."""
    store, clock, name = MeddledStore(), Clock(), "jobstatus_last_sweep_seconds"
    async with service_here(store, clock=clock, sweep_interval_seconds=0.1) as service:
        await until(lambda: bool(store.calls_of("purge")))
        store.failures["due"] = StoreUnavailable()
        await until(partial(has, service.admin_port, 'jobstatus_chores_failed_total{chore="sweep"}', 1))
        clock.move(seconds=300)
        assert (await figures(service.admin_port))[name] == 300
        store.fail_all(None)
        await shows(service, name, 0)

        async def try_lead(_holder: str, _for_ms: int) -> Claim:
            return Claim(leads=False, now_ms=None)

        store.replace("try_lead", try_lead)
        await shows(service, name, None)


async def test_the_health_is_a_number() -> None:
    """A service that takes no writes is degraded, one that does not read is not ready."""
    store = MeddledStore()
    async with service_here(store) as service:
        await shows(service, "jobstatus_health", 0)
        store.failures["probe"] = StoreFull()
        await shows(service, "jobstatus_health", 1)
        store.failures["virtual_keys_version"] = StoreUnavailable()
        await shows(service, "jobstatus_health", 2)


async def test_what_is_limited_is_there_with_its_limit() -> None:
    """What is in use counts as it begins and as it ends."""
    async with service_here(max_connections=50, max_waiting_polls=40, max_watchers=30) as service:
        await create(service, "job-1")
        watch = service.jobs.WatchJob(pb.WatchJobRequest(job_id="job-1"))
        await watch.read()
        found = await figures(service.admin_port)
        assert found["jobstatus_watchers"] == 1
        watch.cancel()
        await shows(service, "jobstatus_watchers", 0)
        assert {name: value for name, value in found.items() if name.endswith("_limit")} == {
            "jobstatus_http_connections_limit": 50,
            "jobstatus_waiting_polls_limit": 40,
            "jobstatus_watchers_limit": 30,
            "jobstatus_queued_writes_limit": 20_000,
            "jobstatus_queued_write_bytes_limit": 256 * 1024**2,
            "jobstatus_large_answer_bytes_limit": 256 * 1024**2,
        }
        assert {name.removesuffix("_limit") for name in found if name.endswith("_limit")} <= found.keys()


async def test_failures_are_there_before_the_first(service: Service) -> None:
    """Prometheus does not see the increase of a counter that was not there before."""
    found = await figures(service.admin_port)
    for name in (
        'jobstatus_http_failures_total{code="503"}',
        'jobstatus_credentials_refused_total{reason="bad_signature"}',
        'jobstatus_http_connections_refused_total{limit="max_connections_each"}',
        'jobstatus_rpcs_total{code="UNAVAILABLE",method="CreateJob"}',
        'jobstatus_chores_failed_total{chore="sweep"}',
        'jobstatus_swept_jobs_total{what="purged"}',
        "jobstatus_log_lines_dropped_total",
    ):
        assert found[name] == 0
    assert found["process_open_fds"] <= found["process_max_fds"]
    assert found["process_resident_memory_bytes"] > 0
    assert [value for name, value in found.items() if name.startswith("jobstatus_build_info{")] == [1]


async def test_an_unanswered_poll_is_a_failure() -> None:
    """It is counted by its code."""
    store = MeddledStore()
    async with service_here(store) as service:
        store.failures["read_answers"] = StoreUnavailable()
        assert (await service.poll("job-1", OWNER)).status == 503
        found = await figures(service.admin_port)
        assert found['jobstatus_http_failures_total{code="503"}'] == 1
        assert found['jobstatus_http_failures_total{code="500"}'] == 0


@pytest.mark.parametrize("accept", [OF_PROMETHEUS, "Accept: application/openmetrics-text"])
async def test_openmetrics_is_served_to_those_who_prefer_it(service: Service, accept: str) -> None:
    """All families are valid by the library's own parser, which is strict."""
    await create(service, "job-1")
    answer = await request(service.admin_port, "/metrics", accept)
    assert answer.headers["content-type"] == OPENMETRICS
    families = text_string_to_metric_families(answer.body.decode())  # type: ignore[no-untyped-call]
    names = {sample.name for family in families for sample in family.samples}
    assert names >= {name.partition("{")[0] for name in await figures(service.admin_port)}


@pytest.mark.parametrize(
    "accept", ["Accept: */*", "Accept: text/plain", "Accept: application/openmetrics-text;q=0", "Accept: ;;=,"]
)
async def test_others_get_the_text_format(service: Service, accept: str) -> None:
    """As they always did."""
    answer = await request(service.admin_port, "/metrics", accept)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_metrics_are_compressed_for_those_who_accept_it(service: Service) -> None:
    """With gzip alone, and not for who excludes it."""
    answer = await request(service.admin_port, "/metrics", "Accept-Encoding: deflate, gzip;q=0.5")
    assert answer.headers["content-encoding"] == "gzip"
    assert parse(gzip.decompress(answer.body).decode()).keys() == (await figures(service.admin_port)).keys()
    answer = await request(service.admin_port, "/metrics", "Accept-Encoding: gzip;q=0, br")
    assert "content-encoding" not in answer.headers


async def test_ages_of_keys_and_ends_of_certificates_are_told(tmp_path: Path) -> None:
    """Of all files in use, by their paths: of several certificates in a file the one that ends first counts."""
    authorities, clock = Authorities(), Clock()
    tls = authorities.settings(tmp_path)
    certificates = x509.load_pem_x509_certificates(tls["grpc_tls_cert"].read_bytes())
    ends_at = min(certificate.not_valid_after_utc.timestamp() for certificate in certificates)
    public = public_file(tmp_path, "public", rsa_key())
    for path, age in ((public, 1000), (tls["grpc_tls_key"], 2000)):
        os.utime(path, (clock.time() - age, clock.time() - age))
    issuer = IssuerSettings(issuer=ISSUER, audience=AUDIENCE, algorithm="RS256", public_key_file=public)
    async with service_here(clock=clock, issuers=(issuer,), **tls) as service:
        found = await figures(service.admin_port)
        assert found[f'jobstatus_key_file_age_seconds{{file="{public}"}}'] == pytest.approx(1000, abs=1)
        assert found[f'jobstatus_key_file_age_seconds{{file="{tls["grpc_tls_key"]}"}}'] == pytest.approx(2000, abs=1)
        days = found[f'jobstatus_certificate_days_left{{file="{tls["grpc_tls_cert"]}"}}']
        assert days == pytest.approx((ends_at - clock.time()) / DAY, abs=0.001)
        clock.move(seconds=DAY)
        later = await figures(service.admin_port)
        assert later[f'jobstatus_certificate_days_left{{file="{tls["grpc_tls_cert"]}"}}'] == pytest.approx(days - 1)


async def test_an_edge_tells_nothing_of_jobs() -> None:
    """Nor of sweeps, which it does not do; its own health follows that of its service."""
    async with service_here() as service, edge_here(service) as edge:
        found = await figures(edge.admin_port)
        assert found["jobstatus_health"] == 0
        assert [name for name in found if "jobs_ended" in name or "sweep" in name or "oldest" in name] == []
