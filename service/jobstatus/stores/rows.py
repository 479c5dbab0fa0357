"""A job as a row: the columns that every SQL store has, in their order, and the way there and back.

The names are the domain's, so that a person who looks into the database reads the same words as everywhere else.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from jobstatus.core.answer import error_document, to_json
from jobstatus.core.job import ErrorExtraFields, ErrorField, Job, JobError, JobState, RequestType

COLUMNS: Final = (
    "job_id",
    "request_type",
    "state",
    "version",
    "virtual_key_id",
    "provider",
    "model_requested",
    "created_at_ms",
    "started_at_ms",
    "completed_at_ms",
    "expires_at_ms",
    "due_at_ms",
    "result_ttl_ms",
    "status_code",
    "attempt",
    "max_attempts",
    "worker_id",
    "lease_ms",
    "lease_expires_at_ms",
    "progress",
    "message",
    "error",
    "result",
)
"""Column for column a field of Job of the same name; `error` is the contract's BifrostError as JSON."""


def row_of(job: Job) -> tuple[Any, ...]:
    """The values of COLUMNS."""
    return (
        job.job_id,
        job.request_type.value,
        job.state.value,
        job.version,
        job.virtual_key_id,
        job.provider,
        job.model_requested,
        job.created_at_ms,
        job.started_at_ms,
        job.completed_at_ms,
        job.expires_at_ms,
        job.due_at_ms,
        job.result_ttl_ms,
        job.status_code,
        job.attempt,
        job.max_attempts,
        job.worker_id,
        job.lease_ms,
        job.lease_expires_at_ms,
        job.progress,
        job.message,
        None if job.error is None else to_json(error_document(job.error)).decode(),
        job.result,
    )


def job_of(row: Sequence[Any]) -> Job:
    """The job that a row of COLUMNS stands for."""
    fields: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    fields["request_type"] = RequestType(fields["request_type"])
    fields["state"] = JobState(fields["state"])
    if fields["error"] is not None:
        fields["error"] = error_of(fields["error"])
    return Job(**fields)


def error_of(text: str) -> JobError:
    """The error that a BifrostError document stands for."""
    document = json.loads(text)
    inner, extra = ErrorField(**document.pop("error")), ErrorExtraFields(**document.pop("extra_fields"))
    return JobError(**document, error=inner, extra_fields=extra)
