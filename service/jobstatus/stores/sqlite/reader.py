"""Point reads on the event loop's thread, without a system call while nothing changes.

A read transaction of SQLite takes and releases a file lock, which costs as much as the read itself. So one transaction
is kept open from read to read, as long as the database has not changed since it began. The first bytes of the wal-index
(the `-shm` file, which all connections map) show that: every commit of every process rewrites its header
(https://www.sqlite.org/walformat.html, section 2.1). A read therefore sees every commit that was acknowledged before
it, in whichever process.

An open transaction keeps the log from restarting. So none is kept while this process writes, nor once the log has
grown, and the store ends each after a moment, because other processes may write while this one reads nothing.
"""

import mmap
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from jobstatus.stores.sqlite import schema
from jobstatus.stores.sqlite.recent_jobs import NO_MARK

_HEADER_BYTES: Final = 48
_FRAMES: Final = struct.Struct("=16xI")  # mxFrame of the header: how many frames the log has


class PointReader:
    """A read-only connection for statements that find a row or a few. Raises what apsw and the opening raise."""

    def __init__(self, path: Path, max_kept_frames: int, on_keep: Callable[[], None]) -> None:
        """A transaction is kept only while the log has at most `max_kept_frames`. Each calls `on_keep` once."""
        self._max_kept_frames = max_kept_frames
        self._on_keep = on_keep
        self._connection = schema.open_reader(path, schema.READER_CACHE_KIB)
        try:
            self._cursor = self._connection.cursor()
            self._cursor.execute("SELECT count(*) FROM counters").fetchall()  # which creates the wal-index
            self._index = _wal_index(path.with_name(f"{path.name}-shm"))
        except BaseException:
            self._connection.close()
            raise
        self._kept = b""

    def fetch(self, statement: str, values: Sequence[Any], *, keep: bool) -> list[Any]:
        """Return the rows that the statement finds for these values. `keep`: the transaction may stay open."""
        header = self._index[:_HEADER_BYTES]
        if header != self._kept:
            self.release()
            if keep and _FRAMES.unpack_from(header)[0] <= self._max_kept_frames:
                # The snapshot is taken after the header was read: a commit in between is found at the next read.
                self._cursor.execute("BEGIN; SELECT count(*) FROM counters").fetchall()
                self._kept = header
                self._on_keep()
        return self._cursor.execute(statement, values).fetchall()

    def fetch_each(self, statement: str, values: Sequence[Sequence[Any]]) -> list[Any]:
        """Return the rows that the statement finds for each of these values, all as of one moment.

        One transaction costs as much as reading a row.
        """
        if self._index[:_HEADER_BYTES] == self._kept:
            return self._cursor.executemany(statement, values).fetchall()
        self.release()
        self._cursor.execute("BEGIN").fetchall()
        try:
            return self._cursor.executemany(statement, values).fetchall()
        finally:
            self._cursor.execute("COMMIT").fetchall()

    def mark(self) -> bytes:
        """Return the header of the wal-index, which differs after each commit; NO_MARK where it cannot be read.

        Threads may call this.
        """
        try:
            return self._index[:_HEADER_BYTES]
        except ValueError:  # the file was deleted, so the mapping is closed
            return NO_MARK

    def release(self) -> None:
        """End the transaction that was kept, so that the log can restart."""
        if self._kept:
            self._kept = b""
            self._cursor.execute("COMMIT").fetchall()

    def close(self) -> None:
        """Close in whatever state."""
        self._connection.close(True)


def _wal_index(path: Path) -> mmap.mmap:
    """Return the mapped header of a wal-index: one for each file that this process has used and that still exists.

    It is not closed while the file has a name: when a process closes any descriptor of a file, POSIX releases all locks
    that the process holds on it, including SQLite's (https://www.sqlite.org/howtocorrupt.html, section 2.2). SQLite
    deletes the file when no connection has the database open any more; then the mapping is closed.
    """
    for key, (descriptor, _) in list(_MAPPED.items()):
        if os.fstat(descriptor).st_nlink == 0:
            _MAPPED.pop(key)[1].close()
            os.close(descriptor)
    found = _MAPPED.get(schema.identity(path))
    if found is None:
        descriptor = os.open(path, os.O_RDONLY)
        found = (descriptor, mmap.mmap(descriptor, _HEADER_BYTES, access=mmap.ACCESS_READ))
        status = os.fstat(descriptor)
        _MAPPED[status.st_dev, status.st_ino] = found
    return found[1]


_MAPPED: Final[dict[tuple[int, int], tuple[int, mmap.mmap]]] = {}
