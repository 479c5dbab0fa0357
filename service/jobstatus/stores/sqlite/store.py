"""SQLite behind the port: one thread that writes, point reads on the event loop, long reads on two more threads.

Group commit comes from `core.writer`; here one batch is one `BEGIN IMMEDIATE` … `COMMIT` on the writer's thread, which
is never cancelled half-way: asyncio can end the wait, not the work. Point reads by id take microseconds, less than a
hop to a thread, and in WAL mode they do not wait for writers.

After an error that may have damaged the log, the connections are closed. Before the next write the file is reopened and
the log is moved into it: a failed fsync is never just repeated, because the kernel may have dropped what it could not
write.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import apsw

from jobstatus.core.errors import StoreFull, StoreUnavailable
from jobstatus.core.job import Job, JobState, RequestType
from jobstatus.core.store import Answer, Change, Claim, JobCount, JobPage, Listing, StoreError, WorkerSigns
from jobstatus.core.virtual_keys import VirtualKey
from jobstatus.stores import StoreConfigError
from jobstatus.stores.counting import count_of, count_values, types_of
from jobstatus.stores.listing import Dialect, page_turns, read_page
from jobstatus.stores.rows import job_of
from jobstatus.stores.sqlite import schema, statements, virtual_keys
from jobstatus.stores.sqlite.limits import SQLiteLimits
from jobstatus.stores.sqlite.long_reader import LongReader
from jobstatus.stores.sqlite.reader import PointReader
from jobstatus.stores.sqlite.recent_jobs import NO_MARK, RecentJobs
from jobstatus.stores.sqlite.sweep_lock import SweepLock

_log = logging.getLogger(__name__)

T = TypeVar("T")

_DIALECT: Final = Dialect("jobs", "?", "instr")
_COMPARED_AT_ONCE: Final = 500
"""Jobs whose versions are read before polls are answered in between."""
_FAULTS: Final = (apsw.Error, OSError, StoreConfigError)
_FULL: Final = (apsw.FullError, schema.DiskFull)
_HARMLESS: Final = (apsw.BusyError, apsw.LockedError, apsw.FullError)
"""Errors after which the connection can be used again."""


class SQLiteJobStore:
    """Implements `core.store.Store` in one file. Any number of processes may have it open."""

    reads_at_once = True
    notices = None

    def __init__(self, path: str, limits: SQLiteLimits = SQLiteLimits()) -> None:  # noqa: B008  # a frozen value
        self._limits = limits
        self._name = Path(path).absolute()
        self._path = Path(os.path.realpath(self._name))
        """Without symbolic links, as SQLite opens it: the log and its index are beside the file, not beside a link."""
        self._writer: apsw.Connection | None = None
        self._reader: PointReader | None = None
        self._releasing: asyncio.TimerHandle | None = None
        self._file: tuple[int, int] | None = None
        self._writes = 0
        self._opened = 0
        self._place_of_added = schema.Place.BEFORE_RESULT
        self._rowids: dict[str, int] = {}
        self._recent = RecentJobs(limits.max_recent_jobs)
        self._compared: tuple[frozenset[str], tuple[int, int]] = frozenset(), (0, 0)
        self._sweep_lock = SweepLock(self._path)
        self._write_thread = ThreadPoolExecutor(1, "sqlite-writer")
        self._listings = LongReader(self._path, "sqlite-listings", self._check_file)
        self._turns = page_turns()
        self._counts = LongReader(self._path, "sqlite-counts", self._check_file)

    async def __aenter__(self) -> Self:
        try:
            await self._in(self._write_thread, self._open_first)
        except BaseException:
            self._stop_threads()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for reader in (self._listings, self._counts):
            await reader.close()
        if self._releasing is not None:
            self._releasing.cancel()
        self._close_reader()
        self._sweep_lock.release()
        if self._writer is not None:
            await self._in(self._write_thread, partial(schema.close_writer, self._writer))
        self._stop_threads()

    async def read_answers(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        return [self.try_read_answer(job_id) for job_id in job_ids]

    def try_read_answer(self, job_id: str) -> Answer | StoreError | None:
        """Find a job that was polled before by its rowid, which takes one B-tree instead of two."""
        rowid = self._rowids.get(job_id)
        if rowid is not None and (found := self._read(statements.ANSWER_AT_ROWID, (rowid, job_id))):
            return Answer._make(found[0])
        if not (found := self._read(statements.ANSWER, (job_id,))):
            return None
        *answer, rowid = found[0]
        if len(self._rowids) >= self._limits.max_rowids:
            self._rowids.clear()
        self._rowids[job_id] = rowid
        return Answer(*answer)

    async def read_jobs(self, job_ids: Sequence[str], *, with_results: bool) -> list[Job | StoreError | None]:
        recent = self._recent.as_of(self._mark())
        sought = [job_id for job_id in job_ids if job_id not in recent]
        if not sought:
            return [recent[job_id] for job_id in job_ids]
        statement = statements.JOBS[with_results, self._place_of_added]
        if len(sought) == 1:
            rows = self._read(statement, sought)
        else:
            rows = self._read_each(statement, [(job_id,) for job_id in sought])
        found = {row[0]: job_of(row) for row in rows}
        return [recent.get(job_id) or found.get(job_id) for job_id in job_ids]

    def part_of(self, job_id: str) -> None:
        """There is one part."""

    async def commit(self, changes: Sequence[Change]) -> dict[str, StoreError | None]:
        lost = await self._write(lambda connection: _commit(connection, changes))
        if lost:
            self._recent.clear()  # the transaction was begun anew, so another process may have written in between
        else:
            self._recent.put(changes)
        return dict.fromkeys(lost)

    async def confirm(self, job_ids: Sequence[str]) -> dict[str, StoreError]:  # noqa: ARG002  # the port's
        return {}  # readers see a commit only after its sync

    async def changed(self, versions: Mapping[str, int]) -> dict[str, int]:
        """Compare only after a commit of another process, which SQLite tells without reading a job."""
        mark = await self._in(self._write_thread, self._mark_of_others)
        compared, before = self._compared
        wanted = list(versions.keys() - compared) if mark == before else list(versions)
        if not wanted and len(versions) == len(compared):
            return {}
        found: list[list[Any]] = []
        for first in range(0, len(wanted), _COMPARED_AT_ONCE):
            part = wanted[first : first + _COMPARED_AT_ONCE]
            found += [self._read(statements.VERSION, (job_id,)) for job_id in part]
            await asyncio.sleep(0)  # polls go on
        self._compared = frozenset(versions), mark
        now = {job_id: rows[0][0] if rows else 0 for job_id, rows in zip(wanted, found, strict=True)}
        return {job_id: version for job_id, version in now.items() if version != versions[job_id]}

    async def try_lead(self, holder: str, for_ms: int) -> Claim:
        try:
            if for_ms:
                return Claim(self._sweep_lock.take(holder), None)
            self._sweep_lock.release()
        except OSError as error:
            raise StoreUnavailable from error
        return Claim(leads=False, now_ms=None)

    async def due(self, now_ms: int, limit: int) -> list[str]:
        return [job_id for (job_id,) in self._read(statements.DUE, (now_ms, limit))]

    async def purge(self, now_ms: int, limit: int) -> int:
        if not self._read(statements.HAS_EXPIRED, (now_ms,)):
            return 0

        def purge(connection: apsw.Connection) -> int:
            connection.execute(statements.PURGE, (now_ms, limit))
            return connection.changes()

        return await self._write(purge)

    async def list_page(self, listing: Listing, now_ms: int) -> JobPage:
        async with self._turns.turn():
            return await read_page(_DIALECT, listing, now_ms, self._listings.fetch, self._limits.max_scans)

    async def count_jobs(self, leases_count_from_ms: int = 0) -> JobCount:
        values = count_values(leases_count_from_ms)
        (row,) = await self._counts.fetch(statements.COUNT, values)
        return count_of(row)

    async def count_types(self) -> dict[tuple[JobState, RequestType], int]:
        return types_of(await self._counts.fetch(statements.COUNT_TYPES))

    async def worker_signs(self) -> WorkerSigns:
        (row,) = await self._counts.fetch(statements.WORKER_SIGNS)
        return WorkerSigns._make(row)

    async def probe(self) -> None:
        await self._write(lambda connection: connection.execute(statements.COUNT_UP, ("probes",)))

    async def read_virtual_keys(self, virtual_key_ids: Sequence[str]) -> list[VirtualKey | None]:
        return [virtual_keys.by_id(self._read, virtual_key_id) for virtual_key_id in virtual_key_ids]

    async def find_virtual_keys(self, digests: Sequence[bytes]) -> list[VirtualKey | None]:
        return [virtual_keys.by_digest(self._read, digest) for digest in digests]

    async def put_virtual_key(self, virtual_key: VirtualKey) -> VirtualKey:
        await self._write(lambda connection: virtual_keys.put(connection, virtual_key))
        return virtual_keys.by_id(self._read, virtual_key.virtual_key_id) or virtual_key

    async def disable_virtual_key(self, virtual_key_id: str, now_ms: int) -> bool:
        return await self._write(lambda connection: virtual_keys.disable(connection, virtual_key_id, now_ms))

    async def delete_virtual_key(self, virtual_key_id: str) -> bool:
        return await self._write(lambda connection: virtual_keys.delete(connection, virtual_key_id))

    async def list_virtual_keys(self, after: str, limit: int) -> list[VirtualKey]:
        return virtual_keys.listed(self._read, after, limit)

    async def virtual_keys_version(self) -> int:
        return virtual_keys.version(self._read)

    # --- connections ---

    def _open(self, *, create: bool) -> apsw.Connection:
        """Open the writer's connection, on its thread."""
        self._writer = schema.open_writer(self._path, self._limits.busy_timeout_ms, create=create)
        self._opened += 1
        self._place_of_added = schema.place_of_added(self._writer)
        self._file = self._file or schema.identity(self._name)
        return self._writer

    def _open_first(self) -> None:
        """Open the file. Be content with reads where the disk is full and holds a file of this version."""
        try:
            self._open(create=True)
        except schema.DiskFull as full:
            try:
                with closing(schema.open_reader(self._path)) as reader:
                    is_current = schema.is_current(reader)
                    self._place_of_added = schema.place_of_added(reader)
            except apsw.Error:
                raise full from None
            if not is_current:
                raise
            self._file = schema.identity(self._name)
            _log.warning(
                "The disk is full. Polls are answered, and writes are refused until there is room.",
                extra={"event": "started_without_room"},
            )

    def _read(self, statement: str, values: Sequence[Any]) -> list[Any]:
        """Do a short read on the event loop's thread."""
        try:
            if self._reader is None:
                self._reader = self._open_reader()
            return self._reader.fetch(statement, values, keep=not self._writes)
        except _FAULTS as error:
            self._close_reader()
            raise StoreUnavailable from error

    def _read_each(self, statement: str, values: Sequence[Sequence[Any]]) -> list[Any]:
        """As `_read` for each of the values, in one transaction."""
        try:
            if self._reader is None:
                self._reader = self._open_reader()
            return self._reader.fetch_each(statement, values)
        except _FAULTS as error:
            self._close_reader()
            raise StoreUnavailable from error

    def _open_reader(self) -> PointReader:
        self._check_file()
        return PointReader(self._path, self._limits.max_kept_frames, self._release_soon)

    def _release_reader(self) -> None:
        """Let the log restart. A reader that fails to is closed, and reopened when it is needed."""
        try:
            if self._reader is not None:
                self._reader.release()
        except apsw.Error:
            self._close_reader()

    def _release_soon(self) -> None:
        if self._releasing is None:
            loop = asyncio.get_running_loop()
            self._releasing = loop.call_later(self._limits.kept_seconds, self._release_now)

    def _release_now(self) -> None:
        self._releasing = None
        self._release_reader()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    async def _write(self, work: Callable[[apsw.Connection], T]) -> T:
        """Do the work in a transaction on the writer's thread. Return when it is committed and synced."""
        ends_at = time.monotonic() + self._limits.busy_timeout_ms / 1000
        self._writes += 1
        try:
            self._release_reader()
            outcome, *marks = await self._in(self._write_thread, lambda: self._transact(work, ends_at))
        finally:
            self._writes -= 1
        self._recent.follow(*marks)
        return outcome

    def _transact(self, work: Callable[[apsw.Connection], T], ends_at: float) -> tuple[T, bytes, bytes]:
        """As `_write`, on the thread. Return the marks of `RecentJobs.follow`, too.

        The time spent waiting for the thread is not waited for a lock again.
        """
        try:
            connection = self._writing()
            connection.set_busy_timeout(max(0, int((ends_at - time.monotonic()) * 1000)))
            connection.execute("BEGIN IMMEDIATE")
            before = self._mark()
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
            raise (StoreFull if isinstance(error, _FULL) else StoreUnavailable) from error
        return outcome, before, self._mark()

    def _mark(self) -> bytes:
        reader = self._reader
        return NO_MARK if reader is None else reader.mark()

    def _writing(self) -> apsw.Connection:
        """Return the writer's connection, reopened after a fault.

        Raises StoreConfigError while another file is at the path: what is written to the file that was moved away would
        be lost, and its log at this path would damage the other.
        """
        self._check_file()
        return self._writer or self._open(create=False)

    def _check_file(self) -> None:
        """Raise StoreConfigError while another file is at the path, OSError while none is.

        What was opened then would go on reading the other file after this one has come back.
        """
        if schema.identity(self._name) != self._file:
            raise StoreConfigError(f"{self._name} was replaced while it was in use")

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, work)

    def _mark_of_others(self) -> tuple[int, int]:
        """Return a value that differs once another process, or another store of this one, has committed.

        It may differ without that. Call this on the writer's thread, because `data_version` ignores commits of its own
        connection.
        """
        try:
            return int(str(self._writing().pragma("data_version"))), self._opened
        except _FAULTS as error:
            raise StoreUnavailable from error

    def _stop_threads(self) -> None:
        self._write_thread.shutdown()
        for reader in (self._listings, self._counts):
            reader.stop_thread()


def _close(connection: apsw.Connection | None) -> None:
    if connection is not None:
        connection.close(True)  # force: the operation has reported the error already


def _commit(connection: apsw.Connection, changes: Sequence[Change]) -> list[str]:
    """Try every change. Return the ids of those whose version did not fit.

    At first it is only counted how many fit. It is seldom not all of them: then begin anew and ask after each.
    """
    before = connection.total_changes()
    cursor = connection.cursor()
    for statement, values in statements.steps(changes):
        cursor.executemany(statement, values)
    if connection.total_changes() - before == len(changes):
        return []
    connection.execute("ROLLBACK; BEGIN IMMEDIATE")
    return _commit_one_by_one(connection, changes)


def _commit_one_by_one(connection: apsw.Connection, changes: Iterable[Change]) -> list[str]:
    execute = connection.cursor().execute
    lost = []
    for change in changes:
        execute(*statements.step(change))
        if not connection.changes():
            lost.append(change.job_id)
    return lost
