"""The public document of a job: AsyncJobResponse of the REST contract, as bytes.

It is rendered when the job changes, not when it is polled. It is an allow-list: nothing that is not named here reaches
a client. Keys are in the contract's order; those without a value are left out.
"""

import json
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from jobstatus.core.job import Job, JobError

RESULT_TAIL: Final = b"}"
"""Closes the document of a completed job, after its result."""

_to_text: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


@lru_cache(4096)
def timestamp(at_ms: int) -> str:
    """Format as RFC 3339 in UTC with milliseconds and Z.

    Cached, because jobs that change in the same batch share most of their timestamps.
    """
    return f"{_second(at_ms // 1000)}.{at_ms % 1000:03}Z"


@lru_cache(4096)
def _second(at_seconds: int) -> str:
    """Cached for jobs that change one by one."""
    return datetime.fromtimestamp(at_seconds, UTC).isoformat()[: len("2026-01-31T23:59:59")]


def _present(**fields: object) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def error_document(error: JobError) -> dict[str, Any]:
    """Return the contract's BifrostError: `is_bifrost_error`, `error`, `extra_fields`, and other keys that are set."""
    inner, extra = error.error, error.extra_fields
    return _present(
        event_id=error.event_id,
        type=error.type,
        is_bifrost_error=error.is_bifrost_error,
        status_code=error.status_code,
        error=_present(
            type=inner.type,
            code=inner.code,
            message=inner.message,
            param=inner.param,
            event_id=inner.event_id,
            error=inner.error,
        ),
        extra_fields=_present(
            provider=extra.provider,
            model_requested=extra.model_requested,
            request_type=extra.request_type,
            original_model_requested=extra.original_model_requested,
            resolved_model_used=extra.resolved_model_used,
        ),
    )


def to_json(document: object) -> bytes:
    """Encode as compact JSON in UTF-8."""
    return _to_text(document).encode()


def render(job: Job) -> bytes:
    """Return the job's document; for a completed job all that precedes the result, which RESULT_TAIL then follows."""
    return _document(job, has_result=job.result is not None)


def render_without_result(job: Job) -> bytes:
    """As `render`, for a completed job that was read without its result."""
    return _document(job, has_result=True)


def _document(job: Job, *, has_result: bool) -> bytes:
    """Spelt out, because it is made for each write: only the error has characters that JSON would escape."""
    text = '{"id":"' + job.job_id + '","status":"' + job.state + '"'
    if job.expires_at_ms is not None:
        text += f',"expires_at":"{timestamp(job.expires_at_ms)}"'
    text += f',"created_at":"{timestamp(job.created_at_ms)}"'
    if job.completed_at_ms is not None:
        text += f',"completed_at":"{timestamp(job.completed_at_ms)}"'
    if job.status_code is not None:
        text += f',"status_code":{job.status_code}'
    if job.error is not None:
        text += f',"error":{_to_text(error_document(job.error))}'
    return (text + (',"result":' if has_result else "}")).encode()
