"""The load generators of `benchmarks.beside_writes`, run as processes of their own: `-m benchmarks.paced_load`.

They ask by a timetable, not as fast as they can: so the latency of polls tells what the service does, and not how busy
it is kept. A request that is late because the one before took long counts from when it was due.
"""

import argparse
import asyncio
import json
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import grpc
import uvloop
from jobstatus.v1 import job_status_pb2 as pb

from benchmarks.write_load import completion, creation

BATCH: Final = 20
"""Writes of one call, half of them creations, half completions."""
_END: Final = b"\r\n\r\n"
_CHANNELS: Final = 4


async def at_pace(ask: Callable[[], Awaitable[None]], every: float, phase: float, seconds: float) -> "array[float]":
    """Ask by a timetable for so long. Return how many seconds after it was due each was answered."""
    latencies = array("d")
    first = time.perf_counter() + phase
    for number in range(int(seconds / every)):
        due = first + number * every
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
            due = time.perf_counter()  # timers have a grain of a millisecond, which is no fault of the service
        await ask()
        latencies.append(time.perf_counter() - due)
    return latencies


async def poll(port: int, requests: bytes, rate: float, connections: int, seconds: float) -> dict[str, float]:
    """Poll over connections that stay open. Raises RuntimeError when an answer is not a 2xx."""
    every = cycle(request + _END for request in requests.split(_END)[:-1])
    pace = connections / rate
    found = await asyncio.gather(
        *(_poll_on_one(port, every, pace, number / rate, seconds) for number in range(connections))
    )
    hundredths = quantiles([latency for one in found for latency in one], n=1000)
    return {
        "asked": sum(map(len, found)),
        "p50_ms": hundredths[499] * 1e3,
        "p99_ms": hundredths[989] * 1e3,
        "p999_ms": hundredths[998] * 1e3,
    }


async def _poll_on_one(
    port: int, requests: Iterator[bytes], every: float, phase: float, seconds: float
) -> "array[float]":
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask() -> None:
        writer.write(next(requests))
        head = await reader.readuntil(_END)
        if head[9:10] != b"2":
            raise RuntimeError(f"unexpected answer: {head!r}")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))

    try:
        return await at_pace(ask, every, phase, seconds)
    finally:
        writer.close()


async def write(port: int, prefix: str, rate: float, seconds: float) -> dict[str, float]:
    """Create and complete jobs, so many writes a second in calls of BATCH. Raises RuntimeError when one is refused."""
    calls = rate / BATCH
    batches = cycle(_batches(prefix, int(calls * seconds) + _CHANNELS))
    found = await asyncio.gather(
        *(_write_on_one(port, batches, _CHANNELS / calls, number / calls, seconds) for number in range(_CHANNELS))
    )
    hundredths = quantiles([latency for one in found for latency in one], n=100)
    return {"asked": sum(map(len, found)) * BATCH, "p50_ms": hundredths[49] * 1e3, "p99_ms": hundredths[98] * 1e3}


def _batches(prefix: str, count: int) -> list[bytes]:
    """Return calls of which each creates jobs and completes them: in order, as one call is decided."""
    names = iter(f"{prefix}-{number}" for number in range(count * BATCH))
    made: list[bytes] = []
    for _ in range(count):
        job_ids: Sequence[str] = list(islice(names, BATCH // 2))
        operations = [pb.Operation(create_job=creation(job_id)) for job_id in job_ids]
        operations += [pb.Operation(complete_job=completion(job_id)) for job_id in job_ids]
        made.append(pb.BatchWriteRequest(operation=operations).SerializeToString())
    return made


async def _write_on_one(
    port: int, batches: Iterator[bytes], every: float, phase: float, seconds: float
) -> "array[float]":
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(
            "/jobstatus.v1.JobStatus/BatchWrite", response_deserializer=pb.BatchWriteResponse.FromString
        )

        async def ask() -> None:
            response: pb.BatchWriteResponse = await call(next(batches))
            if refused := [result.error for result in response.result if result.HasField("error")]:
                raise RuntimeError(f"writes were refused: {refused[:1]}")

        return await at_pace(ask, every, phase, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("polls", "writes"))
    parser.add_argument("port", type=int)
    parser.add_argument("of", help="polls: a file of whole requests, one behind the other; writes: begin of job ids")
    parser.add_argument("rate", type=float, help="a second")
    parser.add_argument("seconds", type=float)
    parser.add_argument("--connections", type=int, default=16, help="of polls")
    options = parser.parse_args()
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    if options.what == "polls":
        work = poll(options.port, Path(options.of).read_bytes(), options.rate, options.connections, options.seconds)
    else:
        work = write(options.port, options.of, options.rate, options.seconds)
    print(json.dumps(asyncio.Runner(loop_factory=uvloop.new_event_loop).run(work)))


if __name__ == "__main__":
    main()
