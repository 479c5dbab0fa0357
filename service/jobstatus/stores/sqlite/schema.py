"""The file: its schema and migrations, how it is opened, and which files are refused.

A file that is not ours, is damaged, or was written by a newer version is never touched.
"""

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import apsw

from jobstatus.stores import StoreConfigError

APPLICATION_ID: Final = 0x4A6F6253  # "JobS"
READER_BUSY_TIMEOUT_MS: Final = 100  # point reads run on the event loop; in WAL mode they only wait for recovery
CACHE_KIB: Final = 16 * 1024
MOVED_WITHIN_SECONDS: Final = 0.2
"""How long a start waits for others that use the log."""
READER_CACHE_KIB: Final = 64 * 1024
CHECKED_BYTES: Final = 256 * 1024 * 1024
"""Files up to this size are checked completely at the start; a larger one would delay it by seconds."""

MIGRATIONS: Final = (
    """
    CREATE TABLE jobs (
        job_id TEXT NOT NULL PRIMARY KEY,
        request_type TEXT NOT NULL,
        state TEXT NOT NULL,
        version INTEGER NOT NULL,
        virtual_key_id TEXT,
        provider TEXT,
        model_requested TEXT,
        created_at_ms INTEGER NOT NULL,
        started_at_ms INTEGER,
        completed_at_ms INTEGER,
        expires_at_ms INTEGER,
        due_at_ms INTEGER,
        result_ttl_ms INTEGER NOT NULL,
        status_code INTEGER,
        attempt INTEGER NOT NULL,
        max_attempts INTEGER NOT NULL,
        worker_id TEXT,
        lease_ms INTEGER,
        lease_expires_at_ms INTEGER,
        progress REAL,
        message TEXT,
        error TEXT,
        answer BLOB NOT NULL,
        result BLOB -- last: what stands before a large value is read without it
    ) STRICT;
    -- A job is either due (not terminal) or expires (terminal), so it stands in one of these two; the state in them
    -- lets jobs be counted from the indexes alone.
    CREATE INDEX jobs_due ON jobs (due_at_ms, state) WHERE due_at_ms IS NOT NULL;
    CREATE INDEX jobs_expiring ON jobs (expires_at_ms, state) WHERE expires_at_ms IS NOT NULL;
    -- Covers every filter of a listing, so that a rare state is found without reading the jobs between.
    CREATE INDEX jobs_listed
        ON jobs (created_at_ms DESC, job_id DESC, state, request_type, virtual_key_id, expires_at_ms);
    CREATE TABLE virtual_keys (
        virtual_key_id TEXT NOT NULL PRIMARY KEY,
        disabled INTEGER NOT NULL,
        expires_at_ms INTEGER,
        created_at_ms INTEGER NOT NULL,
        updated_at_ms INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE virtual_key_hashes (
        key_sha256 BLOB NOT NULL PRIMARY KEY,
        virtual_key_id TEXT NOT NULL,
        position INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX virtual_key_hashes_of ON virtual_key_hashes (virtual_key_id, position);
    CREATE TABLE counters (name TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO counters VALUES ('virtual_keys_version', 0), ('probes', 0);
    """,
)
"""Migration n takes a file from `user_version` n to n + 1. Never edited once released, only added to.

A version refuses a file that a later migration has changed. What an earlier version can ignore is therefore none, but
added to the file that the migrations make, see ADDED.
"""

ADDED: Final = {"last_writer": "TEXT", "traceparent": "TEXT", "annotated_version": "INTEGER"}
"""Columns of `jobs` that came later, with their types. Each may be absent, or null where an earlier version wrote."""


class DiskFull(StoreConfigError):
    """There is no room for what a start writes."""


_DAMAGED: Final = "damaged or no SQLite file; restore it from a backup or name another"


def open_writer(path: Path, busy_timeout_ms: int, *, create: bool) -> apsw.Connection:
    """Open the connection that writes. Create the file (for its owner only) and migrate it where necessary.

    Raises StoreConfigError with one sentence for a file that must not or cannot be used, DiskFull if for want of room.
    With `create` False, as after a fault, a missing file is an error too, and the whole file is not checked again.
    Either way, what the log holds is moved into the file before anything is appended to it.
    """
    with refusals(path):
        return _open_writer(path, busy_timeout_ms, create=create)


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Raise StoreConfigError with one sentence for what SQLite and the file system say of this file."""
    try:
        yield
    except OSError as error:
        raise StoreConfigError(f"cannot use {path}: {error.strerror or error}") from error
    except (apsw.NotADBError, apsw.CorruptError) as error:
        raise StoreConfigError(f"{path} is {_DAMAGED}") from error
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError, apsw.AuthError) as error:
        raise StoreConfigError(f"cannot write {path}: check the rights of the file and its folder") from error
    except apsw.BusyError as error:
        raise StoreConfigError(f"{path} is locked by another program") from error
    except apsw.FullError as error:
        raise DiskFull(f"cannot write {path}: the disk is full") from error
    except apsw.Error as error:
        if getattr(error, "extendedresult", None) == apsw.SQLITE_IOERR_SHMSIZE:
            raise DiskFull(f"cannot write {path}: the disk is full") from error
        raise StoreConfigError(f"cannot open {path} ({type(error).__name__})") from error


def open_reader(path: Path, cache_kib: int = CACHE_KIB) -> apsw.Connection:
    """Open a connection that cannot write, to a file that a writer has opened before."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(READER_BUSY_TIMEOUT_MS)
    _configure(connection, cache_kib)
    return connection


def is_current(connection: apsw.Connection) -> bool:
    """Return whether the schema is the one that this version reads and writes."""
    found = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    return found == (APPLICATION_ID, len(MIGRATIONS))


def has_added(connection: apsw.Connection) -> bool:
    """Return whether the file has what came later."""
    return ADDED.keys() <= _columns(connection)


def close_writer(connection: apsw.Connection) -> None:
    """Close it, with all that the log holds in the file, unless another process uses the log."""
    with suppress(apsw.Error):  # the log stays as it is then, and nothing in it is lost
        connection.set_busy_timeout(0)
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close(True)  # force: the operation has reported the error already


def identity(path: Path) -> tuple[int, int]:
    """Return which file is at the path; differs when it was replaced. Raises OSError when there is none."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _open_writer(path: Path, busy_timeout_ms: int, *, create: bool) -> apsw.Connection:
    if create:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # an existing file is not opened here: closing it would give up SQLite's locks
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.set_busy_timeout(busy_timeout_ms)
        version_of(connection, path)
        if create:
            check_whole(connection, path)
        _configure(connection, CACHE_KIB)
        _migrate(connection)
        _move_log(connection, is_alone=not create)
        connection.set_busy_timeout(busy_timeout_ms)
    except BaseException:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # the log of a refused file stays as it is
        connection.close()
        raise
    return connection


def _pragma(connection: apsw.Connection, name: str, value: str | int | None = None) -> Any:
    return connection.execute(f"PRAGMA {name}" if value is None else f"PRAGMA {name}={value}").get


def version_of(connection: apsw.Connection, path: Path) -> int:
    """Return the version of the schema, 0 for an empty file. Raise StoreConfigError for a file that is not ours."""
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    application_id, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
    if application_id != APPLICATION_ID and (tables or application_id):
        raise StoreConfigError(f"{path} is a database of another program; name another file")
    if version > len(MIGRATIONS):
        raise StoreConfigError(
            f"{path} was written by a newer JobStatus (schema {version}, this one knows {len(MIGRATIONS)}); upgrade"
        )
    return int(version)


def check_whole(connection: apsw.Connection, path: Path) -> None:
    """Raise StoreConfigError if the file is damaged. A file that is larger than CHECKED_BYTES is not checked."""
    if path.stat().st_size <= CHECKED_BYTES and (found := _pragma(connection, "quick_check(1)")) != "ok":
        raise StoreConfigError(f"{path} is {_DAMAGED} ({' '.join(str(found).split())})")


def _configure(connection: apsw.Connection, cache_kib: int) -> None:
    """Apply the settings of a connection. The two that durability depends on are read back."""
    readonly = connection.readonly("main")
    if not readonly:
        _pragma(connection, "journal_mode", "WAL")
        _pragma(connection, "synchronous", "FULL")
    _keep_log(connection)
    _pragma(connection, "cache_size", -cache_kib)
    mode, synchronous = _pragma(connection, "journal_mode"), _pragma(connection, "synchronous")
    if mode != "wal" or synchronous != 2:  # FULL
        raise StoreConfigError(f"the disk is full, or cannot keep a durable write-ahead log (journal_mode {mode})")


def _keep_log(connection: apsw.Connection) -> None:
    """Leave the log and its index when the last connection closes, so that a start on a full disk need not make them.

    SQLite cannot read a file without them, and makes them when it opens the file.
    """
    flag = ctypes.c_int(1)
    connection.file_control("main", apsw.SQLITE_FCNTL_PERSIST_WAL, ctypes.addressof(flag))


def _move_log(connection: apsw.Connection, *, is_alone: bool) -> None:
    """Move what the log holds into the file, because a log whose sync failed cannot be relied on.

    At a start another process may be using the log, which is then left to it after a moment. A checkpoint that waits
    for another program's read keeps all processes from writing, so this tries again instead.
    """
    if is_alone:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return
    waiting_until = time.monotonic() + MOVED_WITHIN_SECONDS
    connection.set_busy_timeout(0)
    while True:
        try:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        except apsw.BusyError:
            if time.monotonic() >= waiting_until:
                return
            time.sleep(MOVED_WITHIN_SECONDS / 10)
        else:
            return


def _migrate(connection: apsw.Connection) -> None:
    """Bring the schema up to date in one transaction, which also proves that the file can be written."""
    connection.execute("BEGIN IMMEDIATE")
    with_version = _pragma(connection, "user_version")
    for migration in MIGRATIONS[with_version:]:
        connection.execute(migration)
    for name in ADDED.keys() - _columns(connection):
        connection.execute(f"ALTER TABLE jobs ADD COLUMN {name} {ADDED[name]}")
    _pragma(connection, "application_id", APPLICATION_ID)
    _pragma(connection, "user_version", len(MIGRATIONS))
    connection.execute("COMMIT")


def _columns(connection: apsw.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM pragma_table_info('jobs')")}
