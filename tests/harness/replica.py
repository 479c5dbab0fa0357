"""One of several servers behind a name, which says by whom a job was answered."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from jobstatus.v1 import job_status_pb2 as pb

PENDING: Final = pb.Job(
    job_id="job-1",
    request_type=pb.REQUEST_TYPE_OCR,
    state=pb.JOB_STATE_PENDING,
    version=1,
    created_at=Timestamp(seconds=1),
    result_ttl=Duration(seconds=1),
    max_attempts=1,
)
COMPLETED: Final = pb.Job(
    job_id="job-1",
    request_type=pb.REQUEST_TYPE_OCR,
    state=pb.JOB_STATE_COMPLETED,
    version=2,
    created_at=Timestamp(seconds=1),
    completed_at=Timestamp(seconds=2),
    expires_at=Timestamp(seconds=3),
    result_ttl=Duration(seconds=1),
    status_code=200,
    result=b'"' + b"x" * 1000 + b'"',
)


@dataclass(slots=True, eq=False)
class Replica:
    """Answers with a completed job, or refuses every call; keeps the metadata of the calls."""

    port: int = 0
    refuses: bool = False
    calls: list[dict[str, str | bytes]] = field(default_factory=list)

    async def get_job(self, _: pb.GetJobRequest, context: Any) -> pb.GetJobResponse:
        await self._meet(context)
        return pb.GetJobResponse(job=COMPLETED)

    async def watch_job(self, _: pb.WatchJobRequest, context: Any) -> AsyncGenerator[pb.WatchJobResponse, None]:
        await self._meet(context)
        yield pb.WatchJobResponse(job=COMPLETED)

    async def _meet(self, context: Any) -> None:
        self.calls.append(dict(context.invocation_metadata()))
        if self.refuses:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not here")


@asynccontextmanager
async def replica_here(*, refuses: bool = False) -> AsyncIterator[Replica]:
    replica = Replica(refuses=refuses)
    server = grpc.aio.server()
    handlers: dict[str, Any] = {
        "GetJob": grpc.unary_unary_rpc_method_handler(
            replica.get_job, pb.GetJobRequest.FromString, pb.GetJobResponse.SerializeToString
        ),
        "WatchJob": grpc.unary_stream_rpc_method_handler(
            replica.watch_job, pb.WatchJobRequest.FromString, pb.WatchJobResponse.SerializeToString
        ),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("jobstatus.v1.JobStatus", handlers)])
    replica.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield replica
    finally:
        await server.stop(0)


def target_of(*replicas: Replica) -> str:
    """What a name stands for that resolves to all of them."""
    return "ipv4:" + ",".join(f"127.0.0.1:{replica.port}" for replica in replicas)
