"""SQLite files and connections as tests need them: made to be refused, watched while they are used."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import apsw
from jobstatus.core.tracker import JobTracker
from jobstatus.stores.sqlite import SQLiteJobStore
from jobstatus.stores.sqlite.limits import SQLiteLimits

from harness.tracking import Clock, Ledger, tracker_on

BATCHES: Final = 6
"""So many batches make a file of some pages."""


@asynccontextmanager
async def opened(
    path: Path, clock: Clock | None = None, limits: SQLiteLimits | None = None
) -> AsyncIterator[tuple[SQLiteJobStore, JobTracker]]:
    """The store upon this file, and the core upon the store."""
    async with SQLiteJobStore(str(path), limits or SQLiteLimits()) as store:
        tracker = tracker_on(store, clock)
        yield store, tracker
        await tracker.close()


@contextmanager
def hooked(hook: Callable[[apsw.Connection], None]) -> Iterator[None]:
    apsw.connection_hooks.append(hook)
    try:
        yield
    finally:
        apsw.connection_hooks.remove(hook)


def tell_writers(connections: list[apsw.Connection], statement: str) -> None:
    """Have every connection that can write execute this."""
    told = [connection.execute(statement) for connection in still_open(connections) if not connection.readonly("main")]
    assert told


def still_open(connections: list[apsw.Connection]) -> Iterator[apsw.Connection]:
    for connection in connections:
        with suppress(apsw.ConnectionClosedError):
            connection.db_filename("main")
            yield connection


def own_file(path: Path, **pragmas: int) -> None:
    """A file of ours with some pages, and nothing left in its log."""

    async def fill() -> None:
        async with opened(path) as (_, tracker):
            for number in range(BATCHES):
                await Ledger().write(tracker, number)

    asyncio.run(fill())
    with closing(apsw.Connection(str(path))) as connection:
        for name, value in pragmas.items():
            connection.execute(f"PRAGMA {name}={value}")


def damaged(path: Path, start: int, content: bytes) -> None:
    own_file(path)
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)


def truncated(path: Path) -> None:
    own_file(path)
    os.truncate(path, path.stat().st_size // 2)


def strangers_file(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("CREATE TABLE customers (name)")


def strangers_file_with_a_log(path: Path) -> None:
    """As a program leaves it that was killed: half of what it knows is in the log."""
    original = path.with_name("original.db")
    with closing(apsw.Connection(str(original))) as connection:
        assert connection.execute("PRAGMA journal_mode=WAL").get == "wal"
        connection.execute("CREATE TABLE customers (name)")
        for suffix in ("", "-wal"):
            shutil.copy(f"{original}{suffix}", f"{path}{suffix}")
