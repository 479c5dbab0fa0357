"""A client that behaves, in a process of its own: `python -m harness.good_client`.

It polls and writes at fixed times whether or not the last call has been answered, so that its latencies count from when
a call was due. A part of its polls are on new connections. A prober beside it asks for a trivial refusal again and
again: the longest time without an answer is about the longest stall of the loop that it asks.
"""

import asyncio
import os
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Final, cast

import grpc
import uvloop
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub

from harness.answer_reader import AnswerReader
from harness.jobs import completion, creation
from harness.told import say, told

HOST: Final = "127.0.0.2"
"""The address that it comes from, which is not that of the floods."""
POLLS: Final = 50
WRITES: Final = 10
CONNECTIONS: Final = 10
NEW_EVERY: Final = 5
"""Every so many polls one is on a new connection."""
PROBE_SECONDS: Final = 0.005
LARGE_SECONDS: Final = 1.0
PATIENCE_SECONDS: Final = 30.0
"""A call that has no answer by then has failed."""
WARM_SECONDS: Final = 0.5
NOTED_SECONDS: Final = 0.01
"""Probes that took longer are noted with their times."""
PROBE: Final = b"GET /v1/async/ocr/probe HTTP/1.1\r\nHost: test\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the client does. Times are in seconds, `polls` and `large` are whole requests."""

    http_port: int
    grpc_port: int
    seconds: float
    virtual_key_id: str
    polls: Sequence[str]
    large: str = ""
    """A request of a large result, which is made once a second."""
    prefix: str
    """What the ids of the jobs that it writes begin with."""


@dataclass(slots=True)
class Report:
    """What the client saw. Times are in milliseconds."""

    polls: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    large: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """How often what was answered how."""
    longest_probe: float = 0.0
    slow_probes: list[tuple[float, float]] = field(default_factory=list)
    """When those were sent that took long, on the monotonic clock, and the milliseconds that they took."""


class Line(asyncio.Protocol):
    """A connection on which requests are answered in order."""

    def __init__(self) -> None:
        self._reader = AnswerReader()
        self._awaited: deque[asyncio.Future[int]] = deque()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        for status in self._reader.feed(data):
            if self._awaited and not (answer := self._awaited.popleft()).done():
                answer.set_result(status)

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        for answer in self._awaited:
            if not answer.done():
                answer.set_exception(ConnectionResetError())
        self._awaited.clear()

    @property
    def is_lost(self) -> bool:
        return self._transport is None

    def ask(self, request: bytes) -> asyncio.Future[int]:
        """Send a request; the status of its answer. Raises ConnectionResetError where there is no connection."""
        if self._transport is None:
            raise ConnectionResetError
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._awaited.append(answer)
        self._transport.write(request)
        return answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


async def connect(port: int) -> Line:
    """Return a new connection to the service."""
    loop = asyncio.get_running_loop()
    _, line = await loop.create_connection(Line, "127.0.0.1", port, local_addr=(HOST, 0))
    return line


class GoodClient:
    """Polls, writes and probes, and notes how long each took."""

    def __init__(self, plan: Plan, lines: list[Line], stub: JobStatusStub) -> None:
        self.report = Report()
        self._plan = plan
        self._requests = [request.encode() for request in plan.polls]
        self._lines = lines
        self._stub = stub

    async def run(self, seconds: float) -> None:
        """Do everything for so long."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._at_rate(seconds, POLLS, self._poll, group))
            group.create_task(self._at_rate(seconds, WRITES, self._write, group))
            group.create_task(self._probe(seconds))
            if self._plan.large:
                group.create_task(self._at_rate(seconds, 1 / LARGE_SECONDS, self._read_large, group))

    async def _at_rate(
        self, seconds: float, rate: float, call: Callable[[int, float], Awaitable[None]], group: asyncio.TaskGroup
    ) -> None:
        began = time.perf_counter()
        for number in range(round(seconds * rate)):
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(self._noted(call, number, due))

    async def _noted(self, call: Callable[[int, float], Awaitable[None]], number: int, due: float) -> None:
        """Have a call that fails counted by the name of its failure."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await call(number, due)
        except (OSError, TimeoutError) as error:
            self.report.answers[f"{call.__name__.strip('_')} {type(error).__name__}"] += 1
        except grpc.aio.AioRpcError as error:
            self.report.answers[f"write {error.code().name}"] += 1

    async def _poll(self, number: int, due: float) -> None:
        request = self._requests[number % len(self._requests)]
        if number % NEW_EVERY:
            status = await (await self._kept(number % len(self._lines))).ask(request)
        else:
            line = await connect(self._plan.http_port)
            status = await line.ask(request)
            line.close()
        self.report.polls.append(1000 * (time.perf_counter() - due))
        self.report.answers[f"poll {status}"] += 1

    async def _kept(self, number: int) -> Line:
        """Return one of the connections that are kept, a new one in its place if it is lost."""
        if self._lines[number].is_lost:
            self._lines[number] = await connect(self._plan.http_port)
        return self._lines[number]

    async def _write(self, number: int, due: float) -> None:
        """Create a job, or complete the one before."""
        job_id = f"{self._plan.prefix}-{number // 2}"
        if number % 2:
            await self._stub.CompleteJob(completion(job_id), wait_for_ready=True)
        else:
            await self._stub.CreateJob(creation(job_id, virtual_key_id=self._plan.virtual_key_id), wait_for_ready=True)
        self.report.writes.append(1000 * (time.perf_counter() - due))
        self.report.answers["write OK"] += 1

    async def _read_large(self, _: int, due: float) -> None:
        line = await connect(self._plan.http_port)
        status = await line.ask(self._plan.large.encode())
        line.close()
        self.report.large.append(1000 * (time.perf_counter() - due))
        self.report.answers[f"large {status}"] += 1

    async def _probe(self, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        try:
            async with asyncio.timeout(seconds + PATIENCE_SECONDS):
                line = await connect(self._plan.http_port)
                while (asked_at := time.monotonic()) < ends_at:
                    if line.is_lost:
                        line = await connect(self._plan.http_port)
                    with suppress(ConnectionResetError):
                        await line.ask(PROBE)
                    self._note_probe(asked_at, time.monotonic() - asked_at)
                    await asyncio.sleep(max(0.0, asked_at + PROBE_SECONDS - time.monotonic()))
                line.close()
        except (OSError, TimeoutError) as error:
            self.report.answers[f"probe {type(error).__name__}"] += 1

    def _note_probe(self, asked_at: float, taken: float) -> None:
        self.report.longest_probe = max(self.report.longest_probe, 1000 * taken)
        if taken > NOTED_SECONDS:
            self.report.slow_probes.append((asked_at, 1000 * taken))


async def main() -> None:
    while plan := await told():
        await behave(Plan(**plan))


async def behave(plan: Plan) -> None:
    lines = [await connect(plan.http_port) for _ in range(CONNECTIONS)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{plan.grpc_port}") as channel:
        stub = JobStatusStub(channel)
        await GoodClient(replace(plan, prefix=f"{plan.prefix}-warm"), lines, stub).run(WARM_SECONDS)
        say(ready=True)
        await told()
        client = GoodClient(plan, lines, stub)
        await client.run(plan.seconds)
        say(**{each.name: getattr(client.report, each.name) for each in fields(Report)})
        await told()
    for line in lines:
        line.close()


if __name__ == "__main__":
    with suppress(PermissionError):  # only root may be preferred
        os.nice(-5)
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())
