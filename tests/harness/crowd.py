"""Many clients of a service in one process, which stays where it is and does nothing more once it has said "ready".

    python -m harness.crowd HTTP_ADDRESS GRPC_ADDRESS JOB_ID STREAMS WAITS IDLE HALVES WATCHES

Event streams, polls that wait, connections that have had an answer, halves of requests, and watches over gRPC.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import grpc
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub

from harness.tokens import admin_token

WATCHES_EACH: Final = 10
"""Watches on one connection."""
AT_A_TIME: Final = 50
READY: Final = b"ready\n"


def command(http: str, rpc: str, job_id: str, counts: Sequence[int]) -> tuple[str, ...]:
    """Return the words that start such clients; `counts` of streams, waits, idle ones, halves and watches."""
    return (sys.executable, "-P", "-m", "harness.crowd", http, rpc, job_id, *map(str, counts))


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that lets it find this module."""
    return {**own, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}


# --- in the process of the clients ---


async def main(http: str, rpc: str, job_id: str, *counts: str) -> None:
    host, _, port = http.rpartition(":")
    head = (
        f"GET /v1/async/audio/transcriptions/{job_id} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer {admin_token()}"
    )
    kinds = {
        "Accept: text/event-stream\r\n\r\n": b"event: status",
        "Prefer: wait=45\r\n\r\n": b"",
        "\r\n": b"HTTP/1.1 202",
        "X-Half: of a": b"",
    }
    places, kept = asyncio.Semaphore(AT_A_TIME), []

    async def connect(end: str, awaited: bytes) -> None:
        async with places:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"{head}\r\n{end}".encode())
            kept.append(writer)
            if awaited:
                await reader.readuntil(awaited)

    *of_http, watches = map(int, counts)
    each = zip(kinds.items(), of_http, strict=True)
    await asyncio.gather(*(connect(*kind) for kind, count in each for _ in range(count)))
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(rpc, options) for _ in range(watches // WATCHES_EACH)]
    calls = [
        JobStatusStub(channel).WatchJob(pb.WatchJobRequest(job_id=job_id))
        for channel in channels
        for _ in range(WATCHES_EACH)
    ]
    await asyncio.gather(*(call.read() for call in calls))
    sys.stdout.buffer.write(READY)
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
