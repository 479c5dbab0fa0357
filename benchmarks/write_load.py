"""The load generator of `benchmarks.writes`, run as a process of its own: `-m benchmarks.write_load`.

It makes the requests, says that it is ready, waits for a line, calls, and prints its report as a line of JSON. Single
writes are called by `benchmarks.http2`; a batch is so large that grpc.aio costs little for each of its writes.
"""

import argparse
import asyncio
import json
import resource
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator, Sequence
from statistics import quantiles
from typing import Any, Final

import grpc
import uvloop
from google.protobuf.message import Message
from jobstatus.v1 import job_status_pb2 as pb

from benchmarks.http2 import Caller

RESULT: Final = b'{"text":"' + b"x" * 1003 + b'"}'
BATCH: Final = 500
BATCHES_IN_FLIGHT: Final = 4
CONNECTIONS: Final = 4
_SERVICE: Final = "/jobstatus.v1.JobStatus/"


def creation(job_id: str) -> pb.CreateJobRequest:
    """Makes the job."""
    return pb.CreateJobRequest(
        job_id=job_id, request_type=pb.REQUEST_TYPE_TRANSCRIPTION, virtual_key_id="vk-1", provider="openai"
    )


def completion(job_id: str) -> pb.CompleteJobRequest:
    """Ends the job with a result of 1 KB."""
    return pb.CompleteJobRequest(job_id=job_id, result=RESULT)


SINGLE: Final[dict[str, Callable[[str], Message]]] = {"CreateJob": creation, "CompleteJob": completion}
BATCHED: Final[dict[str, Callable[[str], pb.Operation]]] = {
    "BatchWrite of CreateJob": lambda job_id: pb.Operation(create_job=creation(job_id)),
    "BatchWrite of CompleteJob": lambda job_id: pb.Operation(complete_job=completion(job_id)),
}
KINDS: Final = (*SINGLE, *BATCHED)
"""What can be asked for, in an order in which it can be: a job is made before it ends."""


def requests_of(kind: str, job_ids: Sequence[str]) -> list[bytes]:
    """The serialised requests; batches are all full, so that ids at the end may be left out."""
    if kind in SINGLE:
        return [SINGLE[kind](job_id).SerializeToString() for job_id in job_ids]
    operations = [BATCHED[kind](job_id) for job_id in job_ids]
    firsts = range(0, len(operations) - BATCH + 1, BATCH)
    return [pb.BatchWriteRequest(operation=operations[first : first + BATCH]).SerializeToString() for first in firsts]


async def call_single(port: int, method: str, requests: Sequence[bytes], in_flight: int) -> "array[float]":
    """Make the calls over several connections; the seconds that each took. Raises RuntimeError when one fails."""
    latencies = array("d")

    def connected(number: int) -> Caller:
        share = iter(requests[number::CONNECTIONS])
        return Caller(_SERVICE + method, share, in_flight // CONNECTIONS, latencies)

    loop = asyncio.get_running_loop()
    made = [loop.create_connection(lambda n=n: connected(n), "127.0.0.1", port) for n in range(CONNECTIONS)]  # type: ignore[misc]  # a lambda's default
    await asyncio.gather(*(caller.done for _, caller in await asyncio.gather(*made)))
    return latencies


async def call_batches(port: int, requests: Sequence[bytes]) -> "array[float]":
    """The same, a few at a time on one channel. Raises RuntimeError when a write was refused."""
    latencies = array("d")
    left = iter(requests)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        write: Any = channel.unary_unary(
            _SERVICE + "BatchWrite", response_deserializer=pb.BatchWriteResponse.FromString
        )
        await asyncio.gather(*(_call_each(write, left, latencies) for _ in range(BATCHES_IN_FLIGHT)))
    return latencies


async def _call_each(
    write: Callable[[bytes], Awaitable[Any]], requests: Iterator[bytes], latencies: "array[float]"
) -> None:
    for request in requests:
        called_at = time.perf_counter()
        response: pb.BatchWriteResponse = await write(request)
        latencies.append(time.perf_counter() - called_at)
        refused = [result.error for result in response.result if result.HasField("error")]
        if refused or len(response.result) != BATCH:
            raise RuntimeError(f"writes were refused: {refused[:1]}")


async def generate(port: int, kind: str, requests: Sequence[bytes], in_flight: int) -> dict[str, float]:
    """Make the calls; what came of them, and what this process spent on them."""
    started_at, spent = time.perf_counter(), _cpu_seconds()
    if kind in SINGLE:
        latencies = await call_single(port, kind, requests, in_flight)
    else:
        latencies = await call_batches(port, requests)
    seconds = time.perf_counter() - started_at
    hundredths = quantiles(latencies, n=100)
    return {
        "writes": len(latencies) * (1 if kind in SINGLE else BATCH),
        "seconds": seconds,
        "p50_ms": hundredths[49] * 1e3,
        "p99_ms": hundredths[98] * 1e3,
        "busy": (_cpu_seconds() - spent) / seconds,
    }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("prefix", help="job ids are this and a number")
    parser.add_argument("writes", type=int)
    parser.add_argument("--in-flight", type=int, default=128, help="single writes under way, on all connections")
    options = parser.parse_args()
    requests = requests_of(options.kind, [f"{options.prefix}-{number}" for number in range(options.writes)])
    print(json.dumps({"ready": len(requests)}), flush=True)
    sys.stdin.readline()
    work = generate(options.port, options.kind, requests, options.in_flight)
    print(json.dumps(asyncio.Runner(loop_factory=uvloop.new_event_loop).run(work)))


if __name__ == "__main__":
    main()
