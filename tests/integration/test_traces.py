"""Traces, as a real receiver on loopback gets them over OTLP."""

import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from harness.http import request
from harness.jobs import completion, creation, next_job, starting
from harness.logged import events_logged
from harness.otlp import Received, Receiver, receiver
from harness.ports import reserve
from harness.service import Service, edge_here, service_here
from harness.stores import STORES
from harness.tokens import bearer, virtual_key_token
from harness.waiting import until
from harness.wire import refused
from jobstatus.client import JobStatusClient, RequestType
from jobstatus.v1 import job_status_pb2 as pb
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

OWNER = bearer(virtual_key_token("vk-1"))
SUBMISSION = f"00-{'a' * 32}-{'b' * 16}-01"
POLL = "GET /v1/async/audio/transcriptions/{job_id}"
CALL = "jobstatus.v1.JobStatus/"
RESULT = b'{"secret": "the text of a result"}'


@pytest.fixture
async def traces(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    """A receiver, and the environment of a service that sends its traces there soon."""
    async with receiver() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{found.port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
        yield found


def only(spans: list[Received]) -> Received:
    (span,) = spans
    return span


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgresql", "valkey"])
async def test_one_trace_from_submission_to_delivery(traces: Receiver, kind: str, tmp_path: Path) -> None:
    """Gateway and worker use the client inside spans of their own; the poller names the gateway's span."""
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
    async with (
        service_here(STORES[kind](tmp_path)) as service,
        JobStatusClient(f"127.0.0.1:{service.grpc_port}") as client,
    ):
        with tracer.start_as_current_span("submit") as submit:
            job = await client.create_job(request_type=RequestType.TRANSCRIPTION, virtual_key_id="vk-1")
        context = submit.get_span_context()
        assert job.traceparent == f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        with tracer.start_as_current_span("work", context=trace.set_span_in_context(submit)):
            started = await client.start_job(job.job_id, worker_id="worker", lease=timedelta(minutes=1))
            await client.heartbeat_job(job.job_id, attempt=started.attempt)
            await client.complete_job(job.job_id, RESULT, attempt=started.attempt)
        assert (await service.poll(job.job_id, OWNER, f"traceparent: {job.traceparent}")).status == 200
        await until(lambda: bool(traces.named(POLL)))
    trace_id, submitted = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    spans = traces.about(trace_id)
    for name in ("CreateJob", "StartJob", "HeartbeatJob", "CompleteJob"):
        call = only(traces.named(CALL + name))
        assert (call.trace_id, call.links, call.kind) == (trace_id, (submitted,), "server")
        assert call.attributes == {
            "rpc.system.name": "grpc",
            "rpc.method": CALL + name,
            "rpc.response.status_code": "OK",
        }
    commits = traces.named("commit jobs")
    assert [(span.trace_id, span.parent, span.links) for span in commits] == [(trace_id, submitted, (submitted,))] * 4
    assert commits[0].attributes["db.system.name"] == kind.replace("valkey", "redis")
    poll = only(traces.named(POLL))
    assert (poll.trace_id, poll.parent, poll.links, poll.kind) == (trace_id, submitted, (submitted,), "server")
    assert poll.attributes == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "http.route": "/v1/async/audio/transcriptions/{job_id}",
        "url.path": f"/v1/async/audio/transcriptions/{job.job_id}",
        "http.response.status_code": 200,
        "jobstatus.job_id": job.job_id,
    }
    assert poll.span_id in {span.parent for span in traces.named("read_answers jobs")}
    assert "secret" not in repr(spans)
    assert OWNER.partition(" ")[2] not in repr(spans)


async def test_calls_and_polls_of_other_traces_are_linked(traces: Receiver) -> None:
    """A worker and a poller that name no span have traces of their own, with a link to the submission."""
    async with service_here() as service:
        await service.jobs.CreateJob(creation("job-1"), metadata=(("traceparent", SUBMISSION),))
        await service.jobs.StartJob(starting("job-1"))
        assert (await service.poll("job-1", OWNER)).status == 202
        await service.jobs.CompleteJob(completion("job-1", attempt=1))
        assert (await service.poll("job-1", OWNER)).status == 200
        await until(lambda: len(traces.named(POLL)) == 2)
    linked = ("b" * 16,)
    for name in ("StartJob", "CompleteJob"):
        call = only(traces.named(CALL + name))
        assert (call.parent, call.links) == ("", linked)
    pending, delivering = sorted(traces.named(POLL), key=lambda span: span.started_ns)
    assert (pending.links, delivering.links, delivering.parent) == ((), linked, "")


async def test_a_job_whose_submission_names_no_span_is_traced_from_its_creation(traces: Receiver) -> None:
    async with service_here() as service:
        created = (await service.jobs.CreateJob(creation("job-1"))).job
        await service.jobs.CompleteJob(completion("job-1"))
        await until(lambda: bool(traces.named(f"{CALL}CompleteJob")))
    creating = only(traces.named(f"{CALL}CreateJob"))
    assert created.traceparent.startswith(f"00-{creating.trace_id}-{creating.span_id}-")
    assert only(traces.named(f"{CALL}CompleteJob")).links == (creating.span_id,)


async def test_a_poll_of_an_edge_goes_on_in_its_service(traces: Receiver) -> None:
    """The edge's span, its call, and the service's answer and read are one below the other."""
    async with service_here() as service, edge_here(service) as edge:
        await service.jobs.CreateJob(creation("job-1"), metadata=(("traceparent", SUBMISSION),))
        await service.jobs.CompleteJob(completion("job-1", RESULT))
        assert (await edge.poll("job-1", OWNER)).status == 200
        await until(lambda: bool(traces.named(POLL)))
    poll = only(traces.named(POLL))
    called, answered = sorted(traces.named(f"{CALL}BatchGetJobs"), key=lambda span: span.kind)
    assert (poll.links, called.kind, answered.kind) == (("b" * 16,), "client", "server")
    assert (called.parent, answered.parent) == (poll.span_id, called.span_id)
    assert answered.span_id in {span.parent for span in traces.named("read_answers jobs")}


async def test_a_watch_that_its_client_ends_is_a_span(traces: Receiver) -> None:
    """It lasts until then, and its service goes on."""
    async with service_here() as service:
        await service.jobs.CreateJob(creation("job-1"))
        watch = service.jobs.WatchJob(pb.WatchJobRequest(job_id="job-1"))
        assert (await next_job(watch)).job_id == "job-1"
        watch.cancel()
        await until(lambda: bool(traces.named(f"{CALL}WatchJob")))
        assert (await service.poll("job-1", OWNER)).status == 202
    ended = only(traces.named(f"{CALL}WatchJob"))
    assert (ended.attributes["rpc.response.status_code"], ended.is_error) == ("CANCELLED", False)


HOSTILE = [
    "traceparent: " + "x" * 5000,
    f"traceparent: 00-{'0' * 32}-{'b' * 16}-01",
    f"traceparent: ff-{'a' * 32}-{'b' * 16}-01",
    f"traceparent: {SUBMISSION}\r\ntracestate: {'x' * 3000}",
    f"traceparent: {SUBMISSION}\r\ntracestate: a=b=c,,=,\xff",
]


@pytest.mark.parametrize("lines", HOSTILE)
async def test_a_hostile_traceparent_changes_no_answer(
    traces: Receiver, lines: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does it leave a line in the log, which would say that traces are not sent."""
    async with service_here() as service:
        await service.jobs.CreateJob(creation("job-1"))
        plain, traced = [await service.poll("job-1", OWNER, *more) for more in ((), lines.split("\r\n"))]
        assert (traced.status, traced.body) == (plain.status, plain.body)
        await until(lambda: len(traces.named(POLL)) == 2)
    assert "traces_not_sent" not in events_logged(caplog)


async def test_failures_are_told_without_their_texts(traces: Receiver) -> None:
    """A refusal is no failure of the server; what strangers ask for is not repeated."""
    async with service_here() as service:
        await refused(service.jobs.StartJob(starting("unknown")))
        for path in ("/v1/secret-path", "/v1/async/audio/transcriptions/no%20secret-id?key=secret-key"):
            await request(service.http_port, path, OWNER)
        await request(service.http_port, "/v1/async/audio/transcriptions/job-1", bearer("secret.token.x"))
        await until(lambda: len([span for span in traces.spans if span.name.startswith("GET")]) == 3)
    refusal = only(traces.named(f"{CALL}StartJob"))
    assert (refusal.attributes["rpc.response.status_code"], refusal.is_error) == ("NOT_FOUND", False)
    assert [span.attributes["http.response.status_code"] for span in traces.named("GET")] == [404]
    assert "secret" not in repr(traces.spans)


async def test_a_receiver_that_is_not_there_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The service serves and stops; one line says that traces are not sent."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{reserve()}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    async with service_here() as service:
        await service.jobs.CreateJob(creation("job-1"))
        assert (await service.poll("job-1", OWNER)).status == 202
        await until(lambda: "traces_not_sent" in events_logged(caplog))
    assert events_logged(caplog).count("traces_not_sent") == 1
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "is not installed"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_COMPRESSION": "secret"}, "does not accept"),
    ],
)
async def test_traces_that_cannot_be_made_are_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variables: dict[str, str], problem: str
) -> None:
    """And the service serves."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    async with service_here() as service:
        await works(service)
    (told,) = [record.__dict__ for record in caplog.records if record.levelno == logging.WARNING]
    assert told["event"] == "traces_unavailable"
    assert problem in told["problem"]
    assert "secret" not in told["problem"]


async def works(service: Service) -> None:
    await service.jobs.CreateJob(creation("job-1"))
    assert (await service.poll("job-1", OWNER)).status == 202
