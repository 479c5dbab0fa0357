"""Virtual keys in SQLite: few, changed rarely. The store passes a function that reads, or a connection that writes."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import apsw

from jobstatus.core.errors import InvalidField
from jobstatus.core.virtual_keys import VirtualKey
from jobstatus.stores.sqlite.statements import COUNT_UP

Read: TypeAlias = Callable[[str, Sequence[Any]], list[Any]]
"""Returns the rows that a statement finds for its values."""

_VERSION: Final = "virtual_keys_version"
_SELECT: Final = "SELECT virtual_key_id, disabled, expires_at_ms, created_at_ms, updated_at_ms FROM virtual_keys WHERE "
_BY_ID: Final = f"{_SELECT} virtual_key_id = ?"
_LISTED: Final = f"{_SELECT} virtual_key_id > ? ORDER BY virtual_key_id LIMIT ?"
_OWNER: Final = "SELECT virtual_key_id FROM virtual_key_hashes WHERE key_sha256 = ?"
_HASHES: Final = "SELECT key_sha256 FROM virtual_key_hashes WHERE virtual_key_id = ? ORDER BY position"
_FORGET_HASHES: Final = "DELETE FROM virtual_key_hashes WHERE virtual_key_id = ?"
_PUT_HASH: Final = "INSERT INTO virtual_key_hashes VALUES (?, ?, ?)"
_PUT: Final = """
    INSERT INTO virtual_keys VALUES (?, ?, ?, ?, ?) ON CONFLICT (virtual_key_id) DO UPDATE
    SET disabled = excluded.disabled, expires_at_ms = excluded.expires_at_ms, updated_at_ms = excluded.updated_at_ms"""

_DISABLE: Final = "UPDATE virtual_keys SET disabled = TRUE, updated_at_ms = ? WHERE virtual_key_id = ?"


def by_id(read: Read, virtual_key_id: str) -> VirtualKey | None:
    """Return the virtual key with this id."""
    rows = read(_BY_ID, (virtual_key_id,))
    return _virtual_key_of(read, rows[0]) if rows else None


def by_digest(read: Read, digest: bytes) -> VirtualKey | None:
    """Return the virtual key that this SHA-256 is registered for."""
    owners = read(_OWNER, (digest,))
    return by_id(read, owners[0][0]) if owners else None


def listed(read: Read, after: str, limit: int) -> list[VirtualKey]:
    """Return at most `limit` with ids above `after`, in order."""
    return [_virtual_key_of(read, row) for row in read(_LISTED, (after, limit))]


def version(read: Read) -> int:
    """Return a number that grows with every change."""
    return int(read("SELECT value FROM counters WHERE name = ?", (_VERSION,))[0][0])


def put(connection: apsw.Connection, virtual_key: VirtualKey) -> None:
    """Store it. Raises InvalidField when a hash is another virtual key's."""
    virtual_key_id = virtual_key.virtual_key_id
    row = (virtual_key.disabled, virtual_key.expires_at_ms, virtual_key.created_at_ms, virtual_key.updated_at_ms)
    connection.execute(_PUT, (virtual_key_id, *row))
    connection.execute(_FORGET_HASHES, (virtual_key_id,))
    hashes = [(digest, virtual_key_id, position) for position, digest in enumerate(virtual_key.key_sha256)]
    try:
        connection.executemany(_PUT_HASH, hashes)
    except apsw.ConstraintError as error:
        raise InvalidField.of("key_sha256", "must not be registered for another virtual key") from error
    connection.execute(COUNT_UP, (_VERSION,))


def disable(connection: apsw.Connection, virtual_key_id: str, now_ms: int) -> bool:
    """Disable it. Return whether there was one."""
    connection.execute(_DISABLE, (now_ms, virtual_key_id))
    existed = connection.changes() > 0
    connection.execute(COUNT_UP, (_VERSION,))
    return existed


def delete(connection: apsw.Connection, virtual_key_id: str) -> bool:
    """Delete it and its hashes. Return whether there was one."""
    connection.execute(_FORGET_HASHES, (virtual_key_id,))
    connection.execute("DELETE FROM virtual_keys WHERE virtual_key_id = ?", (virtual_key_id,))
    existed = connection.changes() > 0
    connection.execute(COUNT_UP, (_VERSION,))
    return existed


def _virtual_key_of(read: Read, row: Sequence[Any]) -> VirtualKey:
    virtual_key_id, disabled, expires_at_ms, created_at_ms, updated_at_ms = row
    return VirtualKey(
        virtual_key_id=virtual_key_id,
        key_sha256=tuple(digest for (digest,) in read(_HASHES, (virtual_key_id,))),
        disabled=bool(disabled),
        expires_at_ms=expires_at_ms,
        created_at_ms=created_at_ms,
        updated_at_ms=updated_at_ms,
    )
