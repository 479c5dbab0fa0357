"""A job as a row of a SQL store, and back: the columns and their order.

The names are the domain's, so the database, the API and the logs use the same words.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from jobstatus.core.answer import error_document, to_json
from jobstatus.core.job import ErrorExtraFields, ErrorField, Job, JobError, JobState, RequestType

_ADDED_FIELDS: Final = ("last_writer", "traceparent")
COLUMNS: Final = Job._fields[: -len(_ADDED_FIELDS)]
"""The fields of Job that every version stores, in order, the result last; `error` is the BifrostError as JSON."""
ADDED_COLUMNS: Final = (*_ADDED_FIELDS, "annotated_version")
"""Columns that came later, and that earlier versions, which may use the same store, leave as they are when they write
a job. So the two fields count only where `annotated_version`, with which they were written, is the job's version."""
NO_ADDED: Final = ", ".join(["NULL"] * len(_ADDED_FIELDS))
COLUMNS_WITHOUT_RESULT: Final = f"{', '.join(COLUMNS[:-1])}, NULL, {NO_ADDED}"
"""Of these a listing is made."""

_REQUEST_TYPES: Final = {request_type.value: request_type for request_type in RequestType}
_STATES: Final = {state.value: state for state in JobState}
_TEXTS: Final[dict[str, str]] = {member: member.value for member in (*RequestType, *JobState)}
"""Plain strings, because drivers do not know ours. The attribute `value` costs ten times as much as a look-up."""


def added(condition: str = "true") -> str:
    """Return the two fields that came later, as SQL. Where the condition does not hold they are not read."""
    return ", ".join(f"CASE WHEN {condition} AND annotated_version = version THEN {name} END" for name in _ADDED_FIELDS)


def row_of(job: Job) -> tuple[Any, ...]:
    """Encode a job as the values of COLUMNS."""
    job_id, request_type, state, *middle, error, result, _, _ = job
    text = None if error is None else to_json(error_document(error)).decode()
    return (job_id, _TEXTS[request_type], _TEXTS[state], *middle, text, result)


def added_of(job: Job) -> tuple[str | None, str | None, int | None]:
    """Encode a job as the values of ADDED_COLUMNS."""
    last_writer, traceparent = job[-2:]
    return last_writer, traceparent, None if last_writer is traceparent is None else job.version


def job_of(row: Sequence[Any]) -> Job:
    """Decode a row of COLUMNS and the two fields that came later."""
    job_id, request_type, state, *middle, text, result, last_writer, traceparent = row
    error = None if text is None else error_of(text)
    return Job._make(
        (job_id, _REQUEST_TYPES[request_type], _STATES[state], *middle, error, result, last_writer, traceparent)
    )


def error_code_text(code: str) -> str:
    """Return the text that the column `error` contains exactly where the error has this code.

    A quotation mark inside a value is escaped, so the text cannot be a part of a message.
    """
    return f'"code":{to_json(code).decode()}'


def error_of(text: str) -> JobError:
    """Decode a BifrostError document."""
    document = json.loads(text)
    inner, extra = ErrorField(**document.pop("error")), ErrorExtraFields(**document.pop("extra_fields"))
    return JobError(**document, error=inner, extra_fields=extra)
