"""The database: its schema and migrations, and which servers are refused.

Everything is in a schema of its own, so the database may be shared and the search path does not matter.
"""

import logging
from typing import Any, Final

import psycopg

from jobstatus.stores import StoreConfigError
from jobstatus.stores.postgresql.connections import Connection

_log = logging.getLogger(__name__)

MIGRATIONS: Final = (
    """
    CREATE TABLE jobstatus.jobs (
        job_id text COLLATE "C" NOT NULL PRIMARY KEY,
        request_type text NOT NULL,
        state text NOT NULL,
        version bigint NOT NULL,
        virtual_key_id text,
        provider text,
        model_requested text,
        created_at_ms bigint NOT NULL,
        started_at_ms bigint,
        completed_at_ms bigint,
        expires_at_ms bigint,
        due_at_ms bigint,
        result_ttl_ms bigint NOT NULL,
        status_code integer,
        attempt integer NOT NULL,
        max_attempts integer NOT NULL,
        worker_id text,
        lease_ms bigint,
        lease_expires_at_ms bigint,
        progress double precision,
        message text,
        error text,
        answer bytea NOT NULL,
        result bytea
    ) WITH (fillfactor = 80);
    -- Results are mostly large and seldom compress well enough to pay for the time; out of line they cost no poll.
    ALTER TABLE jobstatus.jobs ALTER COLUMN result SET STORAGE EXTERNAL;
    CREATE INDEX jobs_due ON jobstatus.jobs (due_at_ms, state) WHERE due_at_ms IS NOT NULL;
    CREATE INDEX jobs_expiring ON jobstatus.jobs (expires_at_ms, state) WHERE expires_at_ms IS NOT NULL;
    CREATE INDEX jobs_listed
        ON jobstatus.jobs (created_at_ms DESC, job_id DESC, state, request_type, virtual_key_id, expires_at_ms);
    CREATE TABLE jobstatus.virtual_keys (
        virtual_key_id text COLLATE "C" NOT NULL PRIMARY KEY,
        disabled boolean NOT NULL,
        expires_at_ms bigint,
        created_at_ms bigint NOT NULL,
        updated_at_ms bigint NOT NULL
    );
    CREATE TABLE jobstatus.virtual_key_hashes (
        key_sha256 bytea NOT NULL PRIMARY KEY,
        virtual_key_id text COLLATE "C" NOT NULL,
        position integer NOT NULL
    );
    CREATE INDEX virtual_key_hashes_of ON jobstatus.virtual_key_hashes (virtual_key_id, position);
    CREATE TABLE jobstatus.counters (name text NOT NULL PRIMARY KEY, value bigint NOT NULL);
    INSERT INTO jobstatus.counters VALUES ('virtual_keys_version', 0), ('probes', 0);
    CREATE TABLE jobstatus.claims (name text NOT NULL PRIMARY KEY, holder text NOT NULL, ends_at timestamptz NOT NULL);
    """,
)
"""Migration n takes a database from version n to n + 1. Never edited once released, only added to.

A version refuses a database that a later migration has changed. What an earlier version can ignore is therefore none,
but added to the schema that the migrations make, see ADDED.
"""

ADDED: Final = {"last_writer": "text", "traceparent": "text", "annotated_version": "bigint"}
"""Columns of `jobs` that came later, with their types. Each may be absent, or null where an earlier version wrote."""
_ADD: Final = "ALTER TABLE jobstatus.jobs " + ", ".join(
    f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in ADDED.items()
)
_HAS_ADDED: Final = """
    SELECT count(*) FROM pg_attribute
    WHERE attrelid = 'jobstatus.jobs'::regclass AND NOT attisdropped AND attname = ANY(%s)"""

_LOCK: Final = 0x4A6F6253  # "JobS"
_VERSION: Final = "SELECT version FROM jobstatus.schema_version"

_NEEDED: Final = (
    ("server_encoding", ("UTF8",), "cannot keep every text", "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"),
    ("fsync", ("on",), "would lose acknowledged writes", "set fsync = on in postgresql.conf"),
    ("full_page_writes", ("on",), "would lose acknowledged writes", "set full_page_writes = on in postgresql.conf"),
    (
        "synchronous_commit",
        ("on", "remote_apply", "remote_write", "local"),
        "would lose acknowledged writes",
        "ALTER ROLE … SET synchronous_commit = on for the role that JobStatus uses",
    ),
)
"""A setting, its acceptable values, what another value would mean, and what to do about it."""


_KEPT_SECONDS: Final = """
    SELECT current_setting('tcp_keepalives_idle')::integer
        + current_setting('tcp_keepalives_interval')::integer * current_setting('tcp_keepalives_count')::integer"""
"""How long the server keeps a session whose client has vanished; 0 where that does not apply (a Unix socket)."""
MAX_KEPT_SECONDS: Final = 300

_MAY_WORK: Final = """
    SELECT bool_and(has_table_privilege(format('jobstatus.%I', tablename), privilege))
    FROM pg_tables, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
    WHERE schemaname = 'jobstatus' AND tablename <> 'schema_version'"""
_NO_RIGHTS: Final = (
    "the PostgreSQL role lacks rights in the schema jobstatus; have the schema made for it: CREATE SCHEMA jobstatus"
    " AUTHORIZATION …, or start once as the role that owns the schema and grant this one USAGE, and SELECT, INSERT,"
    " UPDATE and DELETE on all its tables"
)


async def prepare(connection: Connection) -> None:
    """Check the server and migrate the schema. Raises StoreConfigError with one sentence, or psycopg.Error.

    Replicas that start at the same time wait for each other.
    """
    await _check_server(connection)
    try:
        await _migrate(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        raise StoreConfigError(_NO_RIGHTS) from error
    if not await _value(connection, _MAY_WORK):
        raise StoreConfigError(_NO_RIGHTS)
    if (seconds := await _value(connection, _KEPT_SECONDS)) > MAX_KEPT_SECONDS:
        _log.warning(
            "PostgreSQL keeps the sessions of clients that have vanished for long.",
            extra={"event": "store_keeps_sessions", "seconds": seconds},
        )


async def add_columns(connection: Connection, lock_ms: int) -> str | None:
    """Add the columns that came later, where they are missing. Return why they are still missing; None: they are there.

    To add them takes no time, but it waits for all who use the table, and all others wait behind it. So it gives up
    after `lock_ms`, as beside a backup, and is to be tried again later.
    """
    found = await connection.execute(_HAS_ADDED.encode(), (list(ADDED),))
    if await found.fetchone() == (len(ADDED),):
        return None
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = {lock_ms}".encode())
            await connection.execute(_ADD.encode())
    except psycopg.errors.LockNotAvailable:
        return "the table is in use"
    except psycopg.errors.InsufficientPrivilege:
        return f"the role does not own the table; have its owner execute {_ADD}"
    return None


async def inspect(connection: Connection) -> int:
    """Return the version of the schema, 0 where `prepare` would make it. Change nothing; raise what `prepare` does."""
    await _check_server(connection)
    if await _value(connection, "SELECT to_regnamespace('jobstatus') IS NULL"):
        if not await _value(connection, "SELECT has_database_privilege(current_database(), 'CREATE')"):
            raise StoreConfigError(_NO_RIGHTS)
        return 0
    if not await _value(connection, "SELECT has_schema_privilege('jobstatus', 'USAGE')"):
        raise StoreConfigError(_NO_RIGHTS)
    if await _value(connection, "SELECT to_regclass('jobstatus.schema_version') IS NULL"):
        if not await _value(connection, "SELECT has_schema_privilege('jobstatus', 'CREATE')"):
            raise StoreConfigError(_NO_RIGHTS)
        return 0
    try:
        version = _checked_version(await _value(connection, _VERSION))
    except psycopg.errors.InsufficientPrivilege as error:
        raise StoreConfigError(_NO_RIGHTS) from error
    if version and not await _value(connection, _MAY_WORK):
        raise StoreConfigError(_NO_RIGHTS)
    return version


async def _check_server(connection: Connection) -> None:
    if await _value(connection, "SELECT pg_is_in_recovery()"):
        raise StoreConfigError("the PostgreSQL server is a standby, which cannot be written to; name the primary")
    for name, values, problem, remedy in _NEEDED:
        if (found := await _value(connection, f"SHOW {name}")) not in values:
            raise StoreConfigError(f"PostgreSQL runs with {name} = {found} and {problem}: {remedy}")


def _checked_version(found: object) -> int:
    version = int(str(found))
    if version > len(MIGRATIONS):
        raise StoreConfigError(
            f"the PostgreSQL database was written by a newer JobStatus (schema {version}, this one knows"
            f" {len(MIGRATIONS)}); upgrade"
        )
    return version


async def _value(connection: Connection, statement: str) -> Any:
    row = await (await connection.execute(statement.encode())).fetchone()
    return None if row is None else row[0]


async def _migrate(connection: Connection) -> None:
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        if await _value(connection, "SELECT to_regnamespace('jobstatus') IS NULL"):
            await connection.execute("CREATE SCHEMA jobstatus")
        if await _value(connection, "SELECT to_regclass('jobstatus.schema_version') IS NULL"):
            await connection.execute("CREATE TABLE jobstatus.schema_version (version integer NOT NULL)")
            await connection.execute("INSERT INTO jobstatus.schema_version VALUES (0)")
        version = _checked_version(await _value(connection, _VERSION))
        for migration in MIGRATIONS[version:]:
            await connection.execute(migration.encode())
        if version < len(MIGRATIONS):
            await connection.execute("UPDATE jobstatus.schema_version SET version = %s", (len(MIGRATIONS),))
