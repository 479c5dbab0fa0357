"""A few connections to one PostgreSQL, and the promise that nothing takes longer than it may.

Statements travel alone, each a transaction of its own with its values beside it: nothing is prepared, set or locked for
a session, so that a pooler may hand every statement to another server process.

A statement that has begun is never cancelled: it runs in a task of its own, and a caller that goes away leaves it
alone. One that takes too long has its connection broken under it, since a server that hangs does not answer a request
to cancel either; and a commit that waits for a standby would take such a request for leave to do without.
"""

import asyncio
import os
import select
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors

from jobstatus.core.errors import JobStatusError, StoreFull, StoreUnavailable

T = TypeVar("T")

CONNECT_SECONDS: Final = 2
LIMIT_SECONDS: Final = 3.0
CLOSE_SECONDS: Final = 4.0
_LEEWAY_SECONDS: Final = 0.2
_WRONG_SERVER: Final = (
    errors.ReadOnlySqlTransaction,
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
)
"""After these no connection of before is worth trying: the server stops, or is a standby now."""
CONFLICTS: Final = (errors.DeadlockDetected, errors.SerializationFailure)
"""After these a transaction is to be tried again."""
_HARMLESS: Final = (
    JobStatusError,
    errors.DataError,
    errors.IntegrityError,
    *CONFLICTS,
    errors.QueryCanceled,
    errors.DiskFull,
)
"""These end a statement, not the connection."""


class Connection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection that knows when the server has stopped waiting for a standby."""

    is_uncertain: bool = False
    """A commit was answered though the standbys that it was to wait for may lack it."""

    def is_stale(self) -> bool:
        """Whether the server has said something though nobody had asked: mostly that it is gone."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def cut(self) -> None:
        """Have the statement under way fail at once, whether or not the server notices."""
        if not self.closed:
            with socket.socket(fileno=os.dup(self.fileno())) as peer:
                try:
                    peer.shutdown(socket.SHUT_RDWR)
                except OSError:
                    return  # the connection is broken already, which is what was wanted

    def _heed(self, notice: errors.Diagnostic) -> None:
        if notice.source_function == "SyncRepWaitForLSN":  # its text depends on the server's language
            self.is_uncertain = True


async def connect(conninfo: str) -> Connection:
    """A new connection, with settings for statements that travel alone. Raises what psycopg raises."""
    connection = await Connection.connect(conninfo, autocommit=True, prepare_threshold=None)
    connection.add_notice_handler(connection._heed)  # noqa: SLF001  # its own
    return connection


class Connections:
    """At most `limit` connections, made when they are needed and kept while they are sound."""

    def __init__(self, conninfo: str, limit: int) -> None:
        self._conninfo = conninfo
        self._free: list[Connection] = []
        self._busy: set[Connection] = set()
        self._places = asyncio.Semaphore(limit)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._generation = 0

    async def use(self, work: Callable[[Connection], Awaitable[T]], seconds: float = LIMIT_SECONDS) -> T:
        """What the work makes of a connection. Raises StoreUnavailable, StoreFull, or a JobStatusError of the work."""
        task = asyncio.create_task(self._use(work, asyncio.get_running_loop().time() + seconds))
        self._tasks.add(task)
        task.add_done_callback(self._end)
        done, _ = await asyncio.wait({task}, timeout=seconds + _LEEWAY_SECONDS)
        if not done:
            raise StoreUnavailable from TimeoutError("PostgreSQL took too long")
        return task.result()

    async def close(self) -> None:
        """Let go of everything, when what is under way has ended or its time is up."""
        await self._wait(CLOSE_SECONDS)
        for connection in list(self._busy):
            connection.cut()
        await self._wait(_LEEWAY_SECONDS)
        for task in list(self._tasks):  # what is left is still looking for the server
            task.cancel()
        await self._wait(_LEEWAY_SECONDS)
        await self._drop_free()

    async def _wait(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # a caller that has gone asks no more

    async def _use(self, work: Callable[[Connection], Awaitable[T]], ends_at: float) -> T:
        try:
            async with asyncio.timeout_at(ends_at):
                await self._places.acquire()
            try:
                return await self._on_a_connection(work, ends_at)
            finally:
                self._places.release()
        except JobStatusError:
            raise
        except errors.DiskFull as error:
            raise StoreFull from error
        except (psycopg.Error, OSError) as error:  # TimeoutError is an OSError
            raise StoreUnavailable from error

    async def _on_a_connection(self, work: Callable[[Connection], Awaitable[T]], ends_at: float) -> T:
        loop = asyncio.get_running_loop()
        generation = self._generation
        connection = await self._free_one() or await connect(self._conninfo)
        self._busy.add(connection)
        cutting = loop.call_at(ends_at, connection.cut)
        is_sound = True
        try:
            outcome = await _outcome_of(work, connection, ends_at)
        except _HARMLESS:
            raise
        except BaseException as error:
            is_sound = False
            if isinstance(error, _WRONG_SERVER) or connection.closed:
                self._generation += 1
                await self._drop_free()
            raise
        finally:
            cutting.cancel()
            self._busy.discard(connection)
            if is_sound and generation == self._generation and not (connection.closed or connection.is_uncertain):
                self._free.append(connection)
            else:
                await connection.close()
        return outcome

    async def _free_one(self) -> Connection | None:
        while self._free:
            connection = self._free.pop()
            if not connection.is_stale():
                return connection
            await connection.close()
        return None

    async def _drop_free(self) -> None:
        free, self._free = self._free, []
        for connection in free:
            await connection.close()


async def _outcome_of(work: Callable[[Connection], Awaitable[T]], connection: Connection, ends_at: float) -> T:
    """What the work makes of the connection, if it begins in time and its commit is what it says."""
    if asyncio.get_running_loop().time() >= ends_at:
        raise StoreUnavailable from TimeoutError("connecting took too long")
    outcome = await work(connection)
    if connection.is_uncertain:
        raise StoreUnavailable from errors.QueryCanceled("the standbys may lack what was committed")
    return outcome
