"""Rows that an earlier version wrote still load."""

import pytest
from jobstatus.core.job import ErrorExtraFields, ErrorField, Job, JobError, JobState, RequestType
from jobstatus.stores.redis.encoding import job_in
from jobstatus.stores.rows import COLUMNS, job_of, row_of

BARE = (
    '{"is_bifrost_error":false,"error":{"message":"m"},"extra_fields":{"request_type":"transcription"}}',
    JobError(error=ErrorField(message="m"), extra_fields=ErrorExtraFields(request_type="transcription")),
)
FULL = (
    (
        '{"event_id":"a","type":"b","is_bifrost_error":true,"status_code":400,'
        '"error":{"type":"c","code":"d","message":"e","param":"f","event_id":"g"},'
        '"extra_fields":{"provider":"h","model_requested":"i","request_type":"j"}}'
    ),
    JobError(
        event_id="a",
        type="b",
        is_bifrost_error=True,
        status_code=400,
        error=ErrorField(type="c", code="d", message="e", param="f", event_id="g"),
        extra_fields=ErrorExtraFields(provider="h", model_requested="i", request_type="j"),
    ),
)


def failed(error: JobError) -> Job:
    return Job(
        job_id="job-1",
        request_type=RequestType.TRANSCRIPTION,
        state=JobState.FAILED,
        version=2,
        virtual_key_id=None,
        provider=None,
        model_requested=None,
        created_at_ms=1,
        result_ttl_ms=1000,
        max_attempts=1,
        completed_at_ms=2,
        expires_at_ms=1002,
        status_code=500,
        error=error,
    )


@pytest.mark.parametrize(("text", "error"), [BARE, FULL])
def test_errors_from_before_upstreams_newer_members_are_read_and_written_as_they_were(
    text: str, error: JobError
) -> None:
    """`error.error`, `original_model_requested` and `resolved_model_used` are absent from them."""
    job = failed(error)
    row = row_of(job)
    assert row[COLUMNS.index("error")] == text
    assert job_of((*row, None, None)) == job


def test_a_hash_from_before_upstreams_newer_members_is_read() -> None:
    """On Redis and Valkey the row is JSON, with the error's JSON as a string in it."""
    text, error = FULL
    job = failed(error)
    quoted = text.replace('"', '\\"')
    row = (
        '{"job_id":"job-1","request_type":"transcription","state":"failed","version":2,"created_at_ms":1,'
        '"result_ttl_ms":1000,"max_attempts":1,"completed_at_ms":2,"expires_at_ms":1002,"status_code":500,"attempt":0,'
        f'"error":"{quoted}"}}'
    )
    assert job_in(row.encode(), None) == job
