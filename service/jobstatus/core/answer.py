"""The public document of a job: AsyncJobResponse of the REST contract, as bytes.

Rendered when the job changes, not when it is polled. An allow-list: nothing that is not named here can reach a client.
Keys stand in the contract's order and are left out where they have no value.
"""

import json
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from jobstatus.core.job import Job, JobError
from jobstatus.core.rules import GATEWAY_TIMEOUT

RESULT_TAIL: Final = b"}"
"""Closes a document whose `render` ended in front of the result."""

_to_text: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_find_end: Final = re.compile(rb'"completed_at":"([^"]+)","status_code":(\d+)').search


def timestamp(at_ms: int) -> str:
    """RFC 3339 in UTC with milliseconds and Z."""
    return f"{_second(at_ms // 1000)}.{at_ms % 1000:03}Z"


@lru_cache(4096)
def _second(at_seconds: int) -> str:
    """Remembered, since jobs that change at the same time share most of theirs."""
    return datetime.fromtimestamp(at_seconds, UTC).isoformat()[: len("2026-01-31T23:59:59")]


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
    return _to_text(document).encode()


def render(job: Job) -> bytes:
    """The job's document; for a completed job all that stands before the result, which RESULT_TAIL then follows.

    Spelt out, since it is made for each write: nothing in it but the error has a character that JSON would escape.
    """
    text = f'{{"id":"{job.job_id}","status":"{job.state.value}"'
    if job.expires_at_ms is not None:
        text += f',"expires_at":"{timestamp(job.expires_at_ms)}"'
    text += f',"created_at":"{timestamp(job.created_at_ms)}"'
    if job.completed_at_ms is not None:
        text += f',"completed_at":"{timestamp(job.completed_at_ms)}"'
    if job.status_code is not None:
        text += f',"status_code":{job.status_code}'
    if job.error is not None:
        text += f',"error":{_to_text(error_document(job.error))}'
    return (text + ("}" if job.result is None else ',"result":')).encode()


def ended_at_ms(document: bytes) -> int | None:
    """When a job ended of its own accord, from what `render` made of it; None for one that was given up, or goes on."""
    end = _find_end(document)
    if end is None or int(end[2]) == GATEWAY_TIMEOUT:
        return None
    return round(datetime.fromisoformat(end[1].decode()).timestamp() * 1000)
