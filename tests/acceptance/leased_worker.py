"""A worker as small as can be: starts a job with a lease, sends heartbeats, completes the job when it is told to.

    python leased_worker.py ADDRESS JOB_ID LEASE_SECONDS HEARTBEAT_SECONDS

Prints a line for each thing that happens: what it did, and OK or why it was refused. Whatever is written to its
standard input becomes the result.
"""

import asyncio
import sys
from collections.abc import Awaitable
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub


async def tell(what: str, call: Awaitable[Any]) -> Any:
    """Print how the call went; its answer, or None."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        status, info = rpc_status.from_call(error), ErrorInfo()  # type: ignore[arg-type]  # it has all that is asked of a Call
        if status is not None:
            status.details[0].Unpack(info)
        print(what, error.code().name, info.reason, flush=True)
        return None
    print(what, "OK", flush=True)
    return answer


async def work(address: str, job_id: str, lease_seconds: int, heartbeat_seconds: float) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = JobStatusStub(channel)
        start = pb.StartJobRequest(job_id=job_id, worker_id="worker", lease=Duration(seconds=lease_seconds))
        attempt = (await tell("start", stub.StartJob(start))).job.attempt
        told = asyncio.create_task(asyncio.to_thread(sys.stdin.buffer.readline))
        while not (await asyncio.wait([told], timeout=heartbeat_seconds))[0]:
            await tell("heartbeat", stub.HeartbeatJob(pb.HeartbeatJobRequest(job_id=job_id, attempt=attempt)))
        done = pb.CompleteJobRequest(job_id=job_id, attempt=attempt, result=(await told).strip())
        await tell("complete", stub.CompleteJob(done))


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
