"""One round of a batch: read its jobs, decide every command with the pure rules, commit, deliver the outcomes.

The outcome of a command is delivered after the commit, so what is acknowledged is durable.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from jobstatus.core import rules
from jobstatus.core.answer import render
from jobstatus.core.commands import Command, CompleteJob, CreateJob, DeleteJob
from jobstatus.core.errors import JobNotFound, JobStatusError, StoreFull, StoreUnavailable
from jobstatus.core.job import Job, JobState
from jobstatus.core.observer import Observer, timed
from jobstatus.core.store import Answer, Change, CommitError, JobStore, StoreError
from jobstatus.core.timekeeper import Timekeeper
from jobstatus.core.write_queue import Outcome, Submission

Item = tuple[Submission, int, Command]
"""A command, with its submission and its place there."""
_Stored = Job | StoreError | None
_COMPLETED: Final = JobState.COMPLETED
_FAILURES: Final = (StoreUnavailable, StoreFull)


class WriteRound:
    """Runs rounds, one at a time, upon one store."""

    def __init__(
        self,
        store: JobStore,
        *,
        clock: Timekeeper,
        policy: rules.Policy,
        observer: Observer,
        on_commit: Callable[[Collection[str]], None],
    ) -> None:
        """`on_commit` is called with the ids of jobs that have just changed."""
        self._store = store
        self._clock = clock
        self._policy = policy
        self._observer = observer
        self._on_commit = on_commit
        self._store_failed = False

    async def run(self, items: Sequence[Item], *, is_first: bool = False) -> list[Item]:
        """Decide and commit once, and deliver the outcomes. Return the items whose jobs another process changed first.

        In the first round no job is read that is to be created, because there seldom is one. The commit finds it if
        there is, and then its items are returned, too.

        An error of the store is the outcome of each command that wanted a change. After one, every lease runs once
        more in full, because heartbeats may have been lost.
        """
        new = _created(items) if is_first else frozenset()
        stored = await self._read(list(dict.fromkeys([command.job_id for _, _, command in items])), new, items)
        now_ms = self._clock.ms()
        policy = self._policy_at(now_ms)
        outcomes, following = _decide(items, stored, now_ms, policy)
        changes = _changes(stored, following)
        not_done = await self._commit(changes)
        lost = {job_id for job_id, error in not_done.items() if error is None}
        uncertain: dict[str, CommitError] = {job_id: error for job_id, error in not_done.items() if error is not None}
        changed = {change.job_id for change in changes}
        if len(changed) < len(stored):
            unchanged = [job_id for job_id, job in stored.items() if isinstance(job, Job) and job_id not in changed]
            uncertain |= await self._confirm(unchanged)
        self._note_health((*stored.values(), *uncertain.values()), now_ms)
        if not self._store_failed:
            self._observer.batch_written(len(items))
        self._report(stored, [change for change in changes if change.job_id not in not_done] if not_done else changes)
        if lost or uncertain:
            won = [(item, outcome) for item, outcome in zip(items, outcomes, strict=True) if item[2].job_id not in lost]
            deliver([item for item, _ in won], [uncertain.get(item[2].job_id, outcome) for item, outcome in won])
        else:
            deliver(items, outcomes)
        self._on_commit(changed - lost)  # including uncertain changes, which may have happened
        again = [item for item in items if item[2].job_id in lost] if lost else []
        if races := [item for item in again if item[2].job_id not in new]:
            self._observer.races_lost(len(races))
        return again

    def _note_health(self, found: Iterable[_Stored | CommitError], now_ms: int) -> None:
        """Note whether the store failed. Once it works again, let each lease run once more in full."""
        has_failed = any(isinstance(each, _FAILURES) for each in found)
        if self._store_failed and not has_failed:
            self._clock.restart_leases(now_ms)
        self._store_failed = has_failed

    def _report(self, stored: Mapping[str, _Stored], changes: Iterable[Change]) -> None:
        """Count the jobs that these changes, which were committed, created, started and ended."""
        for job_id, replaces, job, _ in changes:
            if job is None:
                continue
            before = stored[job_id]
            if not replaces or (isinstance(before, Job) and before.is_terminal):  # only a new job replaces an ended one
                self._observer.job_created(job.request_type)
            if job.started_at_ms is None and not job.is_terminal:
                continue
            was_started = isinstance(before, Job) and before.started_at_ms is not None and not before.is_terminal
            if job.started_at_ms is not None and not was_started:
                self._observer.job_started(job.request_type, (job.started_at_ms - job.created_at_ms) / 1000)
            if job.completed_at_ms is not None:  # only just: a terminal job changes no more, a new one may have its id
                run_ms = None if job.started_at_ms is None else job.completed_at_ms - job.started_at_ms
                run_seconds = None if run_ms is None else run_ms / 1000
                self._observer.job_ended(job.request_type, rules.outcome_of(job), run_seconds)

    def _policy_at(self, now_ms: int) -> rules.Policy:
        leases_from_ms = now_ms if self._store_failed else self._clock.leases_count_from_ms()
        timeouts_from_ms = self._clock.timeouts_count_from_ms()
        step_ms = self._clock.step_ms()
        policy = self._policy
        known = (policy.leases_count_from_ms, policy.timeouts_count_from_ms, policy.step_ms)
        if known != (leases_from_ms, timeouts_from_ms, step_ms):
            self._policy = replace(
                policy,
                leases_count_from_ms=leases_from_ms,
                timeouts_count_from_ms=timeouts_from_ms,
                step_ms=step_ms,
            )
        return self._policy

    async def _read(self, job_ids: Sequence[str], new: Collection[str], items: Sequence[Item]) -> dict[str, _Stored]:
        """Read the stored jobs, except for new ones.

        With a result only where a command completes the job with one of the same length. A failure of the store is
        that of the new ones, too, because a batch takes the time limit of one operation from a silent store.
        """
        stored: dict[str, _Stored] = dict.fromkeys(job_ids)
        wanted = [job_id for job_id in job_ids if job_id not in new]
        if not wanted:
            return stored
        try:
            with timed(self._observer, "read_jobs"):
                stored |= zip(wanted, await self._store.read_jobs(wanted, with_results=False), strict=True)
            sizes: dict[str, set[int | None]] = {}
            completed = {job_id for job_id, job in stored.items() if isinstance(job, Job) and job.state is _COMPLETED}
            for _, _, command in items if completed else ():
                if isinstance(command, CompleteJob) and command.job_id in completed:
                    sizes.setdefault(command.job_id, set()).add(len(command.result))
            if sizes:
                answers = zip(sizes, await self._store.read_answers(list(sizes)), strict=True)
                same = [job_id for job_id, answer in answers if _size(answer) in sizes[job_id]]
                stored |= zip(same, await self._store.read_jobs(same, with_results=True), strict=True)
        except (StoreUnavailable, StoreFull) as error:
            return dict.fromkeys(job_ids, error)
        return stored

    async def _commit(self, changes: list[Change]) -> Mapping[str, CommitError | None]:
        """Return what did not certainly happen, as `JobStore.commit` does."""
        if not changes:
            return {}
        try:
            with timed(self._observer, "commit"):
                return await self._store.commit(changes)
        except (StoreUnavailable, StoreFull) as error:
            return {change.job_id: error for change in changes}

    async def _confirm(self, job_ids: list[str]) -> Mapping[str, StoreError]:
        """Confirm jobs that the batch found unchanged: their outcomes must be as durable as a commit."""
        if not job_ids:
            return {}
        try:
            return await self._store.confirm(job_ids)
        except (StoreUnavailable, StoreFull) as error:
            return dict.fromkeys(job_ids, error)


def _created(items: Sequence[Item]) -> frozenset[str]:
    """Return the jobs whose first command creates them, and which are not deleted.

    Of a job that is created and deleted nothing is left to commit, so no commit could find the one there is.
    """
    first = {command.job_id: command for _, _, command in reversed(items)}
    deleted = {command.job_id for _, _, command in items if type(command) is DeleteJob}
    return frozenset([job_id for job_id, command in first.items() if type(command) is CreateJob]) - deleted


def items_of(batch: Sequence[Submission]) -> list[Item]:
    """The commands of a batch in order."""
    return [(submission, index, command) for submission in batch for index, command in enumerate(submission.commands)]


def deliver(items: Sequence[Item], outcomes: Sequence[Outcome]) -> None:
    """Record the outcomes, and answer each caller whose outcomes are complete."""
    for (submission, index, _), outcome in zip(items, outcomes, strict=True):
        submission.answer(index, outcome)


def _decide(
    items: Sequence[Item], stored: Mapping[str, _Stored], now_ms: int, policy: rules.Policy
) -> tuple[list[Outcome], dict[str, _Stored]]:
    """Return the outcome of each command, given what those before it made of its job, and what becomes of each job."""
    current = dict(stored)
    outcomes: list[Outcome] = []
    for submission, _, command in items:
        before = current[command.job_id]
        if isinstance(before, JobStatusError):
            outcomes.append(before)
            continue
        after, refusal = rules.decide(before, command, now_ms, policy, submission.writer)
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


def _change(job_id: str, stored: Job | None, following: Job | None) -> Change:
    return Change(job_id, stored.version if stored else 0, following, None if following is None else render(following))


def _size(answer: Answer | StoreError | None) -> int | None:
    return answer.result_size if isinstance(answer, Answer) else None
