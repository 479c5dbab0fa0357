"""The metrics of all workers as one set, and those about the workers: what their supervisor's admin port tells."""

import asyncio
from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.exposition import generate_latest

from jobstatus.merged_metrics import WorkersMetrics
from jobstatus.worker_process import WorkerProcess


class WorkersFigures:
    """Build and use it inside the running loop."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._told = WorkersMetrics()
        self._registry.register(self._told)
        self.up = Gauge("jobstatus_workers", "Workers that are up.", registry=self._registry)
        self.restarts = Counter(
            "jobstatus_worker_restarts", "Workers that ended and were replaced.", registry=self._registry
        )
        self._asking = asyncio.Lock()

    async def exposition(self, workers: Collection[WorkerProcess]) -> bytes:
        """What all of these tell now, in Prometheus' text format 0.0.4."""
        await self.ask(workers)
        return generate_latest(self._registry)

    async def ask(self, workers: Collection[WorkerProcess]) -> list[WorkerProcess]:
        """Have each worker tell its metrics; those that did not.

        One time after the other: what was asked for earlier must not take the place of what was asked for later.
        """
        async with self._asking:
            answers = await asyncio.gather(*(worker.ask("/metrics") for worker in workers))
            for worker, answer in zip(workers, answers, strict=True):
                if answer is None:
                    continue
                worker.misses = 0
                status, text = answer
                if status == 200 and worker.is_up:
                    self._told.tell(worker.process.pid, text)
        return [worker for worker, answer in zip(workers, answers, strict=True) if answer is None]

    def end(self, worker: WorkerProcess) -> None:
        """The worker is gone; what it had counted stays counted."""
        self._told.end(worker.process.pid)
