"""The statements and their values: one statement for each batch, whatever its size."""

from collections.abc import Sequence
from typing import Any, Final

from jobstatus.core.rules import GIVEN_UP_CODES
from jobstatus.core.store import SMALL_RESULT_BYTES, Change
from jobstatus.stores.counting import count, signs, types
from jobstatus.stores.rows import ADDED_COLUMNS, COLUMNS, NO_ADDED, added, added_of, row_of

_TYPES: Final = {
    "text": "job_id request_type state virtual_key_id provider model_requested worker_id message error last_writer"
    " traceparent",
    "bigint": "version created_at_ms started_at_ms completed_at_ms expires_at_ms due_at_ms result_ttl_ms lease_ms"
    " lease_expires_at_ms replaces annotated_version",
    "integer": "status_code attempt max_attempts",
    "double precision": "progress",
    "bytea": "answer result",
    "boolean": "is_deletion",
}
_TYPE_OF: Final = {column: name for name, columns in _TYPES.items() for column in columns.split()}
_STORED: Final = (*COLUMNS, "answer")

ANSWERS: Final = f"""
    SELECT job_id, request_type, virtual_key_id, created_at_ms, expires_at_ms,
           CASE WHEN status_code NOT IN {GIVEN_UP_CODES} THEN completed_at_ms END, version, progress, answer,
           octet_length(result), CASE WHEN octet_length(result) <= {SMALL_RESULT_BYTES} THEN result END
    FROM jobstatus.jobs WHERE job_id = ANY(%s::text[])"""  # noqa: S608  # fixed names here and below


def _jobs(*, with_results: bool, has_added: bool) -> str:
    """Return the statement that reads jobs."""
    result, later = "result" if with_results else "NULL", added() if has_added else NO_ADDED
    return f"SELECT {', '.join(COLUMNS[:-1])}, {result}, {later} FROM jobstatus.jobs WHERE job_id = ANY(%s::text[])"  # noqa: S608


def _commit(*, has_added: bool) -> str:
    """Return the statement that makes the changes of a batch.

    Rows are inserted in the order of their ids, in which the values come, and then locked in that order, whatever plan
    is chosen, so that two batches wait for each other instead of deadlocking.
    """
    stored = (*_STORED, *ADDED_COLUMNS) if has_added else _STORED
    given = (*stored, "replaces", "is_deletion")
    return f"""
    WITH given AS (
        SELECT * FROM unnest({", ".join(f"%b::{_TYPE_OF[column]}[]" for column in given)})
        AS given({", ".join(given)})
    ), inserted AS (
        INSERT INTO jobstatus.jobs ({", ".join(stored)}) SELECT {", ".join(stored)} FROM given
        WHERE replaces = 0 AND NOT is_deletion ON CONFLICT (job_id) DO NOTHING RETURNING job_id
    ), held AS MATERIALIZED (
        SELECT job.job_id FROM jobstatus.jobs AS job
        JOIN given ON job.job_id = given.job_id AND job.version = given.replaces ORDER BY job.job_id FOR UPDATE OF job
    ), updated AS (
        UPDATE jobstatus.jobs AS job SET {", ".join(f"{column} = given.{column}" for column in stored[1:])}
        FROM given JOIN held USING (job_id) WHERE job.job_id = given.job_id AND NOT given.is_deletion
        RETURNING job.job_id
    ), deleted AS (
        DELETE FROM jobstatus.jobs AS job USING given JOIN held USING (job_id)
        WHERE job.job_id = given.job_id AND given.is_deletion RETURNING job.job_id
    )
    SELECT job_id FROM inserted UNION ALL SELECT job_id FROM updated UNION ALL SELECT job_id FROM deleted"""  # noqa: S608


JOBS: Final = {
    (with_results, has_added): _jobs(with_results=with_results, has_added=has_added)
    for with_results in (False, True)
    for has_added in (False, True)
}
"""By whether results are wanted, and whether the table has the columns that came later."""
COMMIT: Final = {has_added: _commit(has_added=has_added) for has_added in (False, True)}
"""By whether the table has the columns that came later."""
CONFIRM: Final = """
    SELECT CASE WHEN current_setting('synchronous_standby_names') <> ''
                THEN pg_logical_emit_message(true, 'jobstatus', '') END"""
"""Waits, as a commit does, until the synchronous standbys have everything that was committed before."""
HANGING: Final = """
    SELECT count(*) FROM pg_stat_activity
    WHERE usename = current_user AND datname = current_database() AND state = 'active' AND backend_xid IS NOT NULL
    AND query LIKE '%%jobstatus.%%' AND query_start < clock_timestamp() - %s * interval '1 second'"""
"""Counts the writes that have been under way for longer than their callers wait."""
CHANGED: Final = """
    SELECT given.job_id, coalesce(job.version, 0)
    FROM unnest(%s::text[], %s::bigint[]) AS given(job_id, version) LEFT JOIN jobstatus.jobs AS job USING (job_id)
    WHERE coalesce(job.version, 0) <> given.version"""
# These begin where `sweep_position` says, to the right of the entries of jobs that have gone.
DUE: Final = """
    SELECT job_id, due_at_ms FROM jobstatus.jobs WHERE due_at_ms BETWEEN %s AND %s ORDER BY due_at_ms LIMIT %s"""
PURGE: Final = """
    DELETE FROM jobstatus.jobs WHERE job_id IN (
        SELECT job_id FROM jobstatus.jobs WHERE expires_at_ms BETWEEN %s AND %s ORDER BY expires_at_ms LIMIT %s
        FOR UPDATE SKIP LOCKED)
    RETURNING expires_at_ms"""
COUNT: Final = count("jobstatus.jobs", mark="%s", greatest="greatest")
COUNT_TYPES: Final = types("jobstatus.jobs")
WORKER_SIGNS: Final = signs("jobstatus.jobs")
_AND_TIME: Final = "SELECT EXISTS (SELECT FROM claim), (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
CLAIM: Final = f"""
    WITH claim AS (INSERT INTO jobstatus.claims VALUES ('sweep', %s, clock_timestamp() + %s * interval '1 millisecond')
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, ends_at = excluded.ends_at
    WHERE claims.holder = excluded.holder OR claims.ends_at <= clock_timestamp() RETURNING name)
    {_AND_TIME}"""  # noqa: S608  # constants
GIVE_BACK: Final = f"""
    WITH claim AS (DELETE FROM jobstatus.claims WHERE name = 'sweep' AND holder = %s RETURNING name)
    {_AND_TIME}"""  # noqa: S608  # constants
PROBE: Final = "UPDATE jobstatus.counters SET value = value + 1 WHERE name = 'probes' RETURNING value"


def askable(texts: Sequence[str]) -> list[str]:
    """Return the texts that can be an id: PostgreSQL rejects a query with a NUL."""
    return [text for text in texts if text.isprintable()]


def columns_of(changes: Sequence[Change], *, has_added: bool) -> list[list[Any]]:
    """Return the values of COMMIT, column by column, in the order of the ids."""
    nothing = (None,) * (len(_STORED) - 1 + (len(ADDED_COLUMNS) if has_added else 0))
    rows = [
        (change.job_id, *nothing, change.replaces, True)
        if change.job is None
        else (
            *row_of(change.job),
            change.answer,
            *(added_of(change.job) if has_added else ()),
            change.replaces,
            False,
        )
        for change in sorted(changes, key=lambda change: change.job_id)
    ]
    return [list(column) for column in zip(*rows, strict=True)]
