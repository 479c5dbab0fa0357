"""PostgreSQL behind the port: reads and writes on a few connections, and protection from writes that hang."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, Self, TypeVar

import psycopg

from jobstatus.core.circuit_breaker import CircuitBreaker
from jobstatus.core.errors import StoreFull, StoreUnavailable
from jobstatus.core.job import Job, JobState, RequestType
from jobstatus.core.store import (
    NOT_NOW,
    Answer,
    Change,
    Claim,
    JobCount,
    JobPage,
    Listing,
    NotNow,
    StoreError,
    WorkerSigns,
)
from jobstatus.core.virtual_keys import VirtualKey
from jobstatus.stores import StoreConfigError
from jobstatus.stores.counting import count_of, count_values, types_of
from jobstatus.stores.listing import Dialect, page_turns, read_page
from jobstatus.stores.postgresql import schema, statements, virtual_keys
from jobstatus.stores.postgresql.address import conninfo_of, conninfo_of_host, host_count
from jobstatus.stores.postgresql.arrays import BinaryArray
from jobstatus.stores.postgresql.connections import (
    CONFLICTS,
    Connection,
    Connections,
    check_health,
    connect,
    first_line,
)
from jobstatus.stores.postgresql.limits import PostgreSQLLimits
from jobstatus.stores.postgresql.notices import PostgreSQLNotices
from jobstatus.stores.postgresql.sweep_position import SweepPosition
from jobstatus.stores.rows import job_of

_log = logging.getLogger(__name__)

T = TypeVar("T")

DIALECT: Final = Dialect("jobstatus.jobs", "%s", "strpos")
CONFLICT_PAUSES_MS: Final = (5, 20, 80)
"""The pauses, less a random part, before a batch that another one has locked out is repeated."""


class PostgreSQLJobStore:
    """Implements `core.store.Store` upon one database, which any number of processes may share.

    A write that hangs, as it does when a synchronous standby has gone, keeps its server process although its caller has
    given up. So after a failure each write first counts those that hang, and is refused while there are several:
    otherwise they would use up the server's connections, and reads would fail too.
    """

    reads_at_once = False

    def __init__(self, url: str, limits: PostgreSQLLimits = PostgreSQLLimits()) -> None:  # noqa: B008  # a frozen value
        """`url` is a libpq URL. It may name several hosts, of which the one that accepts writes is used.

        Raises StoreConfigError for a URL that cannot be used.
        """
        self._limits = limits
        self._conninfo = conninfo_of(url, limits.connect_seconds)
        self._primary = self._conninfo
        """Of several hosts the one that was connected to last."""
        self._may_hang = False
        self._has_added = False
        self._adding: asyncio.Task[None] | None = None
        self.notices = PostgreSQLNotices(self._connect, self._read)
        self._due, self._expiring = SweepPosition(), SweepPosition()
        self._turns = page_turns()

    async def __aenter__(self) -> Self:
        try:
            connection = await self._connect()
        except (psycopg.Error, OSError) as error:
            raise StoreConfigError(f"cannot connect to PostgreSQL: {first_line(error)}") from error
        cutting = asyncio.get_running_loop().call_later(self._limits.start_seconds, connection.cut)
        try:
            await schema.prepare(connection)
            missing = await schema.add_columns(connection, self._limits.added_lock_ms)
        except psycopg.Error as error:
            raise StoreConfigError(f"cannot use the PostgreSQL database: {first_line(error)}") from error
        finally:
            cutting.cancel()
            await connection.close()
        limits = self._limits
        self._breaker = CircuitBreaker(self._check_health, limits.breaker, self._drop_connections)
        self._short = Connections(self._connect, limits.connections, limits, self._breaker)
        self._listings = Connections(self._connect, limits.long_connections, limits, self._breaker)
        self._counts = Connections(self._connect, limits.long_connections, limits, self._breaker)
        self._has_added = missing is None
        if missing is not None:
            _log.warning(
                "Columns that this version adds to the table of jobs are missing, so nobody's name and no trace is kept"
                " with a job. This is tried again every minute.",
                extra={"event": "store_lacks_columns", "reason": missing},
            )
            self._adding = asyncio.create_task(self._add_columns(), name="jobstatus-add-columns")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._adding is not None:
            self._adding.cancel()
            await asyncio.gather(self._adding, return_exceptions=True)
        await self._breaker.close()
        await asyncio.gather(*(connections.close() for connections in self._all()))

    def try_read_answer(self, job_id: str) -> NotNow:  # noqa: ARG002  # the port's
        return NOT_NOW

    async def read_answers(self, job_ids: Sequence[str]) -> list[Answer | StoreError | None]:
        rows = await self._read(statements.ANSWERS, (statements.askable(job_ids),))
        found = {row[0]: Answer(*row[1:]) for row in rows}
        return [found.get(job_id) for job_id in job_ids]

    async def read_jobs(self, job_ids: Sequence[str], *, with_results: bool) -> list[Job | StoreError | None]:
        statement = statements.JOBS[with_results, self._has_added]
        found = {row[0]: job_of(row) for row in await self._read(statement, (statements.askable(job_ids),))}
        return [found.get(job_id) for job_id in job_ids]

    def part_of(self, job_id: str) -> None:
        """There is one part."""

    async def commit(self, changes: Sequence[Change]) -> dict[str, StoreError | None]:
        if not changes:
            return {}
        statement = statements.COMMIT[self._has_added]
        values = statements.columns_of(changes, has_added=self._has_added)
        try:
            made = {
                job_id for (job_id,) in await self._write(lambda connection: _commit(connection, statement, values))
            }
        finally:
            self._due.add(change.job.due_at_ms for change in changes if change.job)
            self._expiring.add(change.job.expires_at_ms for change in changes if change.job)
        return {change.job_id: None for change in changes if change.job_id not in made}

    async def confirm(self, job_ids: Sequence[str]) -> dict[str, StoreError]:  # noqa: ARG002  # the port's
        """Wait for the synchronous standbys, if there are any.

        What can be read was flushed by the primary before. A standby may still lack it, because a commit stops waiting
        when its server process is terminated or cancelled, and does not go on waiting after a crash of the primary.
        """
        await self._write(lambda connection: _fetch(connection, statements.CONFIRM))
        return {}

    async def changed(self, versions: Mapping[str, int]) -> dict[str, int]:
        if not versions:
            return {}
        return dict(await self._read(statements.CHANGED, (list(versions), list(versions.values()))))

    async def try_lead(self, holder: str, for_ms: int) -> Claim:
        statement, values = (statements.CLAIM, (holder, for_ms)) if for_ms else (statements.GIVE_BACK, (holder,))
        ((is_done, now_ms),) = await self._write(lambda connection: _fetch(connection, statement, values))
        return Claim(is_done and for_ms > 0, now_ms)

    async def due(self, now_ms: int, limit: int) -> list[str]:
        rows = await self._read(statements.DUE, (self._due.begin(now_ms), now_ms, limit))
        self._due.end(rows[0][1] if rows else None)  # they are due until they have been changed
        return [job_id for job_id, _ in rows]

    async def purge(self, now_ms: int, limit: int) -> int:
        values = (self._expiring.begin(now_ms), now_ms, limit)
        rows = await self._write(lambda connection: _fetch(connection, statements.PURGE, values))
        self._expiring.end(max(rows)[0] if len(rows) == limit else None)
        return len(rows)

    async def list_page(self, listing: Listing, now_ms: int) -> JobPage:
        async def read(connection: Connection) -> JobPage:
            # With the connection in hand, so that a wait for one has the store's time limit.
            async with self._turns.turn():
                return await read_page(DIALECT, listing, now_ms, partial(_fetch, connection), self._limits.max_scans)

        return await self._listings.use(read)

    async def count_jobs(self, leases_count_from_ms: int = 0) -> JobCount:
        values = count_values(leases_count_from_ms)
        (row,) = await self._counts.use(
            lambda connection: _fetch(connection, statements.COUNT, values), self._limits.count_seconds
        )
        return count_of(row)

    async def count_types(self) -> dict[tuple[JobState, RequestType], int]:
        return types_of(await self._read_all(statements.COUNT_TYPES))

    async def worker_signs(self) -> WorkerSigns:
        (row,) = await self._read_all(statements.WORKER_SIGNS)
        return WorkerSigns._make(row)

    async def probe(self) -> None:
        await self._write(lambda connection: _fetch(connection, statements.PROBE))

    async def read_virtual_keys(self, virtual_key_ids: Sequence[str]) -> list[VirtualKey | None]:
        rows = await self._read(virtual_keys.BY_ID, (statements.askable(virtual_key_ids),))
        found = {row[0]: virtual_keys.virtual_key_of(row) for row in rows}
        return [found.get(virtual_key_id) for virtual_key_id in virtual_key_ids]

    async def find_virtual_keys(self, digests: Sequence[bytes]) -> list[VirtualKey | None]:
        owners = dict(await self._read(virtual_keys.OWNERS, (list(digests),)))
        if not owners:  # as with made-up keys, which then cost one statement
            return [None] * len(digests)
        return await self.read_virtual_keys([owners.get(digest, "") for digest in digests])

    async def put_virtual_key(self, virtual_key: VirtualKey) -> VirtualKey:
        created_at_ms = await self._write(lambda connection: virtual_keys.put(connection, virtual_key))
        return replace(virtual_key, created_at_ms=created_at_ms)

    async def disable_virtual_key(self, virtual_key_id: str, now_ms: int) -> bool:
        return await self._write(lambda connection: virtual_keys.disable(connection, virtual_key_id, now_ms))

    async def delete_virtual_key(self, virtual_key_id: str) -> bool:
        return await self._write(lambda connection: virtual_keys.delete(connection, virtual_key_id))

    async def list_virtual_keys(self, after: str, limit: int) -> list[VirtualKey]:
        return [virtual_keys.virtual_key_of(row) for row in await self._read(virtual_keys.LISTED, (after, limit))]

    async def virtual_keys_version(self) -> int:
        return int((await self._read(virtual_keys.VERSION))[0][0])

    async def _add_columns(self) -> None:
        """Add the columns that came later, or wait until another process or a person has."""
        limits = self._limits
        while not self._has_added:
            await asyncio.sleep(limits.added_pause_seconds)
            try:
                missing = await self._counts.use(partial(schema.add_columns, lock_ms=limits.added_lock_ms))
            except (StoreUnavailable, StoreFull):
                continue
            self._has_added = missing is None
        _log.info("The table of jobs has all columns now.", extra={"event": "store_columns_added"})

    async def _connect(self) -> Connection:
        connection = await connect(self._conninfo)
        self._primary = conninfo_of_host(self._conninfo, connection.info)
        return connection

    async def _check_health(self) -> None:
        """Ask the host that was used last whether it answers; once it is down, whichever host accepts writes."""
        seconds = self._limits.breaker.health_check_seconds
        if self._breaker.is_down:
            others_seconds = (host_count(self._conninfo) - 1) * self._limits.connect_seconds
            await check_health(self._connect(), others_seconds + seconds, seconds)
        else:
            await check_health(connect(self._primary), seconds, seconds)

    async def _drop_connections(self) -> None:
        await asyncio.gather(*(connections.drop() for connections in self._all()))

    def _all(self) -> tuple[Connections, ...]:
        return self._short, self._listings, self._counts

    async def _read(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return await self._short.use(lambda connection: _fetch(connection, statement, values))

    async def _read_all(self, statement: str) -> list[tuple[Any, ...]]:
        """Do a read of many rows, which may take as long as a count."""
        return await self._counts.use(lambda connection: _fetch(connection, statement), self._limits.count_seconds)

    async def _write(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        async def guarded(connection: Connection) -> T:
            if self._may_hang:
                await self._refuse_to_hang_too(connection)
            return await work(connection)

        try:
            outcome = await self._short.use(guarded)
        except StoreUnavailable:
            self._may_hang = True
            raise
        self._may_hang = False
        return outcome

    async def _refuse_to_hang_too(self, connection: Connection) -> None:
        ((hanging,),) = await _fetch(connection, statements.HANGING, (self._limits.operation_seconds,))
        if hanging >= self._limits.max_hanging_writes:
            raise StoreUnavailable from TimeoutError(f"{hanging} earlier writes still hang")


async def _fetch(connection: Connection, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    cursor = connection.cursor(binary=True)
    await cursor.execute(statement.encode(), values)
    return await cursor.fetchall()


async def _commit(connection: Connection, statement: str, values: Sequence[BinaryArray]) -> list[tuple[Any, ...]]:
    """Try every change. Return the ids of those made. Repeat the batch after a deadlock with another process."""
    for pause_ms in CONFLICT_PAUSES_MS:
        try:
            return await _fetch(connection, statement, values)
        except CONFLICTS:
            await asyncio.sleep(random.uniform(0.5, 1) * pause_ms / 1000)  # noqa: S311  # no secret
    return await _fetch(connection, statement, values)
