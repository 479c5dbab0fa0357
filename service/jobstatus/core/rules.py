"""The life of a job: pending → processing → completed | failed, as pure functions of values and the time.

`decide` is the only way to a new version of a job. Time is an argument: nothing here reads a clock or waits. No job
leaves a terminal state, and `completed_at` is never before `created_at`, even when the clock steps back.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, Final

from jobstatus.core import errors
from jobstatus.core.commands import (
    DAY_MS,
    MAX_NAME_CHARS,
    CancelJob,
    Command,
    CompleteJob,
    CreateJob,
    DeleteJob,
    EnforceDeadlines,
    FailJob,
    HeartbeatJob,
    StartJob,
)
from jobstatus.core.job import ErrorField, Job, JobError, JobState

_PENDING: Final = JobState.PENDING
_PROCESSING: Final = JobState.PROCESSING
"""The attribute of the enumeration costs five times as much as a name of the module, and each write needs some."""

CLIENT_CLOSED_REQUEST: Final = 499
"""nginx's code for a request that its client gave up; no RFC has one."""
GATEWAY_TIMEOUT: Final = 504
GIVEN_UP_CODES: Final = (CLIENT_CLOSED_REQUEST, GATEWAY_TIMEOUT)
"""The status codes of jobs that a client or the service gave up. Their duration says nothing about other jobs."""
CANCELLED_TYPE: Final = "cancelled"
CANCELLED_CODE: Final = "cancelled_by_client"


_CREATED_WITH: Final = tuple(field.name for field in fields(CreateJob) if field.compare)
"""The fields in which a command that creates a job again must be the same."""
_NEW: Final = tuple(Job._field_defaults.values())[:-1]
"""What a new job has in the fields between `max_attempts` and `traceparent`."""


class JobOutcome(StrEnum):
    """How a job ended: by the report of its worker, or given up by a client or the service."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    NEVER_STARTED = "never_started"
    TIMED_OUT = "timed_out"
    WORKER_LOST = "worker_lost"


_GIVEN_UP: Final[dict[tuple[str | None, str | None], JobOutcome]] = {
    (CANCELLED_TYPE, CANCELLED_CODE): JobOutcome.CANCELLED,
    ("timeout", "never_started"): JobOutcome.NEVER_STARTED,
    ("timeout", "timed_out"): JobOutcome.TIMED_OUT,
    ("worker_lost", "lease_expired"): JobOutcome.WORKER_LOST,
}
"""The type and code of the errors that `_given_up` makes."""


def outcome_of(job: Job) -> JobOutcome:
    """Return how a terminal job ended."""
    if job.error is None:
        return JobOutcome.COMPLETED
    if job.status_code not in GIVEN_UP_CODES:
        return JobOutcome.FAILED
    return _GIVEN_UP.get((job.error.error.type, job.error.error.code), JobOutcome.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The parameters of the rules.

    `leases_count_from_ms` is since when heartbeats could arrive without a gap. A lease counts from then at the
    earliest: after a restart, or an outage of the store, each lease runs once more in full before the job fails.
    `timeouts_count_from_ms` is when a timeout ends at the earliest: later than now while the clock has just stepped.
    `step_ms` is by how much the clock has just stepped ahead: jobs expire so much later.
    """

    pending_timeout_ms: int = DAY_MS
    processing_timeout_ms: int = DAY_MS
    leases_count_from_ms: int = 0
    timeouts_count_from_ms: int = 0
    step_ms: int = 0


def decide(
    stored: Job | None, command: Command, now_ms: int, policy: Policy, writer: str | None = None
) -> tuple[Job | None, errors.JobStatusError | None]:
    """Apply a command. Return the next version of the job, and the refusal of the command, if any.

    `stored` None: there is no such job. None is returned when there is none afterwards, and the same object when
    nothing changes. Ended leases and timeouts are applied first, so a command never finds one that has ended and was
    not applied; that change stands even if the command is then refused. `writer` is the `last_writer` of a version that
    the command leads to. What changes in spite of it, the service changes.
    """
    expiry_ms = now_ms - policy.step_ms
    current = None if stored is None or stored.is_expired(expiry_ms) else _apply_deadlines(stored, now_ms, policy)
    try:
        following = _DECISIONS[type(command)](current, command, now_ms, policy)
    except errors.JobStatusError as refusal:
        return (stored if current is None else _next_version(stored, current, now_ms, policy, None)), refusal
    return (None if following is None else _next_version(stored, following, now_ms, policy, writer)), None


def _next_version(stored: Job | None, following: Job, now_ms: int, policy: Policy, writer: str | None) -> Job:
    if stored is None:
        return following.next_version(1, due_at(following, policy), writer)
    due_at_ms = _next_due(stored, following, now_ms, policy)
    if following == stored and due_at_ms == stored.due_at_ms:
        return stored
    return following.next_version(stored.version + 1, due_at_ms, writer)


def _next_due(stored: Job, following: Job, now_ms: int, policy: Policy) -> int | None:
    """Return `due_at_ms` of the next version: as it is, while it is still to come and not later than the deadline.

    Heartbeats put a lease's end off without changing a column that has an index, so PostgreSQL updates no index for
    them (HOT), and the others write less. What comes first once the old time is reached, the next heartbeat or a sweep,
    moves it.
    """
    ends_at_ms = due_at(following, policy)
    due_at_ms = stored.due_at_ms if stored.state is following.state else None
    if ends_at_ms is not None and due_at_ms is not None and now_ms < due_at_ms <= ends_at_ms:
        return due_at_ms
    return ends_at_ms


def due_at(job: Job, policy: Policy) -> int | None:
    """Return when a deadline of the job ends, in ms since the epoch; None for a terminal job."""
    if job.state is _PENDING:
        return max(job.created_at_ms + policy.pending_timeout_ms, policy.timeouts_count_from_ms)
    if job.state is _PROCESSING:
        timeout = _processing_timeout(job, policy)
        is_last = job.attempt >= job.max_attempts
        return min(timeout, lease_end(job, policy)) if job.is_leased and is_last else timeout
    return None


def _processing_timeout(job: Job, policy: Policy) -> int:
    return max(_since(job) + policy.processing_timeout_ms, policy.timeouts_count_from_ms)


def _since(job: Job) -> int:
    return job.created_at_ms if job.started_at_ms is None else job.started_at_ms


def lease_end(job: Job, policy: Policy) -> int:
    """Return when the lease of a leased job ends, in ms since the epoch: later than it says after a restart."""
    return max(job.lease_expires_at_ms or 0, policy.leases_count_from_ms + (job.lease_ms or 0))


def leased_until(job: Job, policy: Policy) -> int:
    """Return since or until when a job that is processing has a lease, in ms: its start where it never had one."""
    return lease_end(job, policy) if job.is_leased else _since(job)


def _apply_deadlines(job: Job, now_ms: int, policy: Policy) -> Job:
    """Fail the job if a timeout, or the lease of its last attempt, has ended."""
    due_at_ms = due_at(job, policy)
    if due_at_ms is None or now_ms < due_at_ms:
        return job
    if job.state is _PENDING:
        return _given_up(job, now_ms, "timeout", "never_started", "The job was not started in time.")
    if now_ms >= _processing_timeout(job, policy):
        return _given_up(job, now_ms, "timeout", "timed_out", "The job did not end in time.")
    return _given_up(job, now_ms, "worker_lost", "lease_expired", "The worker was lost before the job ended.")


def _given_up(job: Job, now_ms: int, kind: str, code: str, message: str, *, status_code: int = GATEWAY_TIMEOUT) -> Job:
    """Fail the job with an error of the service's own."""
    error = JobError(status_code=status_code, error=ErrorField(type=kind, code=code, message=message))
    return _ended(job, now_ms, JobState.FAILED, status_code, error=completed_error(error, job))


def _ended(
    job: Job,
    now_ms: int,
    state: JobState,
    status_code: int,
    *,
    result: bytes | None = None,
    error: JobError | None = None,
) -> Job:
    completed_at_ms = max(now_ms, _since(job), job.created_at_ms)
    return job.ended(state, completed_at_ms, status_code, result=result, error=error)


def completed_error(error: JobError, job: Job) -> JobError:
    """Return the worker's error, with what is absent in `extra_fields` taken from the job."""
    given = error.extra_fields
    extra_fields = replace(
        given,
        provider=given.provider if given.provider is not None else job.provider,
        model_requested=given.model_requested if given.model_requested is not None else job.model_requested,
        request_type=given.request_type if given.request_type is not None else job.request_type.value,
    )
    return replace(error, extra_fields=extra_fields)


def _existing(job: Job | None) -> Job:
    if job is None:
        raise errors.JobNotFound
    return job


def _check_fence(job: Job, attempt: int) -> None:
    """Raise LeaseLost unless the write names the current attempt, or none (0) while there is no lease."""
    if attempt != job.attempt and (attempt != 0 or job.is_leased):
        raise errors.LeaseLost


def _check_fence_of_ended(job: Job, attempt: int) -> None:
    _check_fence(job, attempt)
    raise _terminal(job)


def _terminal(job: Job) -> errors.JobTerminal:
    """Leave out a long code: an error travels in the trailers of a call, which have room for a few KiB."""
    code = job.error.error.code if job.error else None
    return errors.JobTerminal.in_state(job.state, code if code and len(code) <= MAX_NAME_CHARS else None)


def _create(job: Job | None, command: CreateJob, now_ms: int, _: Policy) -> Job:
    if job is None:
        return Job._make(
            (
                command.job_id,
                command.request_type,
                _PENDING,
                0,  # the version
                command.virtual_key_id,
                command.provider,
                command.model_requested,
                now_ms,
                command.result_ttl_ms,
                command.max_attempts,
                *_NEW,
                command.traceparent,
            )
        )
    if any(getattr(job, name) != getattr(command, name) for name in _CREATED_WITH):
        raise errors.JobExists
    return job


def _start(stored: Job | None, command: StartJob, now_ms: int, policy: Policy) -> Job:
    job = _existing(stored)
    if job.is_terminal:
        raise _terminal(job)
    lease_expires_at_ms = None if command.lease_ms is None else now_ms + command.lease_ms
    if job.state is _PROCESSING and job.worker_id == command.worker_id:
        return job._replace(lease_ms=command.lease_ms, lease_expires_at_ms=lease_expires_at_ms)
    if job.is_leased and now_ms < lease_end(job, policy):
        raise errors.LeaseHeld
    return job._replace(
        state=_PROCESSING,
        started_at_ms=max(now_ms, job.created_at_ms) if job.started_at_ms is None else job.started_at_ms,
        attempt=job.attempt + 1,
        worker_id=command.worker_id,
        progress=None,
        message=None,
        lease_ms=command.lease_ms,
        lease_expires_at_ms=lease_expires_at_ms,
    )


def _heartbeat(stored: Job | None, command: HeartbeatJob, now_ms: int, _: Policy) -> Job:
    job = _existing(stored)
    if job.state is _PENDING:
        raise errors.JobNotStarted
    if job.is_terminal:
        _check_fence_of_ended(job, command.attempt)
    _check_fence(job, command.attempt)
    return job._replace(
        lease_expires_at_ms=None if job.lease_ms is None else max(now_ms + job.lease_ms, job.lease_expires_at_ms or 0),
        progress=job.progress if command.progress is None else command.progress,
        message=job.message if command.message is None else command.message,
    )


def _complete(stored: Job | None, command: CompleteJob, now_ms: int, _: Policy) -> Job:
    job = _existing(stored)
    if job.is_terminal:
        if (job.state, job.status_code, job.result) == (JobState.COMPLETED, command.status_code, command.result):
            return job
        _check_fence_of_ended(job, command.attempt)
    _check_fence(job, command.attempt)
    return _ended(job, now_ms, JobState.COMPLETED, command.status_code, result=command.result)


def _fail(stored: Job | None, command: FailJob, now_ms: int, _: Policy) -> Job:
    job = _existing(stored)
    error = completed_error(command.error, job)
    if job.is_terminal:
        if (job.state, job.status_code, job.error) == (JobState.FAILED, command.status_code, error):
            return job
        _check_fence_of_ended(job, command.attempt)
    _check_fence(job, command.attempt)
    return _ended(job, now_ms, JobState.FAILED, command.status_code, error=error)


def _cancel(stored: Job | None, command: CancelJob, now_ms: int, _: Policy) -> Job:
    """Needs no attempt, because the client that submitted the job knows none."""
    job = _existing(stored)
    if job.is_terminal:
        inner = job.error.error if job.error else None
        if inner is not None and (inner.type, inner.code) == (CANCELLED_TYPE, CANCELLED_CODE):
            return job
        raise _terminal(job)
    reason = command.reason or "The job was cancelled."
    return _given_up(job, now_ms, CANCELLED_TYPE, CANCELLED_CODE, reason, status_code=CLIENT_CLOSED_REQUEST)


def _delete(stored: Job | None, _command: DeleteJob, _now_ms: int, _: Policy) -> None:
    _existing(stored)


def _enforce_deadlines(stored: Job | None, _command: EnforceDeadlines, _now_ms: int, _: Policy) -> Job:
    return _existing(stored)


_DECISIONS: Final[dict[type[Command], Callable[[Job | None, Any, int, Policy], Job | None]]] = {
    CreateJob: _create,
    StartJob: _start,
    HeartbeatJob: _heartbeat,
    CompleteJob: _complete,
    FailJob: _fail,
    CancelJob: _cancel,
    DeleteJob: _delete,
    EnforceDeadlines: _enforce_deadlines,
}
