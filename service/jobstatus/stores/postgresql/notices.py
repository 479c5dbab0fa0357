"""Short texts between the processes that use one database, by LISTEN and NOTIFY.

A text is sent in a transaction of its own. The server lets transactions that notify commit one after the other, so
within those of writes it would take their group commit from them. It holds nothing that must be durable, so it does not
wait for the disk.
"""

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

import psycopg

from jobstatus.core.errors import StoreUnavailable
from jobstatus.stores.postgresql.connections import Connection

PUBLISH: Final = "SELECT set_config('synchronous_commit', 'off', true), pg_notify('jobstatus_changes', %s)"
_IS_OURS: Final = b"SELECT pg_backend_pid() = %s"
"""False through a pooler, which gives its clients ids of processes of its own, and whose sessions are not to listen."""


class PostgreSQLNotices:
    """Implements `core.store.NoticeChannel`."""

    def __init__(
        self, connect: Callable[[], Awaitable[Connection]], fetch: Callable[[str, tuple[str]], Awaitable[Any]]
    ) -> None:
        """`fetch` executes a statement. It raises what the store does, `connect` what psycopg does."""
        self._connect = connect
        self._fetch = fetch

    async def publish(self, text: str) -> None:
        await self._fetch(PUBLISH, (text,))

    async def hear(self, heard: Callable[[str], None]) -> str:
        try:
            connection = await self._connect()
            try:
                cursor = await connection.execute(_IS_OURS, (connection.info.backend_pid,))
                if await cursor.fetchone() != (True,):
                    return "there is a pooler in front of PostgreSQL"
                await connection.execute("LISTEN jobstatus_changes")
                async with aclosing(connection.notifies()) as notices:
                    async for notice in notices:
                        heard(notice.payload)
            finally:
                await connection.close()
        except (psycopg.Error, OSError) as error:
            raise StoreUnavailable from error
        return "the connection has ended"
