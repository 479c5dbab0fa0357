"""Turns concurrent writes into batches: what arrives during one commit is in the next one.

Every store gets group commit from here: `write_queue` forms the batches, `write_round` decides and commits them, and
commands that lost a race against another process are decided again. Each caller awaits its own future, so cancelling
one does not affect the others; a batch that has begun is finished by the writer's own task. Parts of a store (the
primaries of a cluster) have batches of their own, so that those that are well do not wait for one that is not.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import partial

from jobstatus.core import rules
from jobstatus.core.commands import Command
from jobstatus.core.errors import Overloaded, ShuttingDown
from jobstatus.core.observer import Observer
from jobstatus.core.store import JobStore
from jobstatus.core.timekeeper import Timekeeper
from jobstatus.core.write_queue import Outcome, Submission, WriteQueue, WriterLimits
from jobstatus.core.write_round import WriteRound, deliver, items_of

_log = logging.getLogger(__name__)


class Writer:
    """The only place of a process from which jobs are changed. Each part of the store has a queue of its own."""

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
        self._part_of = store.part_of
        self._observer = observer
        self._limits = limits
        self._open_round = partial(
            WriteRound, store, clock=clock, policy=policy, observer=observer, on_commit=on_commit
        )
        self._parts: dict[Hashable, _PartWriter] = {}
        self._is_closed = False

    async def write(self, commands: Sequence[Command]) -> list[Outcome]:
        """Decide the commands, each on its own, in order, in one durable commit for each part of the store.

        Return one outcome for each command. Raises Overloaded or ShuttingDown before anything was done. An error of the
        store is the outcome of each command that wanted a change: such a command happened wholly or not at all.
        """
        if not commands:
            return []
        parts = [self._part_of(command.job_id) for command in commands]
        if parts.count(parts[0]) == len(parts):
            (submission,) = self._admit([(parts[0], commands)])
            await submission.future
            return _known(submission.outcomes)
        places_of: dict[Hashable, list[int]] = {}
        for place, part in enumerate(parts):
            places_of.setdefault(part, []).append(place)
        submissions = self._admit([(part, [commands[place] for place in places]) for part, places in places_of.items()])
        # What one part has begun the others finish, when the caller is cancelled.
        await asyncio.shield(asyncio.gather(*(submission.future for submission in submissions)))
        outcomes: list[Outcome | None] = [None] * len(commands)
        for submission, places in zip(submissions, places_of.values(), strict=True):
            for place, outcome in zip(places, submission.outcomes, strict=True):
                outcomes[place] = outcome
        return _known(outcomes)

    @property
    def queues(self) -> list[WriteQueue]:
        """The queue of each part of the store that was written to."""
        return [part.queue for part in self._parts.values()]

    async def close(self) -> None:
        """Refuse new writes with ShuttingDown, and return when all admitted ones are answered."""
        self._is_closed = True
        await asyncio.gather(*(part.close() for part in self._parts.values()))

    def _admit(self, calls: Sequence[tuple[Hashable, Sequence[Command]]]) -> list[Submission]:
        """Admit all of a call, or nothing."""
        if self._is_closed:
            raise ShuttingDown
        submissions: list[Submission] = []
        try:
            for part, commands in calls:
                if part not in self._parts:
                    self._parts[part] = _PartWriter(self._open_round(), self._observer, self._limits)
                submissions.append(self._parts[part].admit(commands))
        except Overloaded:
            for submission in submissions:
                submission.future.cancel()
            raise
        return submissions


class _PartWriter:
    """Writes the jobs of one part of the store, one batch at a time."""

    def __init__(self, one_round: WriteRound, observer: Observer, limits: WriterLimits) -> None:
        self._observer = observer
        self._max_rounds = limits.max_rounds
        self.queue = WriteQueue(limits)
        self._round = one_round
        self._draining: asyncio.Task[None] | None = None

    def admit(self, commands: Sequence[Command]) -> Submission:
        """Put the commands into the queue. The submission's future tells when they are answered. Raises Overloaded."""
        submission = self.queue.admit(commands)
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(), name="jobstatus-writer")
        return submission

    async def close(self) -> None:
        """Return when all admitted commands are answered."""
        self.queue.close()
        while self._draining is not None:
            await asyncio.shield(self._draining)

    async def _drain(self) -> None:
        try:
            while self.queue:
                batch = self.queue.take()
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
                await self.queue.wait_for_callers(len(batch))
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


def _known(outcomes: Sequence[Outcome | None]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome is not None]
