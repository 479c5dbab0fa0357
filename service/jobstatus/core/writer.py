"""Turns concurrent writes into batches: what arrives while one commit is under way is the next one.

Every store gets group commit from here. A batch reads its jobs, decides every command in order with the pure rules,
commits all changes in one durable step and decides those anew that lost a race against another process.

A commit costs as much as deciding and storing a dozen jobs, however few it has. Where several write at a time, the next
one therefore waits for a moment, until those just answered can be back: the loop is busy with their answers and their
next requests anyway, and a commit at once would have only the first of them.

A caller waits on a future of its own: one that is cancelled takes nobody along, and a batch that has begun is finished
by the writer's own task. The answer is given after the commit.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from jobstatus.core import rules
from jobstatus.core.answer import render
from jobstatus.core.commands import MAX_BATCH, Command, CompleteJob
from jobstatus.core.errors import JobNotFound, JobStatusError, Overloaded, ShuttingDown, StoreFull, StoreUnavailable
from jobstatus.core.job import Job, JobState
from jobstatus.core.observer import Observer, timed
from jobstatus.core.store import Answer, Change, JobStore, StoreError

Outcome = Job | JobStatusError
"""The job as a command left it (a deleted one as it was), or why the command was refused."""

MAX_BATCH_BYTES: Final = 32 * 1024 * 1024
MAX_WAITING_COMMANDS: Final = 20_000
MAX_WAITING_BYTES: Final = 256 * 1024 * 1024
MAX_RACES: Final = 20
SEVERAL_CALLERS: Final = 4
GATHERING_SECONDS: Final = 0.005

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Submission:
    """The commands of one call, their outcomes as they become known, and who waits for them."""

    commands: Sequence[Command]
    outcomes: list[Outcome | None]
    size: int
    future: asyncio.Future[None]


_Item = tuple[_Submission, int, Command]
_Stored = Job | StoreError | None


def _result_bytes(commands: Sequence[Command]) -> int:
    return sum(len(command.result) for command in commands if isinstance(command, CompleteJob))


class Writer:
    """The one place of a process from which jobs are changed."""

    def __init__(
        self,
        store: JobStore,
        *,
        clock: Callable[[], int],
        policy: rules.Policy,
        observer: Observer,
        on_commit: Callable[[Collection[str]], None],
    ) -> None:
        """`clock` tells ms since the epoch; `on_commit` is told the ids of jobs that have just changed."""
        self._store = store
        self._clock = clock
        self._policy = replace(policy, leases_count_from_ms=clock())
        self._observer = observer
        self._on_commit = on_commit
        self._queue: deque[_Submission] = deque()
        self._waiting_commands = 0
        self._waiting_bytes = 0
        self._draining: asyncio.Task[None] | None = None
        self._expected_callers = 0
        self._callers_arrived = asyncio.Event()
        self._closing = False
        self._store_failed = False

    async def write(self, commands: Sequence[Command]) -> list[Outcome]:
        """Decide the commands, each on its own, in order, in one durable commit; one outcome for each.

        Raises Overloaded or ShuttingDown before anything was done. A store that fails is an outcome of each command
        that wanted a change: such a command happened wholly or not at all.
        """
        if not commands:
            return []
        submission = self._admit(commands)
        self._queue.append(submission)
        if len(self._queue) >= self._expected_callers:
            self._callers_arrived.set()
        if self._draining is None:
            self._draining = asyncio.create_task(self._drain(), name="jobstatus-writer")
        await submission.future
        return [outcome for outcome in submission.outcomes if outcome is not None]

    def refuse(self) -> None:
        """Refuse what comes from now on, with ShuttingDown."""
        self._closing = True
        self._callers_arrived.set()

    async def close(self) -> None:
        """Refuse what comes from now on, and return when all that was admitted is answered."""
        self.refuse()
        while self._draining is not None:
            await asyncio.shield(self._draining)

    def _admit(self, commands: Sequence[Command]) -> _Submission:
        size = _result_bytes(commands)
        if self._closing:
            raise ShuttingDown
        if (
            self._waiting_commands + len(commands) > MAX_WAITING_COMMANDS
            or self._waiting_bytes + size > MAX_WAITING_BYTES
        ):
            raise Overloaded
        self._waiting_commands += len(commands)
        self._waiting_bytes += size
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return _Submission(commands, [None] * len(commands), size, future)

    async def _drain(self) -> None:
        try:
            while self._queue:
                batch = self._take()
                try:
                    await self._run([item for submission in batch for item in _items(submission)])
                except Exception as error:  # noqa: BLE001  # a fault of ours must not leave callers waiting for ever
                    _log.exception(
                        "A batch of writes failed because of a bug of this program.",
                        extra={"event": "write_batch_failed"},
                    )
                    for submission in batch:
                        if not submission.future.done():
                            submission.future.set_exception(error)
                await self._wait_for_callers(len(batch))
        finally:
            self._draining = None

    async def _wait_for_callers(self, callers: int) -> None:
        """Where so many were several, return when as many more wait, or after a moment."""
        if callers < SEVERAL_CALLERS or self._closing:
            return
        self._expected_callers = callers + len(self._queue)
        self._callers_arrived.clear()
        moment = asyncio.get_running_loop().call_later(GATHERING_SECONDS, self._callers_arrived.set)
        await self._callers_arrived.wait()
        moment.cancel()

    def _take(self) -> list[_Submission]:
        """The next batch: at least one submission, more within the bounds; cancelled ones are dropped."""
        batch: list[_Submission] = []
        commands = size = 0
        while self._queue:
            following = self._queue[0]
            if batch and (commands + len(following.commands) > MAX_BATCH or size + following.size > MAX_BATCH_BYTES):
                break
            self._queue.popleft()
            self._waiting_commands -= len(following.commands)
            self._waiting_bytes -= following.size
            if following.future.done():
                continue
            batch.append(following)
            commands += len(following.commands)
            size += following.size
        return batch

    async def _run(self, items: list[_Item]) -> None:
        for _ in range(MAX_RACES):
            if not items:
                return
            lost = await self._round(items)
            items = [item for item in items if item[2].job_id in lost]
            if items:
                self._observer.races_lost(len(items))
        _deliver(items, [Overloaded()] * len(items))

    async def _round(self, items: list[_Item]) -> Collection[str]:
        """Decide and commit once; the ids of the jobs that others changed meanwhile."""
        job_ids = list(dict.fromkeys(command.job_id for _, _, command in items))
        now_ms = self._clock()
        policy = replace(self._policy, leases_count_from_ms=now_ms) if self._store_failed else self._policy
        stored = await self._read(job_ids, items)
        outcomes, following = _decide(items, stored, now_ms, policy)
        changes = _changes(stored, following)
        changed = {change.job_id for change in changes}
        not_done = await self._commit(changes)
        lost = {job_id for job_id, error in not_done.items() if error is None}
        uncertain = {job_id: error for job_id, error in not_done.items() if error is not None}
        uncertain |= await self._confirm([job_id for job_id, job in stored.items() if job and job_id not in changed])
        if uncertain or any(isinstance(job, JobStatusError) for job in stored.values()):
            self._store_failed = True
        else:
            self._policy, self._store_failed = policy, False
            self._observer.batch_written(len(items))
        won = [(item, outcome) for item, outcome in zip(items, outcomes, strict=True) if item[2].job_id not in lost]
        _deliver([item for item, _ in won], [uncertain.get(item[2].job_id, outcome) for item, outcome in won])
        self._on_commit(changed - lost)  # what is uncertain may have happened all the same
        return lost

    async def _read(self, job_ids: list[str], items: list[_Item]) -> dict[str, _Stored]:
        """The stored jobs; a result only where a command repeats it to the length, so that a read stays small."""
        try:
            with timed(self._observer, "read_jobs"):
                stored = dict(zip(job_ids, await self._store.read_jobs(job_ids, with_results=False), strict=True))
            sizes: dict[str, set[int | None]] = {}
            for _, _, command in items:
                job = stored[command.job_id]
                if isinstance(command, CompleteJob) and isinstance(job, Job) and job.state is JobState.COMPLETED:
                    sizes.setdefault(command.job_id, set()).add(len(command.result))
            if sizes:
                answers = zip(sizes, await self._store.read_answers(list(sizes)), strict=True)
                same = [job_id for job_id, answer in answers if _size(answer) in sizes[job_id]]
                stored |= zip(same, await self._store.read_jobs(same, with_results=True), strict=True)
        except (StoreUnavailable, StoreFull) as error:
            return dict.fromkeys(job_ids, error)
        return stored

    async def _commit(self, changes: list[Change]) -> Mapping[str, StoreError | None]:
        """What did not certainly happen, as the port says it."""
        if not changes:
            return {}
        try:
            with timed(self._observer, "commit"):
                return await self._store.commit(changes)
        except (StoreUnavailable, StoreFull) as error:
            return {change.job_id: error for change in changes}

    async def _confirm(self, job_ids: list[str]) -> Mapping[str, StoreError]:
        """What is acknowledged, or refused, because of what is stored already has to be as durable as a commit."""
        if not job_ids:
            return {}
        try:
            return await self._store.confirm(job_ids)
        except (StoreUnavailable, StoreFull) as error:
            return dict.fromkeys(job_ids, error)


def _items(submission: _Submission) -> list[_Item]:
    return [(submission, index, command) for index, command in enumerate(submission.commands)]


def _decide(
    items: list[_Item], stored: Mapping[str, _Stored], now_ms: int, policy: rules.Policy
) -> tuple[list[Outcome], dict[str, _Stored]]:
    """The outcome of each command, upon what those before it made of its job; and what becomes of each job."""
    current = dict(stored)
    outcomes: list[Outcome] = []
    for _, _, command in items:
        before = current[command.job_id]
        if isinstance(before, JobStatusError):
            outcomes.append(before)
            continue
        after, refusal = rules.decide(before, command, now_ms, policy)
        current[command.job_id] = after
        outcomes.append(refusal or after or before or JobNotFound())
    return outcomes, current


def _changes(stored: Mapping[str, _Stored], following: Mapping[str, _Stored]) -> list[Change]:
    return [
        _change(job_id, before, after)
        for job_id, after in following.items()
        if (before := stored[job_id]) is not after
        and not isinstance(before, JobStatusError)
        and not isinstance(after, JobStatusError)
    ]


def _size(answer: Answer | StoreError | None) -> int | None:
    return answer.result_size if isinstance(answer, Answer) else None


def _change(job_id: str, stored: Job | None, following: Job | None) -> Change:
    return Change(
        job_id=job_id,
        replaces=stored.version if stored else 0,
        job=following,
        answer=None if following is None else render(following),
    )


def _deliver(items: Sequence[_Item], outcomes: Sequence[Outcome]) -> None:
    """Note the outcomes, and wake those callers for whom all are known now."""
    for (submission, index, _), outcome in zip(items, outcomes, strict=True):
        submission.outcomes[index] = outcome
    for submission in {id(item[0]): item[0] for item in items}.values():
        if not submission.future.done() and None not in submission.outcomes:
            submission.future.set_result(None)
