"""The least that a write can cost with grpc.aio: the same messages, and nothing done with them.

Each request is parsed and each answer is serialised by gRPC, as its documentation shows it; the answers are as large as
those of the service. It runs on the same kind of event loop as the service.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any, Final

import grpc
import uvloop
from google.protobuf.message import Message
from jobstatus.core.commands import Command, CompleteJob, CreateJob
from jobstatus.core.job import Job, RequestType
from jobstatus.core.rules import Policy, decide
from jobstatus.rpc.messages import fill_job
from jobstatus.v1 import job_status_pb2 as pb

from benchmarks.write_load import RESULT

_NOW_MS: Final = 1_700_000_000_000
_JOB_ID: Final = "0" * 40


def _after(*commands: Command) -> pb.Job:
    job: Job | None = None
    for command in commands:
        job, _ = decide(job, command, _NOW_MS, Policy())
    assert job is not None
    return fill_job(pb.Job(), job, omit_result=True)


_CREATE: Final = CreateJob(
    job_id=_JOB_ID, request_type=RequestType.TRANSCRIPTION, virtual_key_id="vk-1", provider="openai"
)
_PENDING: Final = _after(_CREATE)
_COMPLETED: Final = _after(_CREATE, CompleteJob(job_id=_JOB_ID, result=RESULT))
_CREATED: Final = pb.CreateJobResponse(job=_PENDING)
_ENDED: Final = pb.CompleteJobResponse(job=_COMPLETED)


@cache
def _batch(is_creation: bool, size: int) -> pb.BatchWriteResponse:
    return pb.BatchWriteResponse(result=[pb.OperationResult(job=_PENDING if is_creation else _COMPLETED)] * size)


async def create_job(_request: pb.CreateJobRequest, _context: Any) -> pb.CreateJobResponse:
    return _CREATED


async def complete_job(_request: pb.CompleteJobRequest, _context: Any) -> pb.CompleteJobResponse:
    return _ENDED


async def batch_write(request: pb.BatchWriteRequest, _context: Any) -> pb.BatchWriteResponse:
    return _batch(request.operation[0].HasField("create_job"), len(request.operation))


def _handler(
    serve: Callable[[Any, Any], Awaitable[Message]], request: type[Message], response: type[Message]
) -> "grpc.RpcMethodHandler[Any, Any]":
    return grpc.unary_unary_rpc_method_handler(serve, request.FromString, response.SerializeToString)


async def serve() -> None:
    """Print the port, and serve."""
    server = grpc.aio.server()
    handlers = {
        "CreateJob": _handler(create_job, pb.CreateJobRequest, pb.CreateJobResponse),
        "CompleteJob": _handler(complete_job, pb.CompleteJobRequest, pb.CompleteJobResponse),
        "BatchWrite": _handler(batch_write, pb.BatchWriteRequest, pb.BatchWriteResponse),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("jobstatus.v1.JobStatus", handlers)])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(serve())
