"""One job from its submission to its delivery, as a receiver of traces sees it: printed as a tree.

    python tests/soak/trace.py [--store sqlite]

A gateway submits a job, a worker runs it, and a client polls an edge for the result. Gateway and worker have spans of
their own, as have the service and the edge, which are the installed commands; all send their spans over OTLP/gRPC to a
receiver on loopback. Exits with 0 when the trace has all that it should have.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from harness.otlp import Receiver, receiver
from harness.service import INSTALLED, EdgeProcess, Process
from harness.stores import STORES
from harness.tokens import bearer, virtual_key_token
from harness.verdict import verdict
from harness.waiting import until
from jobstatus.client import JobStatusClient, RequestType
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Tracer
from rich.console import Console
from rich.text import Text

CALL = "jobstatus.v1.JobStatus/"
POLL = "GET /v1/async/audio/transcriptions/{job_id}"
EXPECTED = (
    "submit",
    f"{CALL}CreateJob",
    f"{CALL}StartJob",
    f"{CALL}HeartbeatJob",
    f"{CALL}CompleteJob",
    "commit jobs",
    POLL,
    f"{CALL}BatchGetJobs",
    "read_answers jobs",
)
OWNER = bearer(virtual_key_token("vk-1"))


def tracer_of(service: str, port: int) -> Tracer:
    """The tracer of a program of this name, which sends its spans soon."""
    provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(f"http://127.0.0.1:{port}"), schedule_delay_millis=100)
    )
    return provider.get_tracer(service)


async def one_job(store: str, folder: Path, found: Receiver) -> str:
    """Let a job live its life. Return the id of its trace, once it has been received."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{found.port}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    service = Process(folder, STORE=STORES[store](folder))
    service.environment |= variables
    service.start_command = INSTALLED
    gateway, worker = (tracer_of(name, found.port) for name in ("gateway", "worker"))
    async with service, service.connected() as running:
        edge = EdgeProcess(folder, running)
        edge.environment |= variables | {"OTEL_SERVICE_NAME": "edge"}
        edge.start_command = INSTALLED
        async with edge, JobStatusClient(f"127.0.0.1:{running.grpc_port}") as client:
            with gateway.start_as_current_span("submit", kind=SpanKind.PRODUCER) as submit:
                job = await client.create_job(request_type=RequestType.TRANSCRIPTION, virtual_key_id="vk-1")
            assert job.traceparent is not None
            submitted = extract({"traceparent": job.traceparent})
            with worker.start_as_current_span("transcribe", context=submitted, kind=SpanKind.CONSUMER):
                lease = timedelta(minutes=1)
                started = await client.start_job(job.job_id, worker_id="worker-1", lease=lease)
                await client.heartbeat_job(job.job_id, attempt=started.attempt, progress=0.5)
                await client.complete_job(job.job_id, {"text": "hello"}, attempt=started.attempt)
            front = running.behind(edge.port("HTTP"), edge.port("ADMIN"))
            answer = await front.poll(job.job_id, OWNER, f"traceparent: {job.traceparent}")
            assert answer.status == 200, answer
            await until(lambda: {span.name for span in found.spans} >= set(EXPECTED))
    return f"{submit.get_span_context().trace_id:032x}"


async def run(store: str, folder: Path) -> tuple[str, list[str]]:
    """The trace as a tree, and what is missing in it."""
    async with receiver() as found:
        trace_id = await one_job(store, folder, found)
        names = {span.name for span in found.spans if span.trace_id == trace_id}
        tree = "\n".join(found.tree(trace_id))
    return tree, [f"{name} is not in the trace" for name in EXPECTED if name not in names]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=STORES, default="sqlite")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trace-") as folder:
        tree, missing = asyncio.run(run(given.store, Path(folder)))
    return verdict(Console(width=200), Text(tree), missing)


if __name__ == "__main__":
    sys.exit(main())
