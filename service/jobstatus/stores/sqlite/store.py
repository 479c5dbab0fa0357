"""SQLite behind the port: one thread that writes, point reads on the event loop, long reads on a second thread.

Group commit comes from above (`core.writer`); here one batch is one `BEGIN IMMEDIATE` … `COMMIT` on the writer's
thread, which is never cancelled half-way: asyncio can leave the wait, not the work. Point reads by id take
microseconds, less than a hop to a thread, and in WAL mode they wait for nobody.

After an error that may have left the log in doubt, the connections are thrown away. Before the next write the file is
opened anew and the log is moved into it: a failed fsync is never simply tried again, since the kernel may have dropped
what it could not write.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import apsw

from jobstatus.core.errors import InvalidField, StoreFull, StoreUnavailable
from jobstatus.core.job import Job, JobState
from jobstatus.core.store import SMALL_RESULT_BYTES, Answer, Change, Listing
from jobstatus.core.virtual_keys import VirtualKey
from jobstatus.stores import StoreConfigError
from jobstatus.stores.rows import COLUMNS, job_of, row_of
from jobstatus.stores.sqlite import schema
from jobstatus.stores.sqlite.reader import PointReader

T = TypeVar("T")

_ANSWER: Final = f"""
    SELECT request_type, virtual_key_id, created_at_ms, expires_at_ms, answer, length(result),
           CASE WHEN length(result) <= {SMALL_RESULT_BYTES} THEN result END
    FROM jobs WHERE job_id = ?"""  # noqa: S608  # a constant of ours
_COLUMNS_WITHOUT_RESULT: Final = f"{', '.join(COLUMNS[:-1])}, NULL"
_JOB: Final = f"SELECT {', '.join(COLUMNS)} FROM jobs WHERE job_id = ?"  # noqa: S608  # fixed names
_JOB_WITHOUT_RESULT: Final = f"SELECT {_COLUMNS_WITHOUT_RESULT} FROM jobs WHERE job_id = ?"  # noqa: S608
_LIST: Final = f"SELECT {_COLUMNS_WITHOUT_RESULT} FROM jobs WHERE "  # noqa: S608
_DUE: Final = "SELECT job_id FROM jobs WHERE due_at_ms <= ? ORDER BY due_at_ms LIMIT ?"
_PURGE: Final = """
    DELETE FROM jobs WHERE rowid IN (SELECT rowid FROM jobs WHERE expires_at_ms <= ? ORDER BY expires_at_ms LIMIT ?)"""
_COUNT: Final = """
    SELECT state, count(*) FROM jobs WHERE due_at_ms IS NOT NULL GROUP BY state
    UNION ALL SELECT state, count(*) FROM jobs WHERE expires_at_ms IS NOT NULL GROUP BY state"""

_VIRTUAL_KEY: Final = """
    SELECT virtual_key_id, disabled, expires_at_ms, created_at_ms, updated_at_ms FROM virtual_keys"""
_HASHES: Final = "SELECT key_sha256 FROM virtual_key_hashes WHERE virtual_key_id = ? ORDER BY position"
_PUT_VIRTUAL_KEY: Final = """
    INSERT INTO virtual_keys VALUES (?, ?, ?, ?, ?) ON CONFLICT (virtual_key_id) DO UPDATE
    SET disabled = excluded.disabled, expires_at_ms = excluded.expires_at_ms, updated_at_ms = excluded.updated_at_ms"""
_COUNT_UP: Final = "UPDATE counters SET value = value + 1 WHERE name = ?"
_COUNTER: Final = "SELECT value FROM counters WHERE name = ?"

_FAULTS: Final = (apsw.Error, OSError, StoreConfigError)
_HARMLESS: Final = (apsw.BusyError, apsw.LockedError, apsw.FullError)
"""Errors after which the connection is as good as before."""


class SQLiteJobStore:
    """Implements `core.store.Store` upon one file. Any number of processes may have it open."""

    def __init__(self, path: str) -> None:
        self._path = Path(path).absolute()
        self._writer: apsw.Connection | None = None
        self._reader: PointReader | None = None
        self._scanner: apsw.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._writes = 0
        self._write_thread = ThreadPoolExecutor(1, "sqlite-writer")
        self._scan_thread = ThreadPoolExecutor(1, "sqlite-scanner")

    async def __aenter__(self) -> Self:
        try:
            await self._in(self._write_thread, lambda: self._open(create=True))
        except BaseException:
            self._stop_threads()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._in(self._scan_thread, lambda: _close(self._scanner))
        self._close_reader()
        await self._in(self._write_thread, lambda: _close(self._writer))
        self._stop_threads()

    async def read_answers(self, job_ids: Sequence[str]) -> list[Answer | None]:
        return [Answer(*found[0]) if found else None for found in self._read_all(_ANSWER, zip(job_ids, strict=True))]

    async def read_jobs(self, job_ids: Sequence[str], *, with_results: bool) -> list[Job | None]:
        statement = _JOB if with_results else _JOB_WITHOUT_RESULT
        return [job_of(found[0]) if found else None for found in self._read_all(statement, zip(job_ids, strict=True))]

    async def commit(self, changes: Sequence[Change]) -> set[str]:
        return await self._write(lambda connection: _commit(connection, changes))

    async def due(self, now_ms: int, limit: int) -> list[str]:
        return [job_id for (job_id,) in self._read(_DUE, (now_ms, limit))]

    async def purge(self, now_ms: int, limit: int) -> int:
        if not self._read("SELECT 1 FROM jobs WHERE expires_at_ms <= ? LIMIT 1", (now_ms,)):
            return 0

        def purge(connection: apsw.Connection) -> int:
            connection.execute(_PURGE, (now_ms, limit))
            return connection.changes()

        return await self._write(purge)

    async def list_jobs(self, listing: Listing) -> list[Job]:
        where, values = _conditions(listing)
        statement = f"{_LIST}{where} ORDER BY created_at_ms DESC, job_id DESC LIMIT ?"
        rows = await self._scan(lambda connection: connection.execute(statement, (*values, listing.limit)).fetchall())
        return [job_of(row) for row in rows]

    async def count_jobs(self) -> dict[JobState, int]:
        rows = await self._scan(lambda connection: connection.execute(_COUNT).fetchall())
        return dict.fromkeys(JobState, 0) | {JobState(str(state)): int(str(count)) for state, count in rows}

    async def probe(self) -> None:
        await self._write(lambda connection: connection.execute(_COUNT_UP, ("probes",)))

    async def read_virtual_keys(self, virtual_key_ids: Sequence[str]) -> list[VirtualKey | None]:
        return [self._virtual_key(virtual_key_id) for virtual_key_id in virtual_key_ids]

    async def find_virtual_keys(self, digests: Sequence[bytes]) -> list[VirtualKey | None]:
        find = "SELECT virtual_key_id FROM virtual_key_hashes WHERE key_sha256 = ?"
        owners = [self._read(find, (digest,)) for digest in digests]
        return [self._virtual_key(owner[0][0]) if owner else None for owner in owners]

    async def put_virtual_key(self, virtual_key: VirtualKey) -> VirtualKey:
        await self._write(lambda connection: _put_virtual_key(connection, virtual_key))
        return self._virtual_key(virtual_key.virtual_key_id) or virtual_key

    async def delete_virtual_key(self, virtual_key_id: str) -> bool:
        return await self._write(lambda connection: _delete_virtual_key(connection, virtual_key_id))

    async def list_virtual_keys(self, after: str, limit: int) -> list[VirtualKey]:
        rows = self._read(f"{_VIRTUAL_KEY} WHERE virtual_key_id > ? ORDER BY virtual_key_id LIMIT ?", (after, limit))
        return [self._virtual_key_of(row) for row in rows]

    async def virtual_keys_version(self) -> int:
        return int(self._read(_COUNTER, ("virtual_keys_version",))[0][0])

    def _virtual_key(self, virtual_key_id: str) -> VirtualKey | None:
        rows = self._read(f"{_VIRTUAL_KEY} WHERE virtual_key_id = ?", (virtual_key_id,))
        return self._virtual_key_of(rows[0]) if rows else None

    def _virtual_key_of(self, row: Sequence[Any]) -> VirtualKey:
        virtual_key_id, disabled, expires_at_ms, created_at_ms, updated_at_ms = row
        return VirtualKey(
            virtual_key_id=virtual_key_id,
            key_sha256=tuple(digest for (digest,) in self._read(_HASHES, (virtual_key_id,))),
            disabled=bool(disabled),
            expires_at_ms=expires_at_ms,
            created_at_ms=created_at_ms,
            updated_at_ms=updated_at_ms,
        )

    # --- connections ---

    def _open(self, *, create: bool) -> apsw.Connection:
        """Open the writer, on its thread."""
        self._writer = schema.open_writer(self._path, create=create)
        self._file = self._file or schema.identity(self._path)
        return self._writer

    def _read(self, statement: str, values: Sequence[Any]) -> list[Any]:
        """A short read, at once."""
        return self._read_all(statement, (values,))[0]

    def _read_all(self, statement: str, each: Iterable[Sequence[Any]]) -> list[list[Any]]:
        """The rows that the statement finds for each set of values."""
        try:
            if self._reader is None:
                self._reader = PointReader(self._path)
            return self._reader.fetch(statement, each, keep=not self._writes)
        except _FAULTS as error:
            self._close_reader()
            raise StoreUnavailable from error

    def _release_reader(self) -> None:
        """Let go of the log before a write; a reader that cannot is opened anew when it is needed."""
        try:
            if self._reader is not None:
                self._reader.release()
        except apsw.Error:
            self._close_reader()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    async def _scan(self, read: Callable[[apsw.Connection], T]) -> T:
        """A read that may be long, on its own thread and connection."""

        def scan() -> T:
            try:
                if self._scanner is None:
                    self._scanner = schema.open_reader(self._path)
                return read(self._scanner)
            except _FAULTS as error:
                _close(self._scanner)
                self._scanner = None
                raise StoreUnavailable from error

        return await self._in(self._scan_thread, scan)

    async def _write(self, work: Callable[[apsw.Connection], T]) -> T:
        """Do the work in a transaction on the writer's thread; return when it is committed and synced."""
        ends_at = time.monotonic() + schema.BUSY_TIMEOUT_MS / 1000
        self._writes += 1
        try:
            self._release_reader()
            return await self._in(self._write_thread, lambda: self._transact(work, ends_at))
        finally:
            self._writes -= 1

    def _transact(self, work: Callable[[apsw.Connection], T], ends_at: float) -> T:
        """What waited behind others for the thread waits the less for a lock."""
        try:
            connection = self._writing()
            connection.set_busy_timeout(max(0, int((ends_at - time.monotonic()) * 1000)))
            connection.execute("BEGIN IMMEDIATE")
            try:
                outcome = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except _FAULTS as error:
            if not isinstance(error, _HARMLESS):
                _close(self._writer)
                self._writer = None
            raise (StoreFull if isinstance(error, apsw.FullError) else StoreUnavailable) from error
        return outcome

    def _writing(self) -> apsw.Connection:
        """The writer's connection, opened anew after a fault.

        Raises StoreConfigError while another file stands at the path: what is written to the one that was moved away
        would be lost, and the log beside it belongs to that one and would ruin the other.
        """
        if schema.identity(self._path) != self._file:
            raise StoreConfigError(f"{self._path} was replaced while it was in use")
        return self._writer or self._open(create=False)

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, work)

    def _stop_threads(self) -> None:
        self._write_thread.shutdown()
        self._scan_thread.shutdown()


def _close(connection: apsw.Connection | None) -> None:
    if connection is not None:
        connection.close(True)  # force: an error while closing has been reported by the operation


def _commit(connection: apsw.Connection, changes: Iterable[Change]) -> set[str]:
    """Try every change; the ids of those whose version did not fit."""
    statements: dict[str, list[dict[str, Any]]] = {schema.INSERT: [], schema.UPDATE: [], schema.DELETE: []}
    lost = set()
    for change in changes:
        lost.add(change.job_id)
        values: dict[str, Any] = {"job_id": change.job_id, "replaces": change.replaces}
        if change.job is None:
            statements[schema.DELETE].append(values)
            continue
        values |= zip(COLUMNS, row_of(change.job), strict=True)
        values["answer"] = change.answer
        statements[schema.UPDATE if change.replaces else schema.INSERT].append(values)
    for statement, rows in statements.items():
        lost.difference_update(job_id for (job_id,) in connection.executemany(statement, rows))
    return lost


def _put_virtual_key(connection: apsw.Connection, virtual_key: VirtualKey) -> None:
    virtual_key_id = virtual_key.virtual_key_id
    row = (virtual_key.disabled, virtual_key.expires_at_ms, virtual_key.created_at_ms, virtual_key.updated_at_ms)
    connection.execute(_PUT_VIRTUAL_KEY, (virtual_key_id, *row))
    connection.execute("DELETE FROM virtual_key_hashes WHERE virtual_key_id = ?", (virtual_key_id,))
    hashes = [(digest, virtual_key_id, position) for position, digest in enumerate(virtual_key.key_sha256)]
    try:
        connection.executemany("INSERT INTO virtual_key_hashes VALUES (?, ?, ?)", hashes)
    except apsw.ConstraintError as error:
        raise InvalidField("key_sha256", "must not be registered for another virtual key") from error
    connection.execute(_COUNT_UP, ("virtual_keys_version",))


def _delete_virtual_key(connection: apsw.Connection, virtual_key_id: str) -> bool:
    connection.execute("DELETE FROM virtual_key_hashes WHERE virtual_key_id = ?", (virtual_key_id,))
    connection.execute("DELETE FROM virtual_keys WHERE virtual_key_id = ?", (virtual_key_id,))
    existed = connection.changes() > 0
    connection.execute(_COUNT_UP, ("virtual_keys_version",))
    return existed


def _conditions(listing: Listing) -> tuple[str, list[Any]]:
    """The listing as a WHERE clause and its values."""
    conditions: list[tuple[str, Sequence[Any]]] = [("(expires_at_ms IS NULL OR expires_at_ms > ?)", [listing.now_ms])]
    if listing.states:
        marks = ", ".join("?" * len(listing.states))
        conditions.append((f"state IN ({marks})", [state.value for state in listing.states]))
    if listing.request_type is not None:
        conditions.append(("request_type = ?", [listing.request_type.value]))
    if listing.virtual_key_id is not None:
        conditions.append(("virtual_key_id = ?", [listing.virtual_key_id]))
    if listing.created_after_ms is not None:
        conditions.append(("created_at_ms >= ?", [listing.created_after_ms]))
    if listing.created_before_ms is not None:
        conditions.append(("created_at_ms < ?", [listing.created_before_ms]))
    if listing.before is not None:
        conditions.append(("(created_at_ms, job_id) < (?, ?)", listing.before))
    return " AND ".join(text for text, _ in conditions), [value for _, values in conditions for value in values]
