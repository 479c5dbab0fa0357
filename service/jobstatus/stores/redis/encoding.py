"""A job as a hash, and back.

What a poll and the scripts need is in fields of its own; the whole job without its result is `row`, a JSON object with
the names of `rows.COLUMNS`. A result that comes along with an answer is `small_result`, a larger one `large_result`, so
that neither the server nor the network handles more than was asked for. Absent values have no field.
"""

import json
from collections.abc import Sequence
from typing import Final

from jobstatus.core.job import Job
from jobstatus.core.store import SMALL_RESULT_BYTES, Answer, Change, ended_at_ms
from jobstatus.stores.redis.cluster.connection import Word
from jobstatus.stores.redis.keys import encoded
from jobstatus.stores.rows import ADDED_COLUMNS, COLUMNS, job_of, row_of

ANSWER_FIELDS: Final = (
    "request_type",
    "virtual_key_id",
    "created_at_ms",
    "expires_at_ms",
    "ended_at_ms",
    "version",
    "progress",
    "body",
    "result_size",
    "small_result",
)
"""What `answer_of` decodes. Jobs written by an earlier version have no `ended_at_ms`."""
RESULT_FIELDS: Final = ("small_result", "large_result")

TTL_SLACK_MS: Final = 24 * 60 * 60 * 1000
"""How much later than its expiry the server itself drops a job, so that the purge comes first, and a clock of the
server that steps by less takes no result away."""

_ROW_COLUMNS: Final = COLUMNS[:-1]  # all but the result
_ADDED_NAMES: Final = ADDED_COLUMNS[:2]
"""In `row`, too. An earlier version writes `row` anew, without them."""


def change_arguments(change: Change) -> list[Word]:
    """Return the arguments of the script `COMMIT` for one change."""
    job = change.job
    if job is None or change.answer is None:
        return [encoded(change.job_id), change.replaces, "", "", "", "", 0]
    fields = _fields(job, change.answer)
    wakes_at_ms = job.expires_at_ms if job.is_terminal else job.due_at_ms
    return [
        encoded(change.job_id),
        change.replaces,
        job.state.value,
        "+inf" if wakes_at_ms is None else wakes_at_ms,
        job.created_at_ms,
        job.result_ttl_ms + TTL_SLACK_MS if job.is_terminal else "",
        len(fields),
        *fields,
    ]


def answer_of(found: Sequence[bytes | None]) -> Answer | None:
    """Decode the values of ANSWER_FIELDS."""
    request_type, virtual_key_id, created_at_ms, expires_at_ms, ended, version, progress, body, size, result = found
    if request_type is None or created_at_ms is None or version is None or body is None:
        return None
    return Answer(
        request_type.decode(),
        None if virtual_key_id is None else virtual_key_id.decode(),
        int(created_at_ms),
        None if expires_at_ms is None else int(expires_at_ms),
        None if ended is None else int(ended),
        int(version),
        None if progress is None else float(progress),
        body,
        None if size is None else int(size),
        result,
    )


def job_in(row: bytes, result: bytes | None) -> Job:
    """Decode a job from its `row` and its result."""
    document = json.loads(row)
    return job_of([*map(document.get, _ROW_COLUMNS), result, *map(document.get, _ADDED_NAMES)])


def row_text(document: object) -> bytes:
    """Encode `row`, or a part of it, always in the same way, so that a part can be sought as text."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _fields(job: Job, answer: bytes) -> list[Word]:
    """Encode a job as field, value, field, value, …"""
    row = zip((*_ROW_COLUMNS, *_ADDED_NAMES), (*row_of(job)[:-1], job.last_writer, job.traceparent), strict=True)
    document = {name: value for name, value in row if value is not None}
    result = job.result
    is_small = result is not None and len(result) <= SMALL_RESULT_BYTES
    values: dict[str, Word | None] = {
        "version": job.version,
        "state": job.state.value,
        "request_type": job.request_type.value,
        "virtual_key_id": job.virtual_key_id,
        "created_at_ms": job.created_at_ms,
        "expires_at_ms": job.expires_at_ms,
        "ended_at_ms": ended_at_ms(job),
        "progress": None if job.progress is None else repr(job.progress),
        "body": answer,
        "row": row_text(document),
        "result_size": None if result is None else len(result),
        RESULT_FIELDS[0 if is_small else 1]: result,
    }
    return [word for name, value in values.items() if value is not None for word in (name, value)]
