"""The loads that need gRPC: many who wait for one job, and results that are costly to check."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, cast

import grpc
from jobstatus.v1 import job_status_pb2 as pb
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub

from benchmarks.http2 import frame, header_blocks
from harness.flood.plan import Outcome, Plan, Run, connected, request_maker
from harness.jobs import creation, heartbeat
from harness.waiting import until

STREAMS_EACH: Final = 100
"""Watches on one connection."""
PAUSE_SECONDS: Final = 0.05
"""After a result that was refused."""
_OWN_CONNECTION: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1))
EVENTS: Final = "text/event-stream"
_EVENT: Final = b"event: status"


# --- many who wait for one job ---


class Waiting(asyncio.Protocol):
    """A wait, or an event stream: sends its request, and counts answers, events and the end of its connection."""

    def __init__(self, request: bytes, outcome: Outcome) -> None:
        self._request = request
        self._outcome = outcome
        self._is_first = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        if self._is_first:
            self._is_first = False
            self._outcome.answers[data[9:12].decode("latin-1")] += 1
        self._outcome.answers["events"] += data.count(_EVENT)

    def connection_lost(self, _: Exception | None) -> None:
        self._outcome.answers["closed"] += 1


@asynccontextmanager
async def held(plan: Plan) -> AsyncIterator[Run]:
    """Wait on so many connections for one job, which gets heartbeats."""
    outcome, make = Outcome(), request_maker(plan.requests[0])
    loop = asyncio.get_running_loop()

    def connect() -> Any:
        return loop.create_connection(lambda: Waiting(make(), outcome), "127.0.0.1", plan.http_port)

    made = await connected(plan.connections, connect)
    if EVENTS in plan.requests[0]:  # polls that wait have no answer yet
        await until(lambda: outcome.answers["events"] + outcome.answers["closed"] >= plan.connections)
    yield _beating(plan, outcome)
    _close(made)


def _close(made: Iterable[tuple[asyncio.Transport, asyncio.Protocol]]) -> None:
    for transport, _ in made:
        transport.abort()


def _beating(plan: Plan, outcome: Outcome) -> Run:
    """Heartbeats for the job, each with another progress."""

    async def run() -> Outcome:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{plan.grpc_port}") as channel:
            stub = JobStatusStub(channel)
            beats = round(plan.seconds * plan.beats)
            began = time.monotonic()
            for number in range(beats):
                await asyncio.sleep(max(0.0, began + number / plan.beats - time.monotonic()))
                await stub.HeartbeatJob(heartbeat(plan.job_id, progress=(number + 1) / (beats + 1)))
                outcome.count += 1
            await asyncio.sleep(max(0.0, began + plan.seconds - time.monotonic()))
        return outcome

    return run


class Watching(asyncio.Protocol):
    """One connection of HTTP/2 (RFC 9113) with many watches, which counts what they are sent.

    Its windows are so wide that none needs to be widened: what a watch is sent in ten seconds is small.
    """

    _DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
    _ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
    _WIDEST = 2**31 - 1
    _WINDOW = 65_535

    def __init__(self, job_id: str, outcome: Outcome) -> None:
        message = pb.WatchJobRequest(job_id=job_id).SerializeToString()
        self._message = struct.pack(">BI", 0, len(message)) + message
        self._outcome = outcome
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        first, later = header_blocks("/jobstatus.v1.JobStatus/WatchJob")
        out = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            frame(self._SETTINGS, 0, 0, struct.pack(">HIHI", 2, 0, 4, self._WIDEST)),
            frame(self._WINDOW_UPDATE, 0, 0, struct.pack(">I", self._WIDEST - self._WINDOW)),
        ]
        for number in range(STREAMS_EACH):
            stream = 1 + 2 * number
            out.append(frame(self._HEADERS, self._END_HEADERS, stream, later if number else first))
            out.append(frame(self._DATA, self._END_STREAM, stream, self._message))
        self._transport.write(b"".join(out))

    def data_received(self, data: bytes) -> None:
        received, at = self._received + data if self._received else data, 0
        while len(received) >= at + 9:
            size = int.from_bytes(received[at : at + 3], "big")
            if len(received) < at + 9 + size:
                break
            self._on_frame(received[at + 3], received[at + 4], received[at + 9 : at + 9 + size])
            at += 9 + size
        self._received = received[at:]

    def _on_frame(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == self._DATA:
            self._outcome.answers["events"] += 1
        elif kind in (self._SETTINGS, self._PING) and not flags & self._ACK and self._transport is not None:
            self._transport.write(frame(kind, self._ACK, 0, payload if kind == self._PING else b""))
        elif kind == self._HEADERS and flags & self._END_STREAM:
            self._outcome.answers["ended"] += 1
        elif kind in (self._RESET, self._GO_AWAY):
            self._outcome.answers["reset"] += 1


@asynccontextmanager
async def watches(plan: Plan) -> AsyncIterator[Run]:
    """Watch one job over gRPC, on connections of many watches each; `connections` is how many watches there are."""
    outcome, loop = Outcome(), asyncio.get_running_loop()
    connections = -(-plan.connections // STREAMS_EACH)
    made = await connected(
        connections, lambda: loop.create_connection(lambda: Watching(plan.job_id, outcome), "127.0.0.1", plan.grpc_port)
    )
    await until(lambda: outcome.answers["events"] + outcome.answers["ended"] >= connections * STREAMS_EACH)
    outcome.answers.clear()
    yield _beating(plan, outcome)
    _close(made)


# --- results ---


def _repeated(head: bytes, part: bytes, tail: bytes, size: int) -> bytes:
    """Return the part as often as there is room, with commas between."""
    count = max(1, (size - len(head) - len(tail)) // (len(part) + 1))
    return head + b",".join([part] * count) + tail


def _keys(size: int) -> bytes:
    return b"{" + b",".join(b'"%08x":1' % number for number in range(size // 13)) + b"}"


SHAPES: Final[dict[str, Callable[[int], bytes]]] = {
    "text": lambda size: b'{"text":"' + b"x" * (size - 11) + b'"}',
    "empty arrays": lambda size: _repeated(b"[", b"[]", b"]", size),
    "arrays in arrays": lambda size: _repeated(b"[", b"[" * 98 + b"]" * 98, b"]", size),
    "numbers": lambda size: _repeated(b"[", b"1", b"]", size),
    "fractions": lambda size: _repeated(b"[", b"1.5e3", b"]", size),
    "long numbers": lambda size: _repeated(b"[", b"1" * 300, b"]", size),
    "short strings": lambda size: _repeated(b"[", b'""', b"]", size),
    "objects": lambda size: _repeated(b"[", b'{"a":1}', b"]", size),
    "keys of one object": _keys,
    "escapes": lambda size: b'{"text":"' + b"\\u0041" * ((size - 11) // 6) + b'"}',
    "text in Greek": lambda size: b'{"text":"' + "λ".encode() * ((size - 11) // 2) + b'"}',
    "blanks": lambda size: b"[" + b" " * (size - 2) + b"]",
    "too deep": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "never closed": lambda size: b"[" * size,
    "a word at its end": lambda size: _repeated(b"[", b"[]", b",word]", size),
}
"""Results of about so many bytes, each costly to check in another manner; the last three are refused."""


@asynccontextmanager
async def results(plan: Plan) -> AsyncIterator[Run]:
    """Write results of these shapes, so many at a time, over and over, each for a new job."""
    outcome = Outcome()
    shapes = {name: SHAPES[name](plan.result_bytes) for name in plan.shapes}
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{plan.grpc_port}", _OWN_CONNECTION) for _ in range(plan.connections)
    ]
    for channel in channels:
        await channel.channel_ready()
    is_over = False

    async def write(channel: grpc.aio.Channel, writer: int) -> None:
        number, names = 0, list(shapes)
        while not is_over or number < len(names) // plan.connections:  # each shape once at least
            job_id, shape = f"{plan.prefix}-{writer}-{number}", names[number % len(names)]
            number += 1
            await _write(channel, job_id, shape, shapes[shape], outcome)

    async def run() -> Outcome:
        nonlocal is_over
        tasks = [asyncio.create_task(write(channel, writer)) for writer, channel in enumerate(channels)]
        await asyncio.sleep(plan.seconds)
        is_over = True
        await asyncio.gather(*tasks)
        return outcome

    yield run
    for channel in channels:
        await channel.close()


async def _write(channel: grpc.aio.Channel, job_id: str, shape: str, result: bytes, outcome: Outcome) -> None:
    """Create a job and complete it; note how that was answered, and when the result was under way."""
    complete: Any = channel.unary_unary("/jobstatus.v1.JobStatus/CompleteJob")
    began = time.monotonic()
    try:
        await JobStatusStub(channel).CreateJob(creation(job_id))
        began = time.monotonic()
        await complete(pb.CompleteJobRequest(job_id=job_id, result=result).SerializeToString())
        outcome.answers["OK"] += 1
    except grpc.aio.AioRpcError as error:
        outcome.answers[error.code().name] += 1
        await asyncio.sleep(PAUSE_SECONDS)
    outcome.count += 1
    outcome.spans.append((shape, began, time.monotonic()))
