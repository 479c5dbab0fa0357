"""The loads over HTTP: requests without end, readers that are slow or never read, connections alone."""

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import count, cycle
from typing import Final, cast

from harness.answer_reader import AnswerReader
from harness.flood.plan import Outcome, Plan, Run, connected, request_maker

RETRY_SECONDS: Final = 0.1
"""A connection that was closed without an answer is made again after so long."""
REFUSED_SECONDS: Final = 10.0
"""A connection that says nothing is made again after so long, so that ten thousand refused ones are 1,000 a second."""
SPARE_FILES: Final = 200
SLOW_BYTES: Final = 16 * 1024
"""What a slow reader takes each time, and has room for."""
SLOW_SECONDS: Final = 0.25
_GOOD: Final = b"HTTP/1.1 200"
PIPELINED: Final = 200
"""Requests in one write of those who never read."""


class Asker(asyncio.Protocol):
    """A connection that asks as soon as it has its answer, and is made again when it is lost."""

    def __init__(self, plan: Plan, make: Callable[[], bytes], outcome: Outcome) -> None:
        self._plan = plan
        self._make = make
        self._outcome = outcome
        self._reader = AnswerReader(head_only=plan.head_only)
        self._transport: asyncio.Transport | None = None
        self._is_asking = False
        self._has_answer = False

    async def connect(self) -> "Asker":
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._plan.http_port)
        except OSError as error:
            self._outcome.answers[type(error).__name__] += 1
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._reader = AnswerReader(head_only=self._plan.head_only)
        self._has_answer = False
        if self._is_asking:
            self.ask()

    def data_received(self, data: bytes) -> None:
        for status in self._reader.feed(data):
            self._has_answer = True
            self._outcome.count += 1
            self._outcome.answers[str(status)] += 1
            if self._is_asking:
                self.ask()

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if not self._is_asking:
            return
        if not self._has_answer:
            self._outcome.answers["closed"] += 1
        asyncio.get_running_loop().call_later(0 if self._has_answer else RETRY_SECONDS, self._again)

    def ask(self) -> None:
        """Ask, now and after each answer."""
        self._is_asking = True
        if self._transport is None:
            self._again()
        else:
            self._transport.write(self._make())

    def stop(self) -> None:
        self._is_asking = False

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _again(self) -> None:
        if self._is_asking:
            self._task = asyncio.ensure_future(self.connect())


@asynccontextmanager
async def requests(plan: Plan) -> AsyncIterator[Run]:
    """Ask on so many connections, on each as soon as it has its answer."""
    outcome, makers = Outcome(), cycle(map(request_maker, plan.requests))
    askers = await connected(plan.connections, lambda: Asker(plan, next(makers), outcome).connect())

    async def run() -> Outcome:
        for asker in askers:
            asker.ask()
        await asyncio.sleep(plan.seconds)
        for asker in askers:
            asker.stop()
        return outcome

    yield run
    for asker in askers:
        asker.close()


# --- clients that read slowly, or never ---


async def _socket(plan: Plan, *, room: int = 0) -> socket.socket:
    """Return a connection; `room` bounds what the kernel takes for it without anybody reading."""
    made = socket.socket()
    made.setblocking(False)
    if room:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", plan.http_port))
    return made


async def end_after(seconds: float, tasks: Iterable[asyncio.Task[None]]) -> None:
    """Let the tasks go on for so long."""
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def slow(plan: Plan) -> AsyncIterator[Run]:
    """Ask for something large, read it slowly, and ask again whenever that has ended."""
    outcome, make = Outcome(), request_maker(plan.requests[0])

    async def read_one(made: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(made, make())
        data = await loop.sock_recv(made, SLOW_BYTES)
        outcome.count += 1
        outcome.answers[data[9:12].decode("latin-1") or "closed"] += 1
        is_good = data.startswith(_GOOD)
        while data and is_good:
            await asyncio.sleep(SLOW_SECONDS)
            data = await loop.sock_recv(made, SLOW_BYTES)

    async def read_slowly() -> None:
        while True:
            try:
                with await _socket(plan, room=SLOW_BYTES) as made:
                    await read_one(made)
            except OSError as error:
                outcome.answers[type(error).__name__] += 1
            await asyncio.sleep(RETRY_SECONDS)

    async def run() -> Outcome:
        tasks = [asyncio.create_task(read_slowly()) for _ in range(plan.connections)]
        await end_after(plan.seconds, tasks)
        return outcome

    yield run


@asynccontextmanager
async def unread(plan: Plan) -> AsyncIterator[Run]:
    """Send requests one behind the other, and never read an answer.

    Every other connection sends the first request as long as it may, so that it ends within one. The rest send the
    second one for a while, and end with a whole one. The connections stay when the load has ended.
    """
    outcome = Outcome()
    endless, whole = ([request_maker(request)() for _ in range(PIPELINED)] for request in plan.requests)
    sockets = await connected(plan.connections, lambda: _socket(plan, room=SLOW_BYTES))

    async def write(made: socket.socket, pipelined: Sequence[bytes], writes: Iterable[int]) -> None:
        data = b"".join(pipelined)
        try:
            for _ in writes:
                await asyncio.get_running_loop().sock_sendall(made, data)
                outcome.count += len(pipelined)
        except OSError as error:
            outcome.answers[type(error).__name__] += 1

    async def run() -> Outcome:
        tasks = [asyncio.create_task(write(made, endless, count())) for made in sockets[::2]]
        tasks += [asyncio.create_task(write(made, whole, (1,))) for made in sockets[1::2]]
        await end_after(plan.seconds, tasks)
        return outcome

    yield run
    for made in sockets:
        made.close()


# --- connections alone ---


class Holder(asyncio.Protocol):
    """A connection that says nothing, and is made again when it is closed."""

    def __init__(self, plan: Plan, outcome: Outcome, is_over: asyncio.Event) -> None:
        self._plan = plan
        self._outcome = outcome
        self._is_over = is_over
        self._status = ""
        self._transport: asyncio.Transport | None = None

    async def connect(self) -> "Holder":
        self._status = ""
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._plan.http_port)
            self._outcome.count += 1
        except OSError as error:
            self._outcome.answers[type(error).__name__] += 1
            self._later()
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._status = self._status or data[9:12].decode("latin-1")

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._outcome.answers[self._status or "closed"] += 1
        self._later()

    def _later(self) -> None:
        if not self._is_over.is_set():
            asyncio.get_running_loop().call_later(REFUSED_SECONDS, self._again)

    def _again(self) -> None:
        if not self._is_over.is_set():
            self._task = asyncio.ensure_future(self.connect())


@asynccontextmanager
async def connects(plan: Plan) -> AsyncIterator[Run]:
    """Hold as many connections as one may, say nothing on them, and make each again that is closed."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcome, is_over = Outcome(), asyncio.Event()
    holders = [Holder(plan, outcome, is_over) for _ in range(min(plan.connections, files - SPARE_FILES))]
    waiting = iter(holders)

    async def run() -> Outcome:
        await connected(len(holders), lambda: next(waiting).connect())
        await asyncio.sleep(plan.seconds)
        is_over.set()
        return outcome

    yield run
    for holder in holders:
        holder.close()
