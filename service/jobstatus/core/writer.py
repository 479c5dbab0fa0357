"""Turns concurrent writes into batches: what arrives during one commit is in the next one.

Every store gets group commit from here: `write_queue` forms the batches, `write_round` decides and commits them, and
commands that lost a race against another process are decided again. Each caller awaits its own future, so cancelling
one does not affect the others; a batch that has begun is finished by the writer's own task.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence

from jobstatus.core import rules
from jobstatus.core.commands import Command
from jobstatus.core.errors import Overloaded
from jobstatus.core.observer import Observer
from jobstatus.core.store import JobStore
from jobstatus.core.timekeeper import Timekeeper
from jobstatus.core.write_queue import Outcome, Submission, WriteQueue, WriterLimits
from jobstatus.core.write_round import WriteRound, deliver, items_of

_log = logging.getLogger(__name__)


class Writer:
    """The only place of a process from which jobs are changed."""

    def __init__(
        self,
        store: JobStore,
        *,
        clock: Timekeeper,
        policy: rules.Policy,
        observer: Observer,
        on_commit: Callable[[Collection[str]], None],
        limits: WriterLimits = WriterLimits(),  # noqa: B008  # a frozen value
    ) -> None:
        """Arguments as in WriteRound."""
        self._observer = observer
        self._max_rounds = limits.max_rounds
        self._queue = WriteQueue(limits)
        self._round = WriteRound(store, clock=clock, policy=policy, observer=observer, on_commit=on_commit)
        self._draining: asyncio.Task[None] | None = None

    async def write(self, commands: Sequence[Command]) -> list[Outcome]:
        """Decide the commands, each on its own, in order, in one durable commit. Return one outcome for each.

        Raises Overloaded or ShuttingDown before anything was done. An error of the store is the outcome of each command
        that wanted a change: such a command happened wholly or not at all.
        """
        if not commands:
            return []
        submission = self._queue.admit(commands)
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(), name="jobstatus-writer")
        await submission.future
        return [outcome for outcome in submission.outcomes if outcome is not None]

    async def close(self) -> None:
        """Refuse new writes with ShuttingDown, and return when all admitted ones are answered."""
        self._queue.close()
        while self._draining is not None:
            await asyncio.shield(self._draining)

    async def _drain(self) -> None:
        try:
            while self._queue:
                batch = self._queue.take()
                try:
                    await self._write(batch)
                except Exception as error:  # noqa: BLE001  # a fault of ours must not leave callers waiting forever
                    _log.exception(
                        "A batch of writes failed because of a bug of this program.",
                        extra={"event": "write_batch_failed"},
                    )
                    for submission in batch:
                        if not submission.future.done():
                            submission.future.set_exception(error)
                await self._queue.wait_for_callers(len(batch))
        finally:
            self._draining = None

    async def _write(self, batch: Sequence[Submission]) -> None:
        items = items_of(batch)
        for _ in range(self._max_rounds):
            if not items:
                return
            items = await self._round.run(items)
            if items:
                self._observer.races_lost(len(items))
        deliver(items, [Overloaded()] * len(items))
