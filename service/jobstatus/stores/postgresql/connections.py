"""A few connections to one PostgreSQL, with a time limit for everything.

Each statement is a transaction of its own, sent with its values: nothing is prepared, set or locked for a session that
statements need, so a pooler may pass every statement to another server process.

A statement that has begun is never cancelled: it runs in its own task, which goes on when the caller is cancelled. When
it takes too long its connection is shut down instead, because a server that hangs does not answer a cancel request
either, and because such a request makes a commit stop waiting for its standby.
"""

import asyncio
import os
import select
import socket
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import psycopg
from psycopg import errors

from jobstatus.core.circuit_breaker import CircuitBreaker
from jobstatus.core.errors import JobStatusError, StoreFull, StoreUnavailable
from jobstatus.stores.postgresql import arrays
from jobstatus.stores.postgresql.limits import PostgreSQLLimits

T = TypeVar("T")

KEEPALIVES: Final = """
    SELECT set_config(name, wanted.setting, false)
    FROM pg_settings JOIN (VALUES ('tcp_keepalives_idle', '10'), ('tcp_keepalives_interval', '5'),
        ('tcp_keepalives_count', '3'), ('tcp_user_timeout', '25000')) AS wanted(name, setting) USING (name)
    WHERE pg_settings.source = 'default' AND pg_backend_pid() = %s"""
"""Makes the server end the session within half a minute when its client has vanished, instead of after two hours.

It sets nothing where an operator has chosen otherwise, and nothing through a pooler, whose sessions are not ours: a
pooler gives its clients ids of processes of its own.
"""
_KEEPALIVES_SECONDS: Final = 2.0

_LEEWAY_SECONDS: Final = 0.1
_WRONG_SERVER: Final = (
    errors.ReadOnlySqlTransaction,
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
)
"""After these all connections are dropped, because the server stops, or is a standby now."""
CONFLICTS: Final = (errors.DeadlockDetected, errors.SerializationFailure)
"""After these a transaction is repeated."""
_HARMLESS: Final = (
    JobStatusError,
    errors.DataError,
    errors.IntegrityError,
    *CONFLICTS,
    errors.QueryCanceled,
    errors.DiskFull,
)
"""After these the connection can be used again."""


class Connection(psycopg.AsyncConnection[tuple[Any, ...]]):
    """A connection that notices when the server has stopped waiting for a standby."""

    is_uncertain: bool = False
    """A commit was answered although the standbys that it should have waited for may lack it."""

    def is_stale(self) -> bool:
        """Whether the server has sent something unasked: mostly that it closes the connection."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def cut(self) -> None:
        """Shut the socket down, so that the statement under way fails at once even if the server hangs."""
        if not self.closed:
            with socket.socket(fileno=os.dup(self.fileno())) as peer:
                try:
                    peer.shutdown(socket.SHUT_RDWR)
                except OSError:
                    return  # the connection is broken already

    def _heed(self, notice: errors.Diagnostic) -> None:
        if notice.source_function == "SyncRepWaitForLSN":  # its text depends on the server's language
            self.is_uncertain = True


async def connect(conninfo: str) -> Connection:
    """Open a connection that commits each statement and prepares none. Raises what psycopg raises.

    An attempt that fails leaves no socket open: psycopg's error and the frames that it was raised in refer to each
    other and to the socket, which would stay open until the garbage is collected.
    """
    try:
        connection = await Connection.connect(
            conninfo, autocommit=True, prepare_threshold=None, client_encoding="UTF8"
        )  # whatever the URL says: `arrays` sends UTF-8
    except psycopg.Error as error:
        traceback.clear_frames(error.__traceback__)
        raise
    connection.add_notice_handler(connection._heed)  # noqa: SLF001  # its own
    arrays.register(connection.adapters)
    try:
        await _ask(connection, KEEPALIVES, (connection.info.backend_pid,), _KEEPALIVES_SECONDS)
    except BaseException:
        await connection.close()
        raise
    return connection


async def check_health(connecting: Awaitable[Connection], connect_seconds: float, answer_seconds: float) -> None:
    """Return when the server has answered on a new connection. Raises what psycopg raises, or TimeoutError."""
    async with asyncio.timeout(connect_seconds):
        connection = await connecting
    try:
        await _ask(connection, "SELECT 1", (), answer_seconds)
    finally:
        await connection.close()


async def _ask(connection: Connection, statement: str, values: Sequence[Any], seconds: float) -> None:
    """Execute one statement. Cut the connection when it takes longer, or the caller is cancelled."""
    asked = asyncio.ensure_future(connection.execute(statement.encode(), values))
    try:
        await asyncio.wait({asked}, timeout=seconds)
    finally:
        if not asked.done():
            connection.cut()
            await asyncio.wait({asked})
    asked.result()


def first_line(error: Exception) -> str:
    """Return what the server or the driver says, which holds no password."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


class Connections:
    """At most `limit` connections, opened when they are needed and kept while they are sound."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        limit: int,
        limits: PostgreSQLLimits,
        breaker: CircuitBreaker,
    ) -> None:
        self._connect = connect
        self._limits = limits
        self._breaker = breaker
        self._free: list[Connection] = []
        self._busy: set[Connection] = set()
        self._places = asyncio.Semaphore(limit)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._generation = 0

    async def use(self, work: Callable[[Connection], Awaitable[T]], seconds: float | None = None) -> T:
        """Return the result of `work` on a connection. Raises StoreUnavailable, StoreFull, or its JobStatusError."""
        if seconds is None:
            seconds = self._limits.operation_seconds
        with self._breaker.watching():
            task = asyncio.create_task(self._use(work, asyncio.get_running_loop().time() + seconds))
            self._tasks.add(task)
            task.add_done_callback(self._end)
            done, _ = await asyncio.wait({task}, timeout=seconds + _LEEWAY_SECONDS)
            if not done:
                raise StoreUnavailable from TimeoutError("PostgreSQL took too long")
            return task.result()

    async def drop(self) -> None:
        """Close the connections that are free now, and the others when their work has ended."""
        self._generation += 1
        free, self._free = self._free, []
        for connection in free:
            await connection.close()

    async def close(self) -> None:
        """Close all connections, when what is under way has ended or its time is up."""
        await self._wait(self._limits.close_seconds)
        for connection in list(self._busy):
            connection.cut()
        await self._wait(_LEEWAY_SECONDS)
        for task in list(self._tasks):  # these are still connecting
            task.cancel()
        await self._wait(_LEEWAY_SECONDS)
        await self.drop()

    async def _wait(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, because the caller may have gone

    async def _use(self, work: Callable[[Connection], Awaitable[T]], ends_at: float) -> T:
        try:
            async with asyncio.timeout_at(ends_at):
                await self._places.acquire()
            try:
                self._breaker.check_up()
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
        connection = await self._free_one() or await self._connect()
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
                await self.drop()
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


async def _outcome_of(work: Callable[[Connection], Awaitable[T]], connection: Connection, ends_at: float) -> T:
    """Return the result of the work, if it begins in time and its commit is certain."""
    if asyncio.get_running_loop().time() >= ends_at:
        raise StoreUnavailable from TimeoutError("connecting took too long")
    outcome = await work(connection)
    if connection.is_uncertain:
        raise StoreUnavailable from errors.QueryCanceled("the standbys may lack what was committed")
    return outcome
