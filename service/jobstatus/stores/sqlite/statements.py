"""The statements and their values."""

from collections.abc import Sequence
from typing import Any, Final

from jobstatus.core.rules import GIVEN_UP_CODES
from jobstatus.core.store import SMALL_RESULT_BYTES, Change
from jobstatus.stores.counting import count, signs, types
from jobstatus.stores.rows import ADDED_COLUMNS, COLUMNS, NO_ADDED, added, added_of, row_of
from jobstatus.stores.sqlite.schema import Place

_ANSWER_COLUMNS: Final = f"""
    request_type, virtual_key_id, created_at_ms, expires_at_ms,
    CASE WHEN status_code NOT IN {GIVEN_UP_CODES} THEN completed_at_ms END, version, progress, answer, length(result),
    CASE WHEN length(result) <= {SMALL_RESULT_BYTES} THEN result END"""
ANSWER: Final = f"SELECT {_ANSWER_COLUMNS}, rowid FROM jobs WHERE job_id = ?"  # noqa: S608  # fixed names
ANSWER_AT_ROWID: Final = f"SELECT {_ANSWER_COLUMNS} FROM jobs WHERE rowid = ? AND job_id = ?"  # noqa: S608


def _job(result: str, added: str) -> str:
    return f"SELECT {', '.join(COLUMNS[:-1])}, {result}, {added} FROM jobs WHERE job_id = ?"  # noqa: S608  # fixed names


_IS_SMALL: Final = f"ifnull(length(result), 0) <= {SMALL_RESULT_BYTES}"
JOBS: Final = {
    (True, Place.BEFORE_RESULT): _job("result", added()),
    (True, Place.BEHIND_RESULT): _job("result", added()),
    (True, Place.ABSENT): _job("result", NO_ADDED),
    (False, Place.BEFORE_RESULT): _job("NULL", added()),
    (False, Place.BEHIND_RESULT): _job("NULL", added(_IS_SMALL)),
    (False, Place.ABSENT): _job("NULL", NO_ADDED),
}
"""By whether the result is wanted, and where the columns are that came later. So that a large result costs nobody who
does not want it anything, they are left out where they are behind one."""
VERSION: Final = "SELECT version FROM jobs WHERE job_id = ?"
DUE: Final = "SELECT job_id FROM jobs WHERE due_at_ms <= ? ORDER BY due_at_ms LIMIT ?"
PURGE: Final = """
    DELETE FROM jobs WHERE rowid IN (SELECT rowid FROM jobs WHERE expires_at_ms <= ? ORDER BY expires_at_ms LIMIT ?)"""
HAS_EXPIRED: Final = "SELECT 1 FROM jobs WHERE expires_at_ms <= ? LIMIT 1"
COUNT: Final = count("jobs", mark="?", greatest="max")
COUNT_TYPES: Final = types("jobs")
WORKER_SIGNS: Final = signs("jobs")

_STORED: Final = (*COLUMNS, "answer", *ADDED_COLUMNS)
_INSERT: Final = (
    f"INSERT INTO jobs ({', '.join(_STORED)}) VALUES ({', '.join('?' * len(_STORED))})"  # noqa: S608  # fixed names
    " ON CONFLICT DO NOTHING"
)
"""Values: a row of COLUMNS, the answer, and those of ADDED_COLUMNS."""
_UPDATE: Final = (
    f"UPDATE jobs SET {', '.join(f'{name} = ?{place}' for place, name in enumerate(_STORED[1:], start=2))}"  # noqa: S608
    f" WHERE job_id = ?1 AND version = ?{len(_STORED) + 1}"
)
"""Values: the same, and the version that is replaced."""
_DELETE: Final = "DELETE FROM jobs WHERE job_id = ? AND version = ?"
COUNT_UP: Final = "UPDATE counters SET value = value + 1 WHERE name = ?"


def steps(changes: Sequence[Change]) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """Return each statement that `step` names for these changes, with the values of all its rows."""
    together: dict[str, list[tuple[Any, ...]]] = {}
    for change in changes:
        statement, values = step(change)
        together.setdefault(statement, []).append(values)
    return list(together.items())


def step(change: Change) -> tuple[str, tuple[Any, ...]]:
    """Return the statement that changes one row, or none when another version is stored, and its values."""
    if change.job is None:
        return _DELETE, (change.job_id, change.replaces)
    row = (*row_of(change.job), change.answer, *added_of(change.job))
    return (_UPDATE, (*row, change.replaces)) if change.replaces else (_INSERT, row)
