"""What the tests of the gRPC contract share: jobs in each state, and calls by their requests."""

from pathlib import Path
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from jobstatus.core.job import JobState
from jobstatus.v1 import job_status_pb2 as pb

from harness.jobs import create, job_in, start
from harness.service import Service

HOUR: Final = Duration(seconds=3600)
WATCH_SECONDS: Final = 60
OPERATIONS: Final = {
    "CreateJobRequest": "create_job",
    "StartJobRequest": "start_job",
    "HeartbeatJobRequest": "heartbeat_job",
    "CompleteJobRequest": "complete_job",
    "FailJobRequest": "fail_job",
    "CancelJobRequest": "cancel_job",
}


async def call(service: Service, request: Message) -> Any:
    """The RPC whose request this is; of a stream all answers."""
    name = type(request).DESCRIPTOR.name.removesuffix("Request")
    answer = getattr(service.jobs if hasattr(service.jobs, name) else service.virtual_keys, name)(request)
    return [each async for each in answer] if name == "WatchJob" else await answer


def at(ms: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(ms)
    return stamp


def url_of(store: str, folder: Path) -> str:
    return "memory://" if store == "memory" else f"sqlite:///{folder / 'jobs.db'}"


async def furnish(service: Service) -> None:
    """A job in each state, called like it, and `leased`: attempt 1 of worker-1, whose lease runs for an hour."""
    for state in JobState:
        await job_in(service, state, state.value)
    await create(service, "leased")
    await start(service, "leased", lease=HOUR)


async def get(service: Service, job_id: str) -> pb.Job:
    return (await service.jobs.GetJob(pb.GetJobRequest(job_id=job_id))).job


def without_result(job: pb.Job) -> pb.Job:
    kept = pb.Job()
    kept.CopyFrom(job)
    kept.ClearField("result")
    return kept


def watch(service: Service, job_id: str, **fields: Any) -> Any:
    """A watch that fails, rather than waits for ever, when an answer that is due does not come."""
    return service.jobs.WatchJob(pb.WatchJobRequest(job_id=job_id, **fields), timeout=WATCH_SECONDS)


def operation(request: Message) -> pb.Operation:
    """The write as one of a batch."""
    writes: dict[str, Any] = {OPERATIONS[request.DESCRIPTOR.name]: request}
    return pb.Operation(**writes)


async def in_batch(service: Service, *requests: Message) -> list[pb.OperationResult]:
    return list((await service.jobs.BatchWrite(pb.BatchWriteRequest(operation=map(operation, requests)))).result)
