"""A job as a row of a SQL store, and back: the columns and their order.

The names are the domain's, so the database, the API and the logs use the same words.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from jobstatus.core.answer import error_document, to_json
from jobstatus.core.job import ErrorExtraFields, ErrorField, Job, JobError, JobState, RequestType

COLUMNS: Final = Job._fields
"""The fields of Job, in order, the result last; `error` is the contract's BifrostError as JSON."""
COLUMNS_WITHOUT_RESULT: Final = f"{', '.join(COLUMNS[:-1])}, NULL"

_REQUEST_TYPES: Final = {request_type.value: request_type for request_type in RequestType}
_STATES: Final = {state.value: state for state in JobState}
_TEXTS: Final[dict[str, str]] = {member: member.value for member in (*RequestType, *JobState)}
"""Plain strings, because drivers do not know ours. The attribute `value` costs ten times as much as a look-up."""


def row_of(job: Job) -> tuple[Any, ...]:
    """Encode a job as the values of COLUMNS."""
    job_id, request_type, state, *middle, error, result = job
    text = None if error is None else to_json(error_document(error)).decode()
    return (job_id, _TEXTS[request_type], _TEXTS[state], *middle, text, result)


def job_of(row: Sequence[Any]) -> Job:
    """Decode a row of COLUMNS."""
    job_id, request_type, state, *middle, text, result = row
    error = None if text is None else error_of(text)
    return Job._make((job_id, _REQUEST_TYPES[request_type], _STATES[state], *middle, error, result))


def error_of(text: str) -> JobError:
    """Decode a BifrostError document."""
    document = json.loads(text)
    inner, extra = ErrorField(**document.pop("error")), ErrorExtraFields(**document.pop("extra_fields"))
    return JobError(**document, error=inner, extra_fields=extra)
