"""The rules at their boundaries: exact moments, and cases that a random history rarely has."""

from dataclasses import replace

import pytest
from jobstatus.core.commands import (
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
from jobstatus.core.errors import InvalidField, JobTerminal
from jobstatus.core.job import ErrorExtraFields, ErrorField, Job, JobError, JobState, RequestType
from jobstatus.core.rules import Policy, decide, due_at

POLICY = Policy(pending_timeout_ms=1000, processing_timeout_ms=10_000)
CREATE = CreateJob(
    job_id="j", request_type=RequestType.TRANSCRIPTION, max_attempts=2, provider="p", model_requested="m"
)
ERROR = JobError(error=ErrorField(message="boom"))


def run(*steps: tuple[int, Command], policy: Policy = POLICY, job: Job | None = None) -> tuple[Job | None, str | None]:
    """What the commands make of a job, each at its time, and the reason of the last refusal."""
    reason = None
    for now_ms, command in steps:
        job, refusal = decide(job, command, now_ms, policy)
        reason = refusal.reason if refusal else None
    return job, reason


def made(*steps: tuple[int, Command], policy: Policy = POLICY) -> Job:
    job, reason = run((0, CREATE), *steps, policy=policy)
    assert job is not None
    assert reason is None
    return job


def start(worker_id: str = "w", lease_ms: int | None = 2000) -> StartJob:
    return StartJob(job_id="j", worker_id=worker_id, lease_ms=lease_ms)


LOOK = EnforceDeadlines(job_id="j")
COMPLETE = CompleteJob(job_id="j", result=b"1")
CANCEL = CancelJob(job_id="j", reason="Not needed.")


def test_a_job_keeps_the_traceparent_that_it_was_created_with() -> None:
    """A retry from another span of the same trace creates nothing, and is no conflict."""
    first, second = (replace(CREATE, traceparent=f"00-{'a' * 32}-{digit * 16}-01") for digit in "bc")
    job, reason = run((0, first), (1, second), (2, start()), (3, COMPLETE))
    assert job is not None
    assert (reason, job.traceparent) == ("LEASE_LOST", first.traceparent)


@pytest.mark.parametrize(("now_ms", "state"), [(999, JobState.PENDING), (1000, JobState.FAILED)])
def test_a_pending_job_times_out_at_its_moment(now_ms: int, state: JobState) -> None:
    """Pending ends exactly when the timeout has passed, as `never_started`."""
    job = made((now_ms, LOOK))
    assert job.state is state
    if job.error is not None:
        assert (job.status_code, job.error.error.type, job.error.error.code) == (504, "timeout", "never_started")


@pytest.mark.parametrize(("now_ms", "state"), [(10_499, JobState.PROCESSING), (10_500, JobState.FAILED)])
def test_a_processing_job_times_out_from_its_first_start(now_ms: int, state: JobState) -> None:
    """A takeover does not prolong the processing timeout."""
    job = made((500, start("w1", None)), (9000, start("w2", None)), (now_ms, LOOK))
    assert job.state is state
    if job.error is not None:
        assert (job.status_code, job.error.error.type, job.error.error.code) == (504, "timeout", "timed_out")


@pytest.mark.parametrize(("now_ms", "reason"), [(2099, "LEASE_HELD"), (2100, None)])
def test_a_lease_holds_until_its_moment(now_ms: int, reason: str | None) -> None:
    """Another worker may start from the very moment at which the lease ends, not before."""
    job, refusal = run((0, CREATE), (100, start("w1")), (now_ms, start("w2")))
    assert refusal == reason
    assert job is not None
    assert job.attempt == (1 if reason else 2)


@pytest.mark.parametrize(("now_ms", "state"), [(4099, JobState.PROCESSING), (4100, JobState.FAILED)])
def test_the_last_lease_ends_the_job_at_its_moment(now_ms: int, state: JobState) -> None:
    """When the lease of the last attempt ends, the worker counts as lost."""
    job = made((100, start("w1")), (2100, start("w2")), (now_ms, LOOK))
    assert job.state is state
    if job.error is not None:
        assert (job.status_code, job.error.error.type, job.error.error.code) == (504, "worker_lost", "lease_expired")
        assert job.error.extra_fields == ErrorExtraFields(
            provider="p", model_requested="m", request_type="transcription"
        )


def test_a_lease_runs_once_more_while_nobody_could_hear_heartbeats() -> None:
    """After a restart at 5000 a lease of 2000 ms ends at 7000, though it had ended before."""
    held = made((0, start("w1")), (2000, start("w2")))
    restarted = replace(POLICY, leases_count_from_ms=5000)
    assert due_at(held, restarted) == 7000
    still, _ = decide(held, LOOK, 6999, restarted)
    assert still is not None
    assert still.state is JobState.PROCESSING
    assert decide(held, start("w3"), 6999, restarted)[1] is not None
    lost, _ = decide(held, LOOK, 7000, restarted)
    assert lost is not None
    assert lost.state is JobState.FAILED


@pytest.mark.parametrize("steps", [(), ((100, start()),)])
def test_nothing_times_out_while_the_time_is_new(steps: tuple[tuple[int, Command], ...]) -> None:
    """After a step of the clock timeouts that have ended by it end later, and the job is due then."""
    job = made(*steps)
    assert job.due_at_ms is not None
    stepped_ms = job.due_at_ms + 86_400_000
    held = replace(POLICY, timeouts_count_from_ms=stepped_ms + 300_000)
    waiting, _ = decide(job, LOOK, stepped_ms, held)
    assert waiting is not None
    assert (waiting.state, waiting.due_at_ms) == (job.state, stepped_ms + 300_000)
    failed, _ = decide(waiting, LOOK, stepped_ms + 300_000, held)
    assert failed is not None
    assert failed.state is JobState.FAILED


def test_a_job_whose_time_was_moved_is_due_anew() -> None:
    """A command that changes nothing else moves `due_at_ms`, so that the sweeper does not find the job each time."""
    held = made((0, start("w1")), (2000, start("w2")))
    assert held.due_at_ms == 4000
    looked, _ = decide(held, LOOK, 4000, replace(POLICY, leases_count_from_ms=3000))
    assert looked == held._replace(due_at_ms=5000, version=held.version + 1)


def test_heartbeats_leave_the_time_of_the_next_sweep_until_it_is_reached() -> None:
    """`due_at_ms` has an index, so it changes once a lease, and is never later than the end of the lease."""
    held = made((0, start("w1")), (2000, start("w2")))
    beat = HeartbeatJob(job_id="j", attempt=2)
    renewed, _ = run((3999, beat), job=held)
    assert renewed is not None
    assert (renewed.lease_expires_at_ms, renewed.due_at_ms) == (5999, 4000)
    assert run((4000, LOOK), job=renewed)[0] == renewed._replace(due_at_ms=5999, version=renewed.version + 1)
    late, _ = run((4500, beat), job=renewed)
    assert late is not None
    assert (late.lease_expires_at_ms, late.due_at_ms) == (6500, 6500)


def test_a_shorter_lease_brings_the_next_sweep_forward() -> None:
    held = made((0, start("w1")), (2000, start("w2", 5000)))
    assert held.due_at_ms == 7000
    shorter, _ = run((3000, start("w2", 1000)), job=held)
    assert shorter is not None
    assert shorter.due_at_ms == 4000


def test_a_look_at_nothing_due_changes_nothing() -> None:
    """The very same value comes back."""
    job = made((100, start()))
    assert decide(job, LOOK, 200, POLICY) == (job, None)
    assert decide(job, LOOK, 200, POLICY)[0] is job


@pytest.mark.parametrize(
    ("first", "again", "reason"),
    [
        (COMPLETE, COMPLETE, None),
        (COMPLETE, replace(COMPLETE, result=b" 1"), "JOB_TERMINAL"),
        (COMPLETE, replace(COMPLETE, status_code=201), "JOB_TERMINAL"),
        (COMPLETE, FailJob(job_id="j", error=ERROR), "JOB_TERMINAL"),
        (FailJob(job_id="j", error=ERROR), FailJob(job_id="j", error=ERROR), None),
        (FailJob(job_id="j", error=ERROR), FailJob(job_id="j", error=ERROR, status_code=400), "JOB_TERMINAL"),
        (FailJob(job_id="j", error=ERROR), COMPLETE, "JOB_TERMINAL"),
    ],
)
def test_only_the_same_outcome_may_be_written_again(first: Command, again: Command, reason: str | None) -> None:
    """A repetition answers the stored job, unchanged; anything else is refused; the expiry never moves."""
    job = made((10, first))
    assert run((500, again), job=job) == (job, reason)


@pytest.mark.parametrize(
    "steps",
    [
        (),
        ((10, start("w1", None)),),
        ((10, start("w1")),),
        ((10, start("w1")), (20, HeartbeatJob(job_id="j", attempt=1, progress=0.5, message="half"))),
    ],
    ids=["pending", "processing", "leased", "under way"],
)
def test_a_job_that_has_not_ended_can_be_cancelled(steps: tuple[tuple[int, Command], ...]) -> None:
    """It fails with 499, without an attempt being named; nothing is due any more, and the expiry counts from then."""
    before = made(*steps)
    job, reason = run((100, CANCEL), job=before)
    assert reason is None
    assert job is not None
    assert job.error == JobError(
        status_code=499,
        error=ErrorField(type="cancelled", code="cancelled_by_client", message="Not needed."),
        extra_fields=ErrorExtraFields(provider="p", model_requested="m", request_type="transcription"),
    )
    assert (job.state, job.status_code, job.completed_at_ms, job.version) == (
        JobState.FAILED,
        499,
        100,
        before.version + 1,
    )
    assert job.expires_at_ms == 100 + CREATE.result_ttl_ms
    assert (job.due_at_ms, job.lease_ms, job.lease_expires_at_ms, job.result) == (None, None, None, None)
    assert (job.attempt, job.worker_id, job.progress) == (before.attempt, before.worker_id, before.progress)


@pytest.mark.parametrize("again", [CANCEL, CancelJob(job_id="j"), CancelJob(job_id="j", reason="Another.")])
def test_a_second_cancellation_changes_nothing(again: Command) -> None:
    """The first reason stays, and so does the version."""
    job = made((10, start()), (20, CANCEL))
    following, refusal = decide(job, again, 500, POLICY)
    assert refusal is None
    assert following is job


@pytest.mark.parametrize("reason", [None, ""])
def test_a_cancellation_without_a_reason_has_a_message_all_the_same(reason: str | None) -> None:
    """The contract's error always has one."""
    job = made((10, CancelJob(job_id="j", reason=reason)))
    assert job.error is not None
    assert job.error.error.message == "The job was cancelled."


@pytest.mark.parametrize(
    ("end", "metadata"),
    [
        (COMPLETE, {"state": "completed"}),
        (FailJob(job_id="j", error=ERROR), {"state": "failed"}),
        (
            FailJob(job_id="j", error=JobError(error=ErrorField(message="m", code="short"))),
            {"state": "failed", "code": "short"},
        ),
        (
            FailJob(job_id="j", error=JobError(error=ErrorField(message="m", code="c" * 256))),
            {"state": "failed", "code": "c" * 256},
        ),
        (FailJob(job_id="j", error=JobError(error=ErrorField(message="m", code="c" * 257))), {"state": "failed"}),
        (FailJob(job_id="j", error=JobError(error=ErrorField(message="m", code=""))), {"state": "failed"}),
        (FailJob(job_id="j", error=replace(ERROR, status_code=499), status_code=499), {"state": "failed"}),
    ],
)
def test_a_job_that_has_ended_cannot_be_cancelled(end: Command, metadata: dict[str, str]) -> None:
    """The refusal says how it ended, with the error's code unless that is too long for a call's trailers."""
    job = made((10, end))
    following, refusal = decide(job, CANCEL, 20, POLICY)
    assert following is job
    assert isinstance(refusal, JobTerminal)
    assert refusal.metadata == metadata


@pytest.mark.parametrize("now_ms", [2099, 2100])
def test_a_job_whose_last_lease_has_ended_is_lost_and_not_cancelled(now_ms: int) -> None:
    """From the moment at which the lease ends."""
    job, reason = run((0, replace(CREATE, max_attempts=1)), (100, start()), (now_ms, CANCEL))
    assert reason == (None if now_ms < 2100 else "JOB_TERMINAL")
    assert job is not None
    assert job.status_code == (499 if now_ms < 2100 else 504)


def test_an_unknown_or_expired_job_cannot_be_cancelled() -> None:
    """As with every write but a creation."""
    assert run((0, CANCEL)) == (None, "JOB_NOT_FOUND")
    ended = made((10, CANCEL))
    assert ended.expires_at_ms is not None
    assert run((ended.expires_at_ms, CANCEL), job=ended) == (ended, "JOB_NOT_FOUND")


@pytest.mark.parametrize(
    ("late", "reason"),
    [
        (start("w1"), "JOB_TERMINAL"),
        (start("w2"), "JOB_TERMINAL"),
        (HeartbeatJob(job_id="j", attempt=1), "JOB_TERMINAL"),
        (HeartbeatJob(job_id="j"), "JOB_TERMINAL"),
        (replace(COMPLETE, attempt=1), "JOB_TERMINAL"),
        (FailJob(job_id="j", error=ERROR, attempt=1), "JOB_TERMINAL"),
        (HeartbeatJob(job_id="j", attempt=2), "LEASE_LOST"),
    ],
)
def test_the_worker_of_a_cancelled_job_is_refused(late: Command, reason: str) -> None:
    """JOB_TERMINAL says that the job was cancelled, which is not the worker's fault."""
    job = made((10, start("w1")), (20, CANCEL))
    following, refusal = decide(job, late, 30, POLICY)
    assert following is job
    assert refusal is not None
    assert refusal.reason == reason
    if reason == "JOB_TERMINAL":
        assert refusal.metadata == {"state": "failed", "code": "cancelled_by_client"}


def test_a_refused_write_still_settles_what_was_overdue() -> None:
    """The refusal names a state that is stored, not one that might be."""
    job, reason = run((0, CREATE), (0, start("w1")), (2000, start("w2")), (4000, replace(COMPLETE, attempt=2)))
    assert reason == "JOB_TERMINAL"
    assert job is not None
    assert job.state is JobState.FAILED


def test_completion_is_never_before_creation() -> None:
    """A clock that steps back makes no job that ended before it began; the expiry counts from the end."""
    job, _ = run((10_000, CREATE), (9_000, start()), (8_000, replace(COMPLETE, attempt=1)))
    assert job is not None
    assert (job.started_at_ms, job.completed_at_ms) == (10_000, 10_000)
    assert job.expires_at_ms == 10_000 + CREATE.result_ttl_ms


def test_a_job_that_has_expired_only_by_a_step_of_the_clock_is_there_for_writes_too() -> None:
    """Nothing takes the place of a result that a clock an hour ahead would let expire."""
    ended = made((10, COMPLETE))
    assert ended.expires_at_ms is not None
    stepped = replace(POLICY, step_ms=3_600_000)
    assert run((ended.expires_at_ms + 3_599_999, replace(CREATE, provider="q")), policy=stepped, job=ended) == (
        ended,
        "JOB_EXISTS",
    )
    fresh, reason = run((ended.expires_at_ms + 3_600_000, CREATE), policy=stepped, job=ended)
    assert fresh is not None
    assert (fresh.state, reason) == (JobState.PENDING, None)


def test_an_expired_job_makes_room_for_a_new_one_with_a_later_version() -> None:
    """A create upon an expired id is a new job; its version goes on, so that compare-and-set stays safe."""
    ended = made((10, COMPLETE))
    assert ended.expires_at_ms is not None
    assert run((ended.expires_at_ms, DeleteJob(job_id="j")), job=ended) == (ended, "JOB_NOT_FOUND")
    fresh, reason = run((ended.expires_at_ms, CREATE), job=ended)
    assert reason is None
    assert fresh is not None
    assert (fresh.state, fresh.version, fresh.result) == (JobState.PENDING, ended.version + 1, None)


def test_what_the_worker_said_of_an_error_wins_over_the_job() -> None:
    """extra_fields are completed from the job where the worker left them out, and only there."""
    given = replace(
        ERROR, extra_fields=ErrorExtraFields(provider="other", original_model_requested="o", resolved_model_used="u")
    )
    job = made((10, FailJob(job_id="j", error=given)))
    assert job.error is not None
    expected = replace(given.extra_fields, model_requested="m", request_type="transcription")
    assert job.error.extra_fields == expected


def test_a_new_attempt_starts_with_a_clean_slate() -> None:
    """Progress and message belong to an attempt."""
    beat = HeartbeatJob(job_id="j", attempt=1, progress=0.5, message="half")
    job = made((0, start("w1")), (1, beat), (2001, start("w2")))
    assert (job.attempt, job.worker_id, job.progress, job.message) == (2, "w2", None, None)


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("job_id", lambda: replace(CREATE, job_id="")),
        ("job_id", lambda: replace(CREATE, job_id="a" * 129)),
        ("job_id", lambda: DeleteJob(job_id="a\n")),
        ("virtual_key_id", lambda: replace(CREATE, virtual_key_id="")),
        ("result_ttl", lambda: replace(CREATE, result_ttl_ms=999)),
        ("result_ttl", lambda: replace(CREATE, result_ttl_ms=30 * 86_400_000 + 1)),
        ("provider", lambda: replace(CREATE, provider="p" * 257)),
        ("model_requested", lambda: replace(CREATE, model_requested="a\0b")),
        ("max_attempts", lambda: replace(CREATE, max_attempts=0)),
        ("max_attempts", lambda: replace(CREATE, max_attempts=1001)),
        ("worker_id", lambda: start("")),
        ("lease", lambda: start(lease_ms=999)),
        ("lease", lambda: start(lease_ms=86_400_001)),
        ("attempt", lambda: HeartbeatJob(job_id="j", attempt=-1)),
        ("progress", lambda: HeartbeatJob(job_id="j", progress=float("nan"))),
        ("progress", lambda: HeartbeatJob(job_id="j", progress=1.001)),
        ("progress", lambda: HeartbeatJob(job_id="j", progress=-0.001)),
        ("message", lambda: HeartbeatJob(job_id="j", message="m" * 1025)),
        ("job_id", lambda: CancelJob(job_id="")),
        ("reason", lambda: CancelJob(job_id="j", reason="r" * 1025)),
        ("reason", lambda: CancelJob(job_id="j", reason="r\0")),
        ("status_code", lambda: replace(COMPLETE, status_code=99)),
        ("status_code", lambda: FailJob(job_id="j", error=ERROR, status_code=600)),
        ("error.status_code", lambda: FailJob(job_id="j", error=replace(ERROR, status_code=0))),
        ("error.error.message", lambda: FailJob(job_id="j", error=JobError(error=ErrorField(message="\0")))),
        ("error", lambda: FailJob(job_id="j", error=JobError(error=ErrorField(message="ü" * 33_000)))),
        ("error.error.error", lambda: FailJob(job_id="j", error=JobError(error=ErrorField(message="", error="\0")))),
    ],
)
def test_a_command_out_of_bounds_cannot_be_made(field: str, make: object) -> None:
    """The error names the field as the contract calls it."""
    assert callable(make)
    with pytest.raises(InvalidField) as refusal:
        make()
    assert refusal.value.metadata == {"field": field}


@pytest.mark.parametrize(
    "make",
    [
        lambda: replace(CREATE, job_id="a" * 128, result_ttl_ms=1000, max_attempts=1000),
        lambda: replace(CREATE, result_ttl_ms=30 * 86_400_000, provider="p" * 256),
        lambda: start(lease_ms=1000),
        lambda: start(lease_ms=86_400_000),
        lambda: HeartbeatJob(job_id="j", progress=0, message="m" * 1024),
        lambda: HeartbeatJob(job_id="j", progress=1),
        lambda: CancelJob(job_id="j", reason="r" * 1024),
        lambda: replace(COMPLETE, status_code=100),
        lambda: replace(COMPLETE, status_code=599),
    ],
)
def test_a_command_at_its_bounds_can_be_made(make: object) -> None:
    """Bounds belong to what is allowed."""
    assert callable(make)
    assert make().job_id
