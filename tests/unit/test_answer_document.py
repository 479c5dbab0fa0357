"""The public document of a job is spelt out by hand; it has to be the JSON that a serialiser would have made."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jobstatus.core.answer import RESULT_TAIL, render, timestamp, to_json
from jobstatus.core.commands import Command, CompleteJob, CreateJob, FailJob, StartJob
from jobstatus.core.job import ErrorField, Job, JobError, RequestType
from jobstatus.core.rules import Policy, decide

CREATE = CreateJob(job_id="job_1-A", request_type=RequestType.TRANSCRIPTION)
CREATED_AT_MS = 1_700_000_000_005
LAST_MS = 253_402_300_799_999  # of the year 9999


def after(*commands: Command) -> Job:
    """The job that they make, a second apart."""
    job: Job | None = None
    for seconds, command in enumerate((CREATE, *commands)):
        job, _ = decide(job, command, CREATED_AT_MS + 1000 * seconds, Policy())
    assert job is not None
    return job


@pytest.mark.parametrize(
    ("commands", "document"),
    [
        ((), b'{"id":"job_1-A","status":"pending","created_at":"2023-11-14T22:13:20.005Z"}'),
        (
            (StartJob(job_id="job_1-A", worker_id="w"),),
            b'{"id":"job_1-A","status":"processing","created_at":"2023-11-14T22:13:20.005Z"}',
        ),
        (
            (CompleteJob(job_id="job_1-A", result=b'{"text" : "hello"}', status_code=201),),
            (
                b'{"id":"job_1-A","status":"completed","expires_at":"2023-11-14T23:13:21.005Z",'
                b'"created_at":"2023-11-14T22:13:20.005Z","completed_at":"2023-11-14T22:13:21.005Z","status_code":201,'
                b'"result":{"text" : "hello"}}'
            ),
        ),
    ],
)
def test_keys_stand_in_the_order_of_the_contract(commands: tuple[Command, ...], document: bytes) -> None:
    """What has no value is left out, and a result stays as it was sent."""
    job = after(*commands)
    assert render(job) + (b"" if job.result is None else job.result + RESULT_TAIL) == document


@given(message=st.text(), code=st.text() | st.none())
def test_a_failed_job_is_compact_json(message: str, code: str | None) -> None:
    """Whatever a worker says of its failure is escaped, and read back as it was."""
    error = JobError(error=ErrorField(message=message.replace("\0", ""), code=code and code.replace("\0", "")))
    job = after(FailJob(job_id=CREATE.job_id, error=error))
    document = json.loads(render(job))
    assert to_json(document) == render(job)
    assert list(document) == ["id", "status", "expires_at", "created_at", "completed_at", "status_code", "error"]
    assert (document["error"]["error"]["message"], document["error"]["error"].get("code")) == (
        error.error.message,
        error.error.code,
    )


@given(at_ms=st.integers(0, LAST_MS))
def test_times_are_what_they_were(at_ms: int) -> None:
    """To the millisecond, in UTC, with Z."""
    text = timestamp(at_ms)
    assert len(text) == len("2026-01-31T23:59:59.999Z")
    assert text.endswith("Z")
    assert datetime.fromisoformat(text) == datetime.fromtimestamp(at_ms // 1000, UTC).replace(
        microsecond=at_ms % 1000 * 1000
    )
