"""The real gRPC server over a store in memory, with a clock of its own and faults in front of the real servicer."""

import asyncio
import math
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import timedelta
from typing import Any, cast

from jobstatus.core import errors
from jobstatus.core.rules import Policy
from jobstatus.core.tracker import JobTracker
from jobstatus.rpc.job_status import JobStatusServicer
from jobstatus.rpc.server import RpcServer
from jobstatus.rpc.virtual_keys import VirtualKeysServicer
from jobstatus.stores.memory import MemoryJobStore
from jobstatus.telemetry.metrics import Metrics

from harness.tracking import timekeeper

LIMIT_SECONDS = 60
SHORTEST_LEASE = timedelta(seconds=1)
NOW_MS = 1_800_000_000_000


class Stage:
    """The real servicer, which remembers what it was asked, and fails or waits when it is told to."""

    def __init__(self, servicer: JobStatusServicer) -> None:
        self._servicer = servicer
        self.requests: defaultdict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)
        self.failures: defaultdict[str, deque[Exception]] = defaultdict(deque)
        self.gates: dict[str, asyncio.Event] = {}
        self.answers_before_break = math.inf

    def __getattr__(self, name: str) -> Callable[[Any], Awaitable[Any]]:
        async def serve(request: Any) -> Any:
            await self._meet(name, request)
            return await getattr(self._servicer, name)(request)

        return serve

    async def WatchJob(self, request: Any) -> AsyncGenerator[Any, None]:  # noqa: N802 (gRPC's name)
        await self._meet("WatchJob", request)
        async with aclosing(self._servicer.WatchJob(request)) as answers:
            async for answer in answers:
                if self.answers_before_break <= 0:
                    self.answers_before_break = math.inf
                    raise errors.ShuttingDown
                self.answers_before_break -= 1
                yield answer

    async def _meet(self, name: str, request: Any) -> None:
        self.requests[name].put_nowait(request)
        if name in self.gates:
            await self.gates[name].wait()
        if self.failures[name]:
            raise self.failures[name].popleft()

    async def next_request(self, name: str) -> Any:
        return await asyncio.wait_for(self.requests[name].get(), LIMIT_SECONDS)


class StagedService:
    """A running server, its clock and its stage."""

    def __init__(self, *, max_watchers: int = 10_000) -> None:
        self.now_ms = NOW_MS
        self.store, self.metrics = MemoryJobStore(), Metrics()
        self.tracker = JobTracker(
            self.store, clock=timekeeper(self.clock), policy=Policy(), observer=self.metrics, max_watchers=max_watchers
        )
        self.stage = Stage(JobStatusServicer(self.tracker, max_result_bytes=1024))
        self.target = "127.0.0.1:0"

    async def start(self) -> None:
        """Serve, on the port that it was the last time."""
        self.server = RpcServer(
            job_status=cast("JobStatusServicer", self.stage),
            virtual_keys=VirtualKeysServicer(store=self.store, clock=self.clock, on_change=lambda: None),
            metrics=self.metrics,
            max_result_bytes=1024,
            tls=None,
            with_reflection=False,
        )
        self.target = f"127.0.0.1:{await self.server.start(self.target)}"

    def clock(self) -> int:
        return self.now_ms

    async def job(self, job_id: str) -> Any:
        return await self.tracker.get(job_id)
