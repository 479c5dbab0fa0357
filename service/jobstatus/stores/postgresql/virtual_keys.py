"""Virtual keys in PostgreSQL: few, changed rarely, one change at a time."""

from collections.abc import Sequence
from typing import Any, Final

from psycopg import errors

from jobstatus.core.errors import InvalidField
from jobstatus.core.virtual_keys import VirtualKey
from jobstatus.stores.postgresql.connections import Connection

_SELECT: Final = """
    SELECT virtual_key_id, disabled, expires_at_ms, created_at_ms, updated_at_ms,
           ARRAY(SELECT key_sha256 FROM jobstatus.virtual_key_hashes AS hash
                 WHERE hash.virtual_key_id = virtual_key.virtual_key_id ORDER BY position)
    FROM jobstatus.virtual_keys AS virtual_key WHERE """
BY_ID: Final = f"{_SELECT} virtual_key_id = ANY(%s::text[])"
LISTED: Final = f"{_SELECT} virtual_key_id > %s ORDER BY virtual_key_id LIMIT %s"
OWNERS: Final = (
    "SELECT key_sha256, virtual_key_id FROM jobstatus.virtual_key_hashes WHERE key_sha256 = ANY(%b::bytea[])"
)
VERSION: Final = "SELECT value FROM jobstatus.counters WHERE name = 'virtual_keys_version'"
_COUNT_UP: Final = "UPDATE jobstatus.counters SET value = value + 1 WHERE name = 'virtual_keys_version'"
_PUT: Final = """
    INSERT INTO jobstatus.virtual_keys VALUES (%s, %s, %s, %s, %s) ON CONFLICT (virtual_key_id) DO UPDATE
    SET disabled = excluded.disabled, expires_at_ms = excluded.expires_at_ms, updated_at_ms = excluded.updated_at_ms
    RETURNING created_at_ms"""
_DISABLE: Final = "UPDATE jobstatus.virtual_keys SET disabled = TRUE, updated_at_ms = %s WHERE virtual_key_id = %s"
_FORGET_HASHES: Final = "DELETE FROM jobstatus.virtual_key_hashes WHERE virtual_key_id = %s"
_PUT_HASHES: Final = """
    INSERT INTO jobstatus.virtual_key_hashes
    SELECT key_sha256, %s, position FROM unnest(%b::bytea[]) WITH ORDINALITY AS given(key_sha256, position)"""


def virtual_key_of(row: Sequence[Any]) -> VirtualKey:
    """Decode a row of BY_ID or LISTED."""
    virtual_key_id, disabled, expires_at_ms, created_at_ms, updated_at_ms, digests = row
    return VirtualKey(
        virtual_key_id=virtual_key_id,
        key_sha256=tuple(digests),
        disabled=disabled,
        expires_at_ms=expires_at_ms,
        created_at_ms=created_at_ms,
        updated_at_ms=updated_at_ms,
    )


async def put(connection: Connection, virtual_key: VirtualKey) -> int:
    """Store it. Return the created_at_ms of its first put. Raises InvalidField when a hash is another virtual key's."""
    virtual_key_id = virtual_key.virtual_key_id
    row = (virtual_key.disabled, virtual_key.expires_at_ms, virtual_key.created_at_ms, virtual_key.updated_at_ms)
    try:
        async with connection.transaction():
            await connection.execute(_COUNT_UP)  # first, because it makes every other change wait
            stored = await (await connection.execute(_PUT, (virtual_key_id, *row))).fetchone()
            await connection.execute(_FORGET_HASHES, (virtual_key_id,))
            await connection.execute(_PUT_HASHES, (virtual_key_id, list(virtual_key.key_sha256)))
    except errors.UniqueViolation as error:
        raise InvalidField.of("key_sha256", "must not be registered for another virtual key") from error
    return virtual_key.created_at_ms if stored is None else int(stored[0])


async def disable(connection: Connection, virtual_key_id: str, now_ms: int) -> bool:
    """Disable it. Return whether it was there."""
    async with connection.transaction():
        await connection.execute(_COUNT_UP)
        disabled = await connection.execute(_DISABLE, (now_ms, virtual_key_id))
    return disabled.rowcount > 0


async def delete(connection: Connection, virtual_key_id: str) -> bool:
    """Delete it and its hashes. Return whether it was there."""
    async with connection.transaction():
        await connection.execute(_COUNT_UP)
        await connection.execute(_FORGET_HASHES, (virtual_key_id,))
        deleted = await connection.execute(
            "DELETE FROM jobstatus.virtual_keys WHERE virtual_key_id = %s", (virtual_key_id,)
        )
    return deleted.rowcount > 0
