"""Merges the writes of several callers into batches: what comes while one batch is under way is in the next one.

A batched write costs the service a fraction of a single one, because most of a single one is gRPC. A caller alone uses
the single call, at once, so it gains no latency. Otherwise its write waits for the end of the batch that is under way,
at most `MergeLimits.wait_seconds`: a batch that hangs delays the others no longer than that.

Each caller awaits its own future, with its own deadline, so cancelling one does not affect the others. A batch that
fails as a whole is not repeated: each of its writes is repeated alone, so a write that a service or a proxy cannot take
harms no other one. Large writes are called alone, and no batch is large (see `MergeLimits.max_batch_bytes`).
"""

import asyncio
import logging
from collections.abc import Hashable, Iterable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from jobstatus.client import errors
from jobstatus.client.channel import Metadata, ServiceChannel, in_time
from jobstatus.client.turns import JobTurns
from jobstatus.client.writes import KINDS, Write, WriteKind, operation_of
from jobstatus.core.errors import Overloaded
from jobstatus.core.job import Job
from jobstatus.rpc.messages import job_from_message
from jobstatus.v1 import job_status_pb2 as pb

OF_ONE_WRITE: Final = frozenset({"traceparent", "tracestate"})
"""Metadata that belongs to one write, and does not keep it apart from others. A batch carries none of it."""

_UNKNOWN_CALL: Final = (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED)
"""What is answered where a batch is not known, or not allowed: by a service too old for it, or by a proxy."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeLimits:
    """When writes are merged, and how many."""

    single_calls: int = 2
    """So many writes are called alone. Those that come while as many are under way are merged."""
    wait_seconds: float = 0.02
    """How long a write waits for others at most."""
    turn_seconds: float = 0.5
    """How long a write waits for an earlier one of the same job at most."""
    max_write_bytes: int = 16 * 1024
    """A larger write is called alone."""
    max_batch_writes: int = 500
    """As many jobs with the longest messages fit into one answer."""
    max_batch_bytes: int = 60 * 1024
    """Less than what the service takes for a large message, which may be refused while small ones are taken."""
    max_held_writes: int = 20_000
    """Of writes that wait, or are under way in a batch. A further one is Overloaded, and retried as such."""
    max_held_bytes: int = 64 * 1024 * 1024
    single_seconds: float = 300.0
    """For how long no batch is tried after one was answered with UNIMPLEMENTED or PERMISSION_DENIED."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A write that waits for a batch, or is under way in one."""

    operation: pb.Operation
    size: int
    metadata: Metadata
    ends_at: float
    """The loop's time when its caller stops waiting."""
    future: "asyncio.Future[pb.OperationResult | Exception | None]"
    """What the batch answered, or why it failed; None: the write is to be called alone."""


@dataclass(slots=True, eq=False)
class _Call:
    """A write from its first try to its last."""

    kind: WriteKind
    request: Message
    size: int
    is_alone: bool = field(default=False)
    """Whether its further tries are single calls, because a batch with it has failed."""


class WriteMerger:
    """Sends the writes of a client. Its methods are called on the event loop of the channel."""

    def __init__(
        self,
        channel: ServiceChannel,
        *,
        is_on: bool = True,
        limits: MergeLimits = MergeLimits(),
    ) -> None:
        self._channel = channel
        self._is_on = is_on
        self._limits = limits
        self._singles = 0
        """Single calls under way that others wait for."""
        self._batches: set[asyncio.Task[None]] = set()
        self._waiting: list[Waiting] = []
        self._waiting_bytes = 0
        self._held_writes = self._held_bytes = 0
        self._sending: asyncio.Handle | None = None
        """Sends what waits in the next turn of the event loop."""
        self._timer: asyncio.TimerHandle | None = None
        self._turns = JobTurns(limits.turn_seconds)
        self._single_until = 0.0

    async def apply(self, command: Write, *, limit_seconds: float | None = None) -> Job:
        """Return the job as the write left it, without its result. Raises and retries as `ServiceChannel.call` does."""
        kind = KINDS[type(command)]
        request = kind.request(command)
        if not self._is_on:
            method = getattr(self._channel.jobs, kind.rpc)
            return job_from_message((await self._channel.call(method, request, limit_seconds=limit_seconds)).job)
        call = _Call(kind, request, request.ByteSize())
        limit_seconds = self._channel.timeout_seconds if limit_seconds is None else limit_seconds
        async with self._turns.turn_of(command.job_id, limit_seconds) as left_seconds:
            return await self._channel.retried(lambda seconds: self._try(call, seconds), left_seconds)

    async def close(self) -> None:
        """Cancel what waits and what is under way, as closing the channel does with single calls."""
        self._is_on = False
        self._stop_timers()
        for waiting in self._waiting:
            waiting.future.cancel()
        for batch in self._batches:
            batch.cancel()
        await asyncio.gather(*self._batches, return_exceptions=True)

    async def _try(self, call: _Call, seconds: float) -> Job:
        """Try a write once, in a batch or alone."""
        if call.is_alone or call.size > self._limits.max_write_bytes or not self._merges():
            return await self._call_alone(call, seconds)
        if not (self._waiting or self._sending or self._batches) and self._singles < self._limits.single_calls:
            return await self._call_single(call, seconds)
        ends_at = asyncio.get_running_loop().time() + seconds
        outcome = await self._answer_of(self._admit(call, ends_at), seconds)
        left_seconds = ends_at - asyncio.get_running_loop().time()
        if outcome is None:
            return await self._call_single(call, left_seconds)
        if isinstance(outcome, Exception):
            call.is_alone = True
            if isinstance(outcome, grpc.aio.AioRpcError):
                failure = self._channel.failure(outcome, call.request)
                if self._channel.may_help(failure):
                    raise failure from outcome
            return await self._call_alone(call, left_seconds)
        if outcome.HasField("error"):
            raise errors.from_operation(outcome.error) from errors.cause_of(outcome.error)
        if is_shortened(outcome.job):
            return await self._call_alone(call, left_seconds)
        return job_from_message(outcome.job)

    def _merges(self) -> bool:
        return self._is_on and asyncio.get_running_loop().time() >= self._single_until

    async def _call_alone(self, call: _Call, seconds: float) -> Job:
        method = getattr(self._channel.jobs, call.kind.rpc)
        return job_from_message((await self._channel.call_once(method, call.request, seconds)).job)

    async def _call_single(self, call: _Call, seconds: float) -> Job:
        """Call it alone; those that come meanwhile may wait for its end."""
        self._singles += 1
        try:
            return await self._call_alone(call, seconds)
        finally:
            self._singles -= 1
            if self._waiting and not self._batches:
                self._send_soon()

    def _admit(self, call: _Call, ends_at: float) -> Waiting:
        """Have the write wait for the next batch. Raises Overloaded when too much is held already."""
        limits, loop = self._limits, asyncio.get_running_loop()
        if self._held_writes >= limits.max_held_writes or self._held_bytes + call.size > limits.max_held_bytes:
            raise Overloaded
        operation = operation_of(call.kind, call.request)
        waiting = Waiting(operation, call.size, self._channel.metadata(), ends_at, loop.create_future())
        self._held_writes += 1
        self._held_bytes += call.size
        self._waiting.append(waiting)
        self._waiting_bytes += call.size
        if len(self._waiting) >= limits.max_batch_writes or self._waiting_bytes >= limits.max_batch_bytes:
            self._send_soon()
        elif self._timer is None and self._sending is None:
            self._timer = loop.call_later(limits.wait_seconds, self._send_waiting)
        return waiting

    async def _answer_of(self, waiting: Waiting, seconds: float) -> pb.OperationResult | Exception | None:
        try:
            async with asyncio.timeout(seconds):
                return await waiting.future
        except TimeoutError:
            return errors.deadline_exceeded()

    def _send_soon(self) -> None:
        """Send what waits in the next turn of the event loop, with what those write who are answered in this one."""
        if self._sending is None and self._is_on:
            self._sending = asyncio.get_running_loop().call_soon(self._send_waiting)

    def _send_waiting(self) -> None:
        self._stop_timers()
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for gone in (each for each in waiting if each.future.done()):
            self._release((gone,))
        for batch in batches_of([each for each in waiting if not each.future.done()], self._limits):
            if len(batch) == 1:
                batch[0].future.set_result(None)
                self._release(batch)
                continue
            # A context of its own, because it belongs to none of its callers.
            sending = asyncio.get_running_loop().create_task(
                self._send(batch), name="jobstatus-batch", context=Context()
            )
            self._batches.add(sending)

    def _stop_timers(self) -> None:
        for handle in (self._timer, self._sending):
            if handle is not None:
                handle.cancel()
        self._timer = self._sending = None

    async def _send(self, batch: list[Waiting]) -> None:
        """Call BatchWrite, and give each of its writes its outcome."""
        try:
            outcomes = await self._outcomes_of(batch)
            for waiting, outcome in zip(batch, outcomes, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(outcome)
        finally:
            for waiting in batch:
                waiting.future.cancel()  # which changes nothing for one that has its outcome
            self._release(batch)
            with suppress(KeyError):
                self._batches.remove(asyncio.current_task())  # type: ignore[arg-type]  # it runs in a task
            self._send_soon()

    async def _outcomes_of(self, batch: list[Waiting]) -> "list[pb.OperationResult | Exception | None]":
        request = pb.BatchWriteRequest(operation=[waiting.operation for waiting in batch])
        seconds = max(waiting.ends_at for waiting in batch) - asyncio.get_running_loop().time()
        metadata = [pair for pair in batch[0].metadata if pair[0] not in OF_ONE_WRITE]
        try:
            response = await in_time(
                self._channel.jobs.BatchWrite(request, timeout=seconds, metadata=metadata), seconds
            )
        except Exception as error:  # noqa: BLE001 (an interceptor may raise anything; each write is then called alone)
            if not isinstance(error, grpc.aio.AioRpcError) or error.code() in _UNKNOWN_CALL:
                self._stop_merging(error)
            return [error] * len(batch)
        if len(response.result) != len(batch):
            return [None] * len(batch)
        return list(response.result)

    def _stop_merging(self, error: Exception) -> None:
        self._single_until = asyncio.get_running_loop().time() + self._limits.single_seconds
        _logger.warning(
            "Writes are sent one by one, because a batch was refused: %s",
            error.code().name if isinstance(error, grpc.aio.AioRpcError) else repr(error),
            extra={"event": "writes_not_merged"},
        )

    def _release(self, batch: Iterable[Waiting]) -> None:
        for waiting in batch:
            self._held_writes -= 1
            self._held_bytes -= waiting.size


def batches_of(waiting: Iterable[Waiting], limits: MergeLimits) -> list[list[Waiting]]:
    """Return the writes as batches within the limits, in order. Those of one batch carry the same metadata."""
    batches: list[list[Waiting]] = []
    open_ones: dict[Hashable, tuple[list[Waiting], int]] = {}
    for each in waiting:
        key = tuple(pair for pair in each.metadata if pair[0] not in OF_ONE_WRITE)
        batch, size = open_ones.get(key, (None, 0))
        if batch is None or len(batch) == limits.max_batch_writes or size + each.size > limits.max_batch_bytes:
            batch, size = [], 0
            batches.append(batch)
        batch.append(each)
        open_ones[key] = batch, size + each.size
    return batches


def is_shortened(job: Any) -> bool:
    """Return whether the answer of a batch was too large for the job's error, which every failed job has."""
    return job.state == pb.JOB_STATE_FAILED and not job.HasField("error")
