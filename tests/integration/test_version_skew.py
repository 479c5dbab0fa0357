"""An earlier version serves the same store: its statements, kept as it executes them, beside those of this one.

`first_build.json` has the schema and the statements of commit 70efd8f, and a job as it writes one. `make skew` lets the
two builds themselves serve one store.
"""

import json
import logging
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import apsw
import psycopg
import pytest
from harness.faulty_vfs import faulty_disk
from harness.logged import events_logged
from harness.postgresql import server
from harness.stores import PATIENT_POSTGRESQL, change, job, store_in
from harness.waiting import until
from jobstatus.core.job import JobState
from jobstatus.core.store import Listing, Store
from jobstatus.stores.postgresql import PostgreSQLJobStore
from jobstatus.stores.postgresql.limits import PostgreSQLLimits
from jobstatus.stores.redis.encoding import change_arguments
from jobstatus.stores.rows import job_of
from jobstatus.stores.sqlite import SQLiteJobStore
from jobstatus.stores.sqlite.schema import ADDED

FIRST: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("first_build.json").read_text())
OLD: Final = job_of([*FIRST["row"], None, None])
"""The job that the earlier version wrote."""
NEW: Final = job(
    "new", state=JobState.PROCESSING, last_writer="gateway.test", traceparent=f"00-{'a' * 32}-{'b' * 16}-01"
)


def row_at(version: int, job_id: str) -> list[Any]:
    """The values of the earlier version's row, for this job."""
    row = list(FIRST["row"])
    row[0], row[3] = job_id, version
    return row


async def read(store: Store, *job_ids: str, with_results: bool = True) -> list[Any]:
    return await store.read_jobs(job_ids, with_results=with_results)


async def works_beside_it(store: Store) -> None:
    """The earlier version's job is read, and changed by this version with what only this one knows."""
    assert await read(store, "old") == [OLD]
    later = OLD._replace(version=3, last_writer="worker.test", traceparent=NEW.traceparent)
    assert await store.commit([change(later, replaces=2), change(NEW)]) == {}
    for with_results in (True, False):
        assert await read(store, "old", "new", with_results=with_results) == [later, NEW]
    assert {each.job_id for each in (await store.list_page(Listing(limit=10), 0)).jobs} == {"old", "new"}


async def test_sqlite(tmp_path: Path) -> None:
    """A file of the earlier version gets the columns at the start; its statements go on working, whoever wrote."""
    path, sql = tmp_path / "jobs.db", FIRST["sqlite"]
    with closing(apsw.Connection(str(path))) as old:
        for pragma in ("journal_mode=WAL", f"application_id={sql['application_id']}", "user_version=1"):
            old.execute(f"PRAGMA {pragma}")
        old.execute(sql["schema"])
        old.execute(sql["insert"], [*FIRST["row"], FIRST["answer"].encode()])
        async with SQLiteJobStore(str(path)) as store:
            await works_beside_it(store)
            (found,) = old.execute(sql["job"], ("new",))
            assert job_of([*found, None, None]) == NEW._replace(last_writer=None, traceparent=None)
            assert old.execute("PRAGMA user_version").get == 1
            for name, values in {"answer": ("new",), "list": (5, 10), "due": (10**6, 10), "count": ()}.items():
                assert old.execute(sql[name], values).fetchall(), name
            old.execute(sql["update"], [*row_at(4, "old"), b"{}", 3])
            assert await read(store, "old") == [OLD._replace(version=4)], "its writer has no name"
            old.execute(sql["insert"], [*row_at(1, "newest"), b"{}"])
            assert await read(store, "newest") == [OLD._replace(job_id="newest", version=1)]
            old.execute(sql["delete"], ("newest", 1))
            old.execute(sql["purge"], (10**14, 10))
            assert await read(store, "newest") == [None]


async def test_a_full_disk_with_a_file_of_the_earlier_version(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Jobs are read without the columns; they are added as soon as there is room."""
    path = tmp_path / "jobs.db"
    async with SQLiteJobStore(str(path)) as store:
        await store.commit([change(OLD)])
    with closing(apsw.Connection(str(path))) as old, faulty_disk() as disk:
        for name in ADDED:
            old.execute(f"ALTER TABLE jobs DROP COLUMN {name}")
        disk.capacity = disk.used()
        async with SQLiteJobStore(str(path)) as store:
            assert "started_without_room" in events_logged(caplog)
            for with_results in (True, False):
                assert await read(store, "old", with_results=with_results) == [OLD]
            disk.heal()
            assert await store.commit([change(NEW)]) == {}
            assert await read(store, "old", "new") == [OLD, NEW]


async def database_of_the_earlier_version() -> str:
    """The name of a database with its schema and its job."""
    name, sql = server().database(), FIRST["postgresql"]
    async with await psycopg.AsyncConnection.connect(server().url(name), autocommit=True) as old:
        await old.execute("CREATE SCHEMA jobstatus")
        await old.execute("CREATE TABLE jobstatus.schema_version (version integer NOT NULL)")
        await old.execute("INSERT INTO jobstatus.schema_version VALUES (1)")
        await old.execute(sql["schema"])
        await commit(old, FIRST["row"], 0)
    return name


async def commit(old: Any, row: Any, replaces: int) -> None:
    """Commit one change by the earlier version's statement."""
    values = [[value] for value in (*row, FIRST["answer"].encode(), replaces, False)]
    made = await (await old.execute(FIRST["postgresql"]["commit"], values)).fetchall()
    assert len(made) == 1


async def test_postgresql() -> None:
    """As on SQLite."""
    name, sql = await database_of_the_earlier_version(), FIRST["postgresql"]
    async with (
        await psycopg.AsyncConnection.connect(server().url(name), autocommit=True) as old,
        PostgreSQLJobStore(server().url(name), PATIENT_POSTGRESQL) as store,
    ):
        await works_beside_it(store)
        found = await (await old.execute(sql["job"], (["new"],))).fetchall()
        assert [job_of([*row, None, None]) for row in found] == [NEW._replace(last_writer=None, traceparent=None)]
        for name_, values in {"answer": (["new"],), "list": (5, 10), "due": (10**6, 10), "count": ()}.items():
            assert await (await old.execute(sql[name_], values)).fetchall(), name_
        await commit(old, row_at(4, "old"), 3)
        assert await read(store, "old") == [OLD._replace(version=4)], "its writer has no name"
        await commit(old, row_at(1, "newest"), 0)
        assert await read(store, "newest") == [OLD._replace(job_id="newest", version=1)]
        await old.execute(sql["purge"], (10**14, 10))


async def test_a_table_that_is_in_use_gets_its_columns_later(caplog: pytest.LogCaptureFixture) -> None:
    """A backup keeps the columns out. The start does not wait for it, and neither do the polls of others."""
    caplog.set_level(logging.INFO)
    name = await database_of_the_earlier_version()
    limits = PostgreSQLLimits(added_lock_ms=1, added_pause_seconds=0.01)
    async with await psycopg.AsyncConnection.connect(server().url(name)) as backup:
        await backup.execute("LOCK TABLE jobstatus.jobs IN ACCESS SHARE MODE")
        async with PostgreSQLJobStore(server().url(name), limits) as store:
            assert "store_lacks_columns" in events_logged(caplog)
            assert await store.commit([change(NEW)]) == {}
            assert await read(store, "old", "new") == [OLD, NEW._replace(last_writer=None, traceparent=None)]
            await backup.rollback()
            await until(lambda: "store_columns_added" in events_logged(caplog))
            await store.commit([change(NEW._replace(version=2), replaces=1)])
            assert await read(store, "old", "new") == [OLD, NEW._replace(version=2)]


async def test_a_role_that_does_not_own_the_table_works_without_the_columns(caplog: pytest.LogCaptureFixture) -> None:
    """The log says what the owner has to execute; afterwards the service uses them without a restart."""
    caplog.set_level(logging.INFO)
    name = await database_of_the_earlier_version()
    server().execute("CREATE ROLE tenant LOGIN", name)
    server().execute("GRANT USAGE ON SCHEMA jobstatus TO tenant", name)
    server().execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA jobstatus TO tenant", name)
    limits = PostgreSQLLimits(added_pause_seconds=0.01)
    async with PostgreSQLJobStore(server().url(name, user="tenant"), limits) as store:
        assert await read(store, "old") == [OLD]
        (reason,) = [record.reason for record in caplog.records if hasattr(record, "reason")]
        server().execute(reason[reason.index("ALTER TABLE") :], name)
        await until(lambda: "store_columns_added" in events_logged(caplog))
        await works_beside_it(store)


async def test_valkey(tmp_path: Path) -> None:
    """What is new stands in a field that the earlier version reads by names, and loses when it writes the job."""
    words = change_arguments(change(OLD))
    then = FIRST["redis"]["commit"]
    assert [word.decode() if isinstance(word, bytes) else word for word in words] == then
    encoded = change_arguments(change(NEW))[-1]
    assert isinstance(encoded, bytes)
    row = json.loads(encoded)
    assert row.keys() >= {"job_id", "state", "version"}
    assert (row["last_writer"], row["traceparent"]) == (NEW.last_writer, NEW.traceparent)
    async with store_in("valkey", tmp_path) as store:
        await store.commit([change(OLD)])
        await works_beside_it(store)
