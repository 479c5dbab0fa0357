"""The public document of a job: AsyncJobResponse of the REST contract, as bytes.

Rendered when the job changes, not when it is polled. An allow-list: nothing that is not named here can reach a client.
Keys stand in the contract's order and are left out where they have no value.
"""

import json
from datetime import UTC, datetime
from typing import Any, Final

from jobstatus.core.job import Job, JobError

RESULT_TAIL: Final = b"}"
"""Closes a document whose `render` ended in front of the result."""


def timestamp(at_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds and Z."""
    return datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03}Z"


def _present(**fields: object) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def error_document(error: JobError) -> dict[str, Any]:
    """BifrostError of the contract: `is_bifrost_error`, `error` and `extra_fields` always, the rest where it is set."""
    inner, extra = error.error, error.extra_fields
    return _present(
        event_id=error.event_id,
        type=error.type,
        is_bifrost_error=error.is_bifrost_error,
        status_code=error.status_code,
        error=_present(
            type=inner.type, code=inner.code, message=inner.message, param=inner.param, event_id=inner.event_id
        ),
        extra_fields=_present(
            provider=extra.provider, model_requested=extra.model_requested, request_type=extra.request_type
        ),
    )


def to_json(document: object) -> bytes:
    """Compact UTF-8."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def render(job: Job) -> bytes:
    """The job's document; for a completed job all that stands before the result, which RESULT_TAIL then follows."""
    document = to_json(
        _present(
            id=job.job_id,
            status=job.state.value,
            expires_at=None if job.expires_at_ms is None else timestamp(job.expires_at_ms),
            created_at=timestamp(job.created_at_ms),
            completed_at=None if job.completed_at_ms is None else timestamp(job.completed_at_ms),
            status_code=job.status_code,
            error=None if job.error is None else error_document(job.error),
        )
    )
    return document if job.result is None else document[:-1] + b',"result":'
