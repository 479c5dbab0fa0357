"""What the PostgreSQL store asks its server: little, in batches, and nothing that outlives the statement."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import psycopg
import pytest
from harness.logged import events_logged
from harness.postgresql import server
from harness.stores import change, deletion, job
from harness.tracking import Clock, creation, tracker_on
from harness.waiting import until
from jobstatus.core.commands import HeartbeatJob, StartJob
from jobstatus.core.job import Job, JobState
from jobstatus.core.store import Answer, Listing
from jobstatus.core.virtual_keys import VirtualKey, hash_key
from jobstatus.stores.listing import page, window_end
from jobstatus.stores.postgresql import PostgreSQLJobStore, statements
from jobstatus.stores.postgresql.arrays import array_of
from jobstatus.stores.postgresql.connections import KEEPALIVES, Connection, connect
from jobstatus.stores.postgresql.limits import PostgreSQLLimits
from jobstatus.stores.postgresql.store import DIALECT
from jobstatus.stores.postgresql.sweep_position import FULL_SCAN_MS, LEFT_END

LARGE = b'"' + b"x" * 1_000_000 + b'"'
NAMES = [f"job-{number}" for number in range(500)]


@pytest.fixture
def database() -> str:
    return server().database()


@pytest.fixture
async def opened(database: str) -> AsyncIterator[PostgreSQLJobStore]:
    """An open store upon the database."""
    limits = PostgreSQLLimits(connect_seconds=30, operation_seconds=60)  # a thousand reads on a busy machine
    async with PostgreSQLJobStore(server().url(database), limits) as one:
        yield one


class Log:
    """What the server notes of the statements in one database from now on."""

    def __init__(self, database: str) -> None:
        for setting in ("log_statement = 'all'", "log_min_messages = 'log'"):
            server().execute(f"ALTER DATABASE {database} SET {setting}")
        self._start = server().log_path.stat().st_size

    def statements(self) -> list[str]:
        """The first line of each."""
        lines = server().log_path.read_bytes()[self._start :].decode().splitlines()
        return [line for line in lines if "LOG:  statement:" in line or "LOG:  execute" in line]


async def test_a_batch_is_one_statement_whatever_its_size(database: str) -> None:
    """Five hundred creations, changes, deletions, reads and comparisons are one statement each time."""
    log = Log(database)
    async with PostgreSQLJobStore(server().url(database)) as opened:
        await opened.probe()  # on a connection that is used from then on
        at_start = len(log.statements())
        assert at_start  # so that something is known to be noted
        await opened.commit([change(job(name)) for name in NAMES])
        await opened.commit([change(job(name, version=2), replaces=1) for name in NAMES])
        await opened.read_answers(NAMES)
        await opened.read_jobs(NAMES, with_results=True)
        await opened.changed(dict.fromkeys(NAMES, 1))
        await opened.confirm(NAMES)
        await opened.commit([deletion(name, 2) for name in NAMES])
        await until(lambda: len(log.statements()) >= at_start + 7)
        assert len(log.statements()) == at_start + 7, log.statements()


async def test_a_batch_of_all_kinds_tells_what_was_not_done(opened: PostgreSQLJobStore) -> None:
    """Creations, changes and removals in one statement: each is judged by its own version."""
    assert await opened.commit([change(job(name)) for name in ("a", "b", "c", "d")]) == {}
    batch = [
        deletion("d", 7),
        change(job("a", version=2), replaces=1),
        change(job("new")),
        deletion("c", 1),
        change(job("b")),
    ]
    assert await opened.commit([*batch, change(job("gone", version=4), replaces=3)]) == dict.fromkeys(
        ("d", "b", "gone")
    )
    versions = {"a": 0, "b": 0, "c": 9, "d": 0, "new": 0, "gone": 9}
    assert await opened.changed(versions) == {"a": 2, "b": 1, "c": 0, "d": 1, "new": 1, "gone": 0}


async def test_nothing_outlives_a_statement(opened: PostgreSQLJobStore) -> None:
    """After everything was used, the sessions hold no prepared statement, setting, lock, cursor or subscription.

    So a pooler that hands each transaction to another session changes nothing. Settings of the socket, which a pooler
    does not get, are the exception.
    """
    key = VirtualKey(virtual_key_id="vk", key_sha256=(hash_key("sk-bf-1"),), created_at_ms=1, updated_at_ms=1)
    for number in range(10):  # more often than a driver would wait before it prepares
        await opened.commit([change(job(version=number + 1), replaces=number)])
        await opened.read_answers(["job-1"])
        await opened.read_jobs(["job-1"], with_results=True)
        await opened.list_page(Listing(limit=1), 0)
        await opened.count_jobs()
        await opened.try_lead("me", 1000)
        await opened.put_virtual_key(key)
        await opened.find_virtual_keys(key.key_sha256)
    connections = [free for connections in opened._all() for free in connections._free]
    assert len(connections) == 3
    left = """
        SELECT 'prepared', name FROM pg_prepared_statements
        UNION ALL SELECT 'setting', name FROM pg_settings WHERE source = 'session' AND name NOT LIKE 'tcp_%'
        UNION ALL SELECT 'lock', locktype FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'
        UNION ALL SELECT 'subscription', channel FROM pg_listening_channels() AS channel
        UNION ALL SELECT 'held cursor', name FROM pg_cursors WHERE is_holdable
        UNION ALL SELECT 'table', relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()"""
    for connection in connections:
        assert await (await connection.execute(left.encode())).fetchall() == []


@pytest.mark.parametrize(
    "name", ["", "nul\0", "\ud800", "line\nbreak", "'; DROP TABLE jobs; --", "%s", "{a,b}", "é" * 999]
)
async def test_ids_that_nobody_has_are_not_found(opened: PostgreSQLJobStore, name: str) -> None:
    """Whatever is asked for, also beside and again and again, is None where there is no such job."""
    await opened.commit([change(job())])
    assert await opened.read_jobs([name, "job-1", name], with_results=True) == [None, job(), None]
    answers = await opened.read_answers(["job-1", name, "job-1"])
    assert [isinstance(answer, Answer) for answer in answers] == [True, False, True]
    assert await opened.read_virtual_keys([name]) == [None]


async def test_ids_are_in_the_order_of_their_code_points(opened: PostgreSQLJobStore) -> None:
    """Not in that of any language, which would put _ and - elsewhere and small letters before capital ones."""
    names = sorted(["a", "B", "_", "-", "0", "Z", "z", "a-b", "a_b", "ab"])
    await opened.commit([change(job(name)) for name in names])
    listed = (await opened.list_page(Listing(limit=100), 0)).jobs
    assert [one.job_id for one in listed] == names[::-1]
    after = (await opened.list_page(Listing(limit=100, before=(1000, "Z")), 0)).jobs
    assert [one.job_id for one in after] == [name for name in names if name < "Z"][::-1]


async def plan_of(opened: PostgreSQLJobStore, statement: str, values: Any) -> Any:
    """How the server went about it."""

    async def explain(connection: Any) -> Any:
        text = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
        return await (await connection.execute(text.encode(), values)).fetchone()

    ((plan,),) = await opened._short.use(explain)
    return plan


async def test_a_poll_does_not_touch_a_large_result(opened: PostgreSQLJobStore) -> None:
    """Its size comes from the row alone: as few pages are read as for a job without one."""
    ended = job(
        "large", state=JobState.COMPLETED, result=LARGE, completed_at_ms=2000, expires_at_ms=9000, due_at_ms=None
    )
    await opened.commit([change(job("none")), change(ended)])
    (answer,) = await opened.read_answers(["large"])
    assert isinstance(answer, Answer)
    assert (answer.result, answer.result_size) == (None, len(LARGE))
    (stored,) = await opened.read_jobs(["large"], with_results=True)
    assert isinstance(stored, Job)
    assert stored.result == LARGE

    async def pages(statement: str, name: str) -> int:
        plan = (await plan_of(opened, statement, ([name],)))["Plan"]
        return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])

    await pages(statements.ANSWERS, "large")
    assert await pages(statements.ANSWERS, "large") == await pages(statements.ANSWERS, "none")
    small = f"SELECT md5(result) FROM ({statements.JOBS[True, True]}) AS job"
    assert await pages(small, "large") > await pages(statements.ANSWERS, "large") + 100


async def test_every_statement_finds_its_rows_by_an_index(opened: PostgreSQLJobStore, database: str) -> None:
    """With many jobs none of them scans the whole table: not sweeps, counts, or listings of a rare state."""
    for first in range(0, 20_000, 1000):
        numbers = range(first, first + 1000)
        await opened.commit([change(job(f"job-{one}", created_at_ms=one, message="x" * 400)) for one in numbers])
    ended = {"state": JobState.FAILED, "completed_at_ms": 1, "due_at_ms": None}
    await opened.commit([change(job(f"old-{number}", expires_at_ms=number, **ended)) for number in range(100)])
    server().execute("VACUUM ANALYZE jobstatus.jobs", database)
    sought = Listing(limit=50, states=[JobState.COMPLETED])
    rare = page(DIALECT, sought, 0, (5_000, "job-5000"))
    end = window_end(DIALECT, sought, 10_000)
    middle = Listing(limit=50, worker_id="w-1", before=(10_000, "job-10000"))
    asked = {
        "answers": (statements.ANSWERS, (NAMES,)),
        "jobs": (statements.JOBS[False, True], (NAMES,)),
        "changed": (statements.CHANGED, (NAMES[:20], [1] * 20)),
        "commit": (
            statements.COMMIT[True],
            statements.columns_of([change(job(name, version=2), 1) for name in NAMES[:20]], has_added=True),
        ),
        "due": (statements.DUE, (LEFT_END, 50_000, 100)),
        "purge": (statements.PURGE, (LEFT_END, 50, 100)),
        "count": (statements.COUNT, (0,)),
        "rare": rare,
        "end": end,
        "middle": page(DIALECT, middle, 0, (9_900, "job-9900")),
    }
    for name, (statement, values) in asked.items():
        plan = json.dumps(await plan_of(opened, statement, values))
        assert "Index" in plan, name
        assert "Seq Scan" not in plan, (name, plan)


async def keepalives(connection: Connection) -> dict[str, str]:
    asked = b"SELECT name, setting FROM pg_settings WHERE name LIKE 'tcp%'"
    return dict(await (await connection.execute(asked)).fetchall())


async def test_the_server_is_asked_to_end_sessions_of_the_vanished(database: str) -> None:
    """Its defaults, of two hours, are replaced."""
    connection = await connect(server().url(database))
    assert await keepalives(connection) == {
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "25000",
    }
    await connection.close()


async def test_sessions_of_a_pooler_are_left_as_they_are(database: str) -> None:
    """Its clients know other ids than those of the server's processes."""
    async with await Connection.connect(server().url(database)) as connection:
        before = await keepalives(connection)
        cursor = await connection.execute(KEEPALIVES.encode(), (connection.info.backend_pid + 1,))
        assert await cursor.fetchall() == []
        assert await keepalives(connection) == before


async def test_what_the_operator_has_chosen_counts_and_is_warned_of(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A database whose sessions are to last long keeps them."""
    async with PostgreSQLJobStore(server().url(database)):
        assert "store_keeps_sessions" not in events_logged(caplog)
    server().execute(f"ALTER DATABASE {database} SET tcp_keepalives_idle = 7000")
    async with PostgreSQLJobStore(server().url(database)):
        (record,) = [record for record in caplog.records if vars(record).get("event") == "store_keeps_sessions"]
    assert vars(record)["seconds"] == 7000 + 5 * 3


async def entries_read(opened: PostgreSQLJobStore, database: str, index: str, ask: Awaitable[Any]) -> int:
    """How many entries of the index the server visits for this, dead ones too."""

    async def count() -> int:
        async def tell(connection: Any) -> None:
            await connection.execute(b"SELECT pg_stat_force_next_flush()")

        await opened._short.use(tell)  # on the connection that was used last
        asked = f"SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = '{index}'"
        ((entries,),) = server().execute(asked, database)
        return int(entries)

    before = await count()
    await ask
    return await count() - before


async def test_a_snapshot_that_stays_open_makes_no_sweep_dearer(opened: PostgreSQLJobStore, database: str) -> None:
    """The server keeps the entries of all that has gone, and sweeps begin to the right of them."""
    now_ms, gone = 100_000, NAMES[:400]
    ended = {"state": JobState.FAILED, "completed_at_ms": 1, "due_at_ms": None}
    async with await psycopg.AsyncConnection.connect(server().url(database)) as somebody:
        await somebody.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await somebody.execute(b"SELECT FROM jobstatus.jobs")
        for version in range(1, 4):  # as heartbeats do
            beats = [change(job(name, version=version, due_at_ms=version * 10_000), version - 1) for name in gone]
            await opened.commit(beats)
        await opened.commit([change(job(name, version=4, expires_at_ms=50_000, **ended), 3) for name in gone])
        assert await opened.due(now_ms, 500) == []
        assert await opened.purge(now_ms, 100) == 100
        assert await opened.purge(now_ms, 500) == 300
        for later_ms in (now_ms, now_ms + 1000, now_ms + FULL_SCAN_MS - 1):
            assert await entries_read(opened, database, "jobs_due", opened.due(later_ms, 500)) == 0
            assert await entries_read(opened, database, "jobs_expiring", opened.purge(later_ms, 500)) == 0
        full_ms = now_ms + FULL_SCAN_MS
        assert await entries_read(opened, database, "jobs_due", opened.due(full_ms, 500)) > len(gone)
        assert await entries_read(opened, database, "jobs_expiring", opened.purge(full_ms, 500)) >= len(gone)


@pytest.mark.parametrize(
    ("type_name", "values"),
    [
        ("text", ["a", None, "ä€\U0001f600", ""]),
        ("text", ["same"] * 3),
        ("bigint", [-(2**63), None, 2**63 - 1, 0]),
        ("integer", [599, 100, None]),
        ("integer", [None] * 3),
        ("double precision", [0.0, 0.1, None, 1.0]),
        ("bytea", [b"", None, b"\x00\xff" * 1000]),
        ("boolean", [True, False]),
    ],
)
async def test_arrays_arrive_as_they_were(database: str, type_name: str, values: list[Any]) -> None:
    """They are encoded here."""
    connection = await connect(server().url(database))
    try:
        cursor = await connection.execute(f"SELECT %b::{type_name}[]".encode(), [array_of(values, type_name)])
        assert await cursor.fetchone() == (values,)
    finally:
        await connection.close()


async def test_texts_are_utf_8_whatever_the_url_says(database: str) -> None:
    url = server().url(database)
    async with PostgreSQLJobStore(f"{url}{'&' if '?' in url else '?'}client_encoding=LATIN1") as opened:
        written = job(message="ä€", provider="Ω")
        await opened.commit([change(written)])
        assert await opened.read_jobs([written.job_id], with_results=True) == [written]


async def test_heartbeats_change_no_index(opened: PostgreSQLJobStore, database: str) -> None:
    """They are HOT updates, all but one in each lease."""
    clock = Clock()
    tracker = tracker_on(opened, clock)
    await tracker.write([creation("a"), StartJob(job_id="a", worker_id="w", lease_ms=30_000)])
    for _ in range(30):
        clock.move(5)
        await tracker.apply(HeartbeatJob(job_id="a", attempt=1))

    async def tell(connection: Connection) -> None:
        await connection.execute(b"SELECT pg_stat_force_next_flush()")

    await opened._short.use(tell)  # on the connection that was used last
    asked = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'jobs'"
    assert server().execute(asked, database) == [(30, 25)]


async def test_no_job_is_passed_over_by_sweeps(opened: PostgreSQLJobStore, database: str) -> None:
    """Neither one that is added to the left of where they begin, nor one that stays due."""
    now_ms = 100_000
    assert await opened.due(now_ms, 10) == []
    await opened.commit([change(job("own"))])
    for _ in range(3):
        assert await opened.due(now_ms, 10) == ["own"]
    async with PostgreSQLJobStore(server().url(database)) as other:
        await other.commit([change(job("other", due_at_ms=40_000))])
    assert await opened.due(now_ms + FULL_SCAN_MS, 10) == ["other", "own"]
    assert await opened.due(now_ms - 1, 10) == ["other", "own"]


async def test_few_connections_are_made(opened: PostgreSQLJobStore, database: str) -> None:
    """A thousand reads at a time share the store's few connections, and those last."""
    await asyncio.gather(*(opened.read_jobs([name], with_results=False) for name in NAMES * 2))
    count = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND application_name = 'jobstatus'"
    ((number,),) = server().execute(count)
    limits = PostgreSQLLimits()
    assert 1 <= number <= limits.connections + limits.long_connections
