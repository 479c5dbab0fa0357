"""Clients of a service whose store fails for a while: they wait before they repeat, and note what was refused when."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
from jobstatus.v1.job_status_pb2_grpc import JobStatusStub

from harness.history import History
from harness.http import request
from harness.load import CHANNEL_OPTIONS, TRIES, Load, seen_in_body, until_cancelled
from harness.waiting import until

PAUSE_SECONDS: Final = 0.1
"""How long clients wait before they repeat what the store could not do."""
POLLERS: Final = 10
LIMIT_SECONDS: Final = 60.0
READS: Final = ("GetJob", "BatchGetJobs")


@dataclass(frozen=True, slots=True)
class Polled:
    """One poll: of which job, when it was asked and how long it took, and how it was answered."""

    job_id: str
    at: float
    seconds: float
    status: int


@dataclass(frozen=True, slots=True)
class Written:
    """One call that writes: of which job, when it ended, how, and how long it took."""

    job_id: str
    at: float
    code: grpc.StatusCode
    seconds: float


class _Calls(grpc.aio.UnaryUnaryClientInterceptor):
    """A store that is down says so at once: whoever repeats at once would use up its tries."""

    def __init__(self, written: list[Written]) -> None:
        self._written = written

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        began = time.monotonic()
        call = await continuation(client_call_details, request)
        code = await call.code()
        method = client_call_details.method
        if (method if isinstance(method, str) else method.decode()).rpartition("/")[2] not in READS:
            now = time.monotonic()
            self._written.append(Written(getattr(request, "job_id", ""), now, code, now - began))
        if code is grpc.StatusCode.UNAVAILABLE:
            await asyncio.sleep(PAUSE_SECONDS)
        return call


class _Streams(grpc.aio.UnaryStreamClientInterceptor):
    """The same for watches."""

    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> AsyncIterator[Any]:
        call = await continuation(client_call_details, request)

        async def messages() -> AsyncIterator[Any]:
            try:
                async for message in call:
                    yield message
            except grpc.aio.AioRpcError:
                await asyncio.sleep(PAUSE_SECONDS)
                raise

        return messages()


class PatientLoad(Load):
    """A poll may be answered 503, with Retry-After; `polls` and `written` tell how calls ended, in that order."""

    def __init__(
        self, history: History, chance: random.Random, *, http_port: int, grpc_port: int, tries: int = TRIES
    ) -> None:
        super().__init__(history, chance, http_port=http_port, grpc_port=grpc_port, tries=tries)
        self._port = http_port
        self.polls: list[Polled] = []
        self.written: list[Written] = []
        interceptors = [_Calls(self.written), _Streams()]
        patient = [
            grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}", options=CHANNEL_OPTIONS, interceptors=interceptors)
            for _ in self._channels
        ]
        self._stubs = itertools.cycle([JobStatusStub(channel) for channel in patient])
        self._channels += patient

    async def poll(self) -> None:
        if not self.created:
            await asyncio.sleep(PAUSE_SECONDS)  # there is nothing to wait on but the first job
            return
        job_id = self._chance.choice(self.created[-2000:])
        began = time.monotonic()
        call = self.history.begin("poll", job_id)
        try:
            answer = await request(self._port, f"/v1/async/audio/transcriptions/{job_id}", self._authorization)
        except TimeoutError:
            self.history.end(call, "unknown")
            self.history.faults.append(f"{job_id}: a poll got no answer in {time.monotonic() - began:.0f} s")
            return
        self.polls.append(Polled(job_id, began, time.monotonic() - began, answer.status))
        if answer.status == 503:
            self.history.end(call, "unknown")
            if not answer.headers.get("retry-after", "").isdecimal():
                self.history.faults.append(f"{job_id}: a 503 came without Retry-After")
        else:
            if answer.status not in (200, 202, 404):
                self.history.faults.append(f"{job_id}: a poll was answered {answer.status}")
            self.history.end(call, "ok", seen_in_body(answer))
        await asyncio.sleep(0.02)  # pollers pause; and the writers need the machine


@asynccontextmanager
async def clients(load: Load, names: Iterator[str], writers: int) -> AsyncIterator[None]:
    """Writers and pollers, at work while the context lasts; writers end what they have begun."""
    stopping = asyncio.Event()
    pollers = [asyncio.ensure_future(until_cancelled(load.poll)) for _ in range(POLLERS)]
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(writers):
                group.create_task(_write(load, names, stopping))
            try:
                yield
            finally:
                stopping.set()
    finally:
        for poller in pollers:
            poller.cancel()
        outcomes = await asyncio.gather(*pollers, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


async def _write(load: Load, names: Iterator[str], stopping: asyncio.Event) -> None:
    while not stopping.is_set():
        await load.live([next(names)])


async def ended(load: Load, more: int) -> None:
    """Return when so many more jobs have ended."""
    enough = load.ended + more
    await until(lambda: load.ended >= enough, LIMIT_SECONDS)


def writes_in_words(history: History) -> str:
    """How the writes ended."""
    counts: Counter[str] = Counter()
    for (kind, ending), count in history.count().items():
        counts[ending] += count if kind not in ("poll", "get", "look", "watch") else 0
    return (
        f"{counts['ok']:,} writes acknowledged, {counts['refused']:,} refused for good,"
        f" {counts['unknown']:,} without an answer and repeated"
    )
