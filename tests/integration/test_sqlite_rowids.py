"""Polls that find a job by the rowid that it had: never another job's row, never a row that is gone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import apsw
import pytest
from harness.sqlite_files import hooked, opened
from harness.stores import change, deletion, job
from jobstatus.core.answer import render
from jobstatus.core.store import answer_of
from jobstatus.stores.sqlite import SQLiteJobStore
from jobstatus.stores.sqlite.limits import SQLiteLimits

ONE: Final = job("one", created_at_ms=1)
TWO: Final = job("two", created_at_ms=2)


@pytest.fixture
def by_rowid() -> Iterator[list[bool]]:
    """For each answer that was read from a file, whether by its rowid or else by its id."""
    reads: list[bool] = []

    def trace(_: apsw.Cursor, statement: str, __: object) -> bool:
        if "answer" in statement and statement.lstrip().startswith("SELECT"):
            reads.append("rowid = ?" in statement)
        return True

    def watch(connection: apsw.Connection) -> None:
        connection.exec_trace = trace

    with hooked(watch):
        yield reads


def shown(store: SQLiteJobStore, job_id: str) -> int | None:
    """When the job was created that a poll shows, whose answer has to be the one that belongs to it."""
    answer = store.try_read_answer(job_id)
    if answer is None:
        return None
    made = {each.created_at_ms: each for each in (ONE, TWO, ONE._replace(created_at_ms=3))}
    found = answer_of(made[answer.created_at_ms], render(made[answer.created_at_ms]))  # type: ignore[union-attr]
    assert answer == found
    return found.created_at_ms


async def test_a_second_poll_needs_no_index(tmp_path: Path, by_rowid: list[bool]) -> None:
    """What has changed meanwhile is seen all the same."""
    async with opened(tmp_path / "jobs.db") as (store, _):
        await store.commit([change(ONE)])
        assert shown(store, "one") == 1
        assert shown(store, "one") == 1
        following = ONE._replace(version=2, message="on its way")
        await store.commit([change(following, replaces=1)])
        assert store.try_read_answer("one") == answer_of(following, render(following))
    assert by_rowid == [False, True, True]


async def test_a_row_that_another_job_has_now_is_not_shown(tmp_path: Path, by_rowid: list[bool]) -> None:
    """A rowid is given again once its job has gone, also by another process."""
    async with opened(tmp_path / "jobs.db") as (store, _), opened(tmp_path / "jobs.db") as (other, _):
        await store.commit([change(ONE)])
        assert shown(store, "one") == 1
        await other.commit([deletion("one", replaces=1)])
        assert shown(store, "one") is None
        await other.commit([change(TWO)])
        assert [shown(store, name) for name in ("one", "two")] == [None, 2]
        await other.commit([change(ONE._replace(created_at_ms=3))])
        assert [shown(store, name) for name in ("one", "two")] == [3, 2]
        by_rowid.clear()
        assert [shown(store, name) for name in ("one", "two")] == [3, 2]
    assert by_rowid == [True, True]


async def test_cached_rowids_are_bounded(tmp_path: Path, by_rowid: list[bool]) -> None:
    """And a job that there is not is not cached."""
    names = [f"job-{number}" for number in range(3)]
    async with opened(tmp_path / "jobs.db", limits=SQLiteLimits(max_rowids=2)) as (store, _):
        await store.commit([change(job(name)) for name in names])
        for name in (*names[:2], "unknown", *names[:2], names[2], names[0], names[2]):
            assert (store.try_read_answer(name) is None) == (name == "unknown")
    assert by_rowid == [False, False, False, True, True, False, False, True]
