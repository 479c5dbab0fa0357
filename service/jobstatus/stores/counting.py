"""The count of all jobs in SQL, the same in every SQL store except for the placeholder of a value and one function.

`count` reads the two small indexes, which hold the state, and of the rows OLDEST_SOUGHT of each state that is not
terminal.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from jobstatus.core.job import JobState, RequestType
from jobstatus.core.store import OLDEST_SOUGHT, JobCount


def count(table: str, *, mark: str, greatest: str) -> str:
    """Return the statement that counts. `mark` is the placeholder, `greatest` the function of several values."""

    def first(state: JobState) -> str:
        """Return the rows of a state that time out first."""
        return (
            f"(SELECT * FROM {table} WHERE due_at_ms IS NOT NULL AND state = '{state.value}'"  # noqa: S608  # fixed names
            f" ORDER BY due_at_ms LIMIT {OLDEST_SOUGHT}) AS {state.value}"
        )

    def counted(state: JobState) -> str:
        return f"count(*) FILTER (WHERE state = '{state.value}') AS {state.value}_count"

    leased_until = (
        f"CASE WHEN lease_ms IS NULL THEN coalesce(started_at_ms, created_at_ms)"
        f" ELSE {greatest}(lease_expires_at_ms, {mark} + lease_ms) END"
    )
    return f"""
    SELECT * FROM
    (SELECT {counted(JobState.PENDING)}, {counted(JobState.PROCESSING)}
     FROM {table} WHERE due_at_ms IS NOT NULL) AS due,
    (SELECT {counted(JobState.COMPLETED)}, {counted(JobState.FAILED)}
     FROM {table} WHERE expires_at_ms IS NOT NULL) AS expiring,
    (SELECT min(created_at_ms) AS oldest_created_ms FROM {first(JobState.PENDING)}) AS oldest,
    (SELECT min({leased_until}) AS leased_until_ms FROM {first(JobState.PROCESSING)}) AS leased"""  # noqa: S608


def types(table: str) -> str:
    """Return the statement that counts the jobs of each state and type; it reads the index of listings alone."""
    return f"SELECT state, request_type, count(*) FROM {table} GROUP BY state, request_type"  # noqa: S608  # fixed names


def signs(table: str) -> str:
    """Return the statement that finds the values of a WorkerSigns."""
    return f"""
    SELECT max(lease_expires_at_ms - lease_ms), max(lease_expires_at_ms - lease_ms * 3 / 5),
        count(*) FILTER (WHERE lease_ms IS NULL)
    FROM (SELECT lease_ms, lease_expires_at_ms FROM {table} WHERE due_at_ms IS NOT NULL
        AND state = '{JobState.PROCESSING}' ORDER BY due_at_ms DESC LIMIT {OLDEST_SOUGHT}) AS processing"""  # noqa: S608


def types_of(rows: Iterable[Sequence[Any]]) -> dict[tuple[JobState, RequestType], int]:
    """Decode the rows of `types`."""
    return {(JobState(state), RequestType(request_type)): number for state, request_type, number in rows}


def count_values(leases_count_from_ms: int) -> tuple[int]:
    """Return the values of the statement."""
    return (leases_count_from_ms,)


def count_of(row: Sequence[Any]) -> JobCount:
    """Decode the row that the statement finds."""
    *counts, oldest_created_ms, leased_until_ms = row
    return JobCount(dict(zip(JobState, counts, strict=True)), oldest_created_ms, leased_until_ms)
