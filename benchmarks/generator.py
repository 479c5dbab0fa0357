"""A load generator of our own, for machines without wrk, run as a process of its own: `-m benchmarks.generator`.

Each connection asks one request after the other, as wrk does. It reads no more of an answer than its status and length.
Prints the same line of JSON as `wrk.lua`.
"""

import argparse
import asyncio
import json
import time
from array import array
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from statistics import quantiles
from typing import Final, cast

import uvloop

_END: Final = b"\r\n\r\n"


class Poller(asyncio.Protocol):
    """One keep-alive connection. `done` becomes true once the time is over, or has the error that ended it."""

    def __init__(self, requests: Iterator[bytes], ends_at: float, latencies: "array[float]") -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._requests = requests
        self._ends_at = ends_at
        self._latencies = latencies
        self._head = b""
        self._missing = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._missing -= len(data)
        else:
            self._head += data
            head, separator, body = self._head.partition(_END)
            if not separator:
                return
            if head[9:10] != b"2":
                self._end(RuntimeError(f"unexpected answer: {head!r}"))
                return
            self._missing = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) - len(body)
            self._head = b""
        if not self._missing:
            self._latencies.append(time.perf_counter() - self._asked_at)
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or RuntimeError("the server closed the connection"))

    def _ask(self) -> None:
        self._asked_at = time.perf_counter()
        if self._asked_at >= self._ends_at:
            self._end(None)
        else:
            self._transport.write(next(self._requests))

    def _end(self, error: Exception | None) -> None:
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)
            self._transport.abort()


async def generate(port: int, requests: Iterator[bytes], connections: int, seconds: float) -> dict[str, float]:
    """Ask for so long; what came of it."""
    latencies = array("d")
    started_at = time.perf_counter()
    loop = asyncio.get_running_loop()
    made = [
        loop.create_connection(lambda: Poller(requests, started_at + seconds, latencies), "127.0.0.1", port)
        for _ in range(connections)
    ]
    await asyncio.gather(*(poller.done for _, poller in await asyncio.gather(*made)))
    hundredths = quantiles(latencies, n=100)
    return {
        "requests": len(latencies),
        "seconds": time.perf_counter() - started_at,
        "failed": 0,
        "p50_ms": hundredths[49] * 1e3,
        "p99_ms": hundredths[98] * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("requests", type=Path, help="a file of whole requests, one behind the other")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    requests = cycle(request + _END for request in options.requests.read_bytes().split(_END)[:-1])
    work = generate(options.port, requests, options.connections, options.seconds)
    print(json.dumps(asyncio.Runner(loop_factory=uvloop.new_event_loop).run(work)))


if __name__ == "__main__":
    main()
